"""Several processes on this machine give the results of one, write one run, and end together."""
import json
import signal
import socket
import subprocess
import sys
import time

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from conftest import ROOT, Result, virtual_devices
from gen_jax import parallel, record, train, evaluation
from gen_jax.types import BadInput

TWO = virtual_devices(2)
SMALL = ('--config.data.limit=256', '--config.batch_size=32', '--config.net.width=(32,)',
         '--config.model.latent=4', '--config.net.name=mlp', '--config.eval.samples=4',
         '--config.eval.batch_size=40', '--config.eval.every=1', '--config.epochs=2')


def free_port():
    """A port on which nothing listens."""
    with socket.socket() as s:
        s.bind(('', 0))
        return s.getsockname()[1]


@pytest.fixture
def start(environment):
    """start(n, *flags) -> the n processes of the command line that connect to each other, or those
    of `indices`.
    """
    begun = []

    def start(n, *flags, env=None, patience=60, local=lambda i: (), indices=None):
        port, env = free_port(), environment | virtual_devices(1) | (env or {})
        processes = [subprocess.Popen(
            [sys.executable, '-m', 'gen_jax.main', *flags, *local(i), f'--patience={patience}',
             f'--coordinator=localhost:{port}', f'--process={i}', f'--processes={n}'],
            cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) for i in indices or range(n)]
        begun.extend(processes)
        return processes

    yield start
    for process in begun:
        process.kill()


def ends(processes, timeout=120) -> list[Result]:
    values = [process.communicate(timeout=timeout) for process in processes]
    return [Result(process.returncode, *outputs) for process, outputs in zip(processes, values)]


def succeeds(processes) -> str:
    """The output of the first process; the others print nothing."""
    results = ends(processes)
    assert [(r.code, r.err) for r in results] == [(0, '')] * len(results), results
    assert not any(r.out for r in results[1:]), results
    return results[0].out


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def config_of(workdir, **changed):
    """The config of the run in workdir, for this process with its one device."""
    assert jax.device_count() == 1
    config = ConfigDict(json.loads((workdir / 'config.json').read_text()))
    config.update(changed)
    return config


def single(workdir, new_workdir, **changed):
    train.train(config_of(workdir, **changed), new_workdir)


def same_run(one, other, atol=2e-5):
    """Metrics of every epoch and the final state are the same up to float tolerance."""
    for ours, theirs in zip(lines(one), lines(other), strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-3, atol=atol)
    ours, theirs = (train.load(workdir)[1] for workdir in (one, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=atol), ours, theirs)


def check_files(workdir, epochs, events=1):
    """Every file exists exactly once."""
    assert [line['epoch'] for line in lines(workdir)] == list(range(1, epochs + 1))
    assert json.loads((workdir / 'summary.json').read_text())['epochs'] == epochs
    assert len(list(workdir.glob('events.*'))) == events
    assert (workdir / 'images' / 'curves.png').exists() and not list(workdir.rglob('*.part'))
    assert {int(p.name) for p in (workdir / 'checkpoints').iterdir()} == {
        8 * epoch for epoch in range(max(1, epochs - 2), epochs + 1)}


def test_two_processes_train_an_autoencoder_as_one_does(start, tmp_path):
    output = succeeds(start(2, '--config=configs/ae.py', *SMALL, '--config.parallel=shard_map',
                            f'--workdir={tmp_path}/two'))
    assert 'epoch 2/2' in output and 'pictures: ' in output
    check_files(tmp_path / 'two', 2)
    single(tmp_path / 'two', tmp_path / 'one', parallel='jit')
    same_run(tmp_path / 'two', tmp_path / 'one')


@pytest.mark.full
def test_one_process_begins_a_vae_two_shard_it_and_one_ends_it(start, tmp_path):
    """Two processes with two devices each also evaluate it."""
    flags = ('--config=configs/vae.py', *SMALL, '--config.parallel=fsdp', '--config.eval.k=10',
             '--config.eval.metrics=nll,frechet_distance')
    workdir, one = tmp_path / 'two', tmp_path / 'one'
    assert succeeds(start(1, *flags, '--config.epochs=1', f'--workdir={workdir}'))
    output = succeeds(start(2, *flags, f'--workdir={workdir}', env=TWO))
    assert 'going on after epoch 1' in output
    check_files(workdir, 2, events=2)
    assert 'test/nll_se' in succeeds(start(2, *flags, '--mode=evaluate', f'--workdir={workdir}',
                                           env=TWO))
    measured = train.summary(workdir)['metrics']
    evaluation.run_mode(config_of(workdir), workdir, 'evaluate')
    again = train.summary(workdir)['metrics']
    assert measured.keys() == again.keys()
    np.testing.assert_allclose(list(measured.values()), list(again.values()), rtol=1e-4)
    single(workdir, workdir, epochs=3)
    check_files(workdir, 3, events=3)
    single(workdir, one, epochs=3, parallel='jit')
    same_run(workdir, one)


@pytest.mark.full
def test_four_processes_train_a_gan_as_one_does(start, tmp_path):
    succeeds(start(4, '--config=configs/gan.py', *SMALL, f'--workdir={tmp_path}/four'))
    check_files(tmp_path / 'four', 2)
    single(tmp_path / 'four', tmp_path / 'one')
    same_run(tmp_path / 'four', tmp_path / 'one')


def wait_for(processes, epochs, workdir):
    """Waits for `epochs` epochs."""
    while not (workdir / 'metrics.jsonl').exists() or len(lines(workdir)) < epochs:
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(.1)


@pytest.mark.full
def test_one_of_two_receives_sigterm_and_both_save_and_stop(start, tmp_path):
    workdir = tmp_path / 'run'
    processes = start(2, '--config=configs/vae.py', *SMALL, f'--workdir={workdir}',
                      '--config.epochs=100000')
    wait_for(processes, 2, workdir)
    processes[1].send_signal(signal.SIGTERM)
    output = succeeds(processes)
    assert 'stopped by another process after step' in output.splitlines()[-1]
    epochs = len(lines(workdir))
    single(workdir, workdir, epochs=epochs + 1)
    check_files(workdir, epochs + 1, events=2)


@pytest.mark.full
def test_two_processes_pass_over_a_damaged_checkpoint(start, tmp_path):
    flags = '--config=configs/vae.py', *SMALL, f'--workdir={tmp_path}'
    succeeds(start(2, *flags))
    files = [p for p in (tmp_path / 'checkpoints' / '16').rglob('*') if p.is_file()]
    file = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 8
    file.write_bytes(content)
    output = succeeds(start(2, *flags))
    assert 'checkpoint 16 cannot be read (default/' in output and 'going on after epoch 1' in output
    check_files(tmp_path, 2, events=2)


@pytest.mark.full
@pytest.mark.parametrize('killed', [0, 2])  # the others connect to the first
def test_one_of_three_dies_the_others_end_and_all_go_on(start, tmp_path, killed):
    workdir, one = tmp_path / 'run', tmp_path / 'one'
    flags = '--config=configs/vae.py', *SMALL, '--config.batch_size=30', f'--workdir={workdir}'
    processes = start(3, *flags, '--config.epochs=100000', patience=20)
    wait_for(processes, 3, workdir)
    processes[killed].send_signal(signal.SIGKILL)
    start_time = time.monotonic()
    results = ends(processes)
    assert time.monotonic() - start_time < 35  # --patience and a margin
    assert results.pop(killed).code == -signal.SIGKILL
    for result in results:  # JAX ends those that wait for the first, or in saving
        by_gen_jax = 'gen_jax: the processes can no longer' in result.err
        assert result.code and (by_gen_jax or 'another task died' in result.err), results
        assert not by_gen_jax or 'goes on from the newest checkpoint' in result.err
    epochs = len(lines(workdir)) + 1
    assert 'going on after epoch' in succeeds(start(3, *flags, f'--config.epochs={epochs}'))
    check_files(workdir, epochs, events=2)
    single(workdir, one, epochs=epochs)
    same_run(workdir, one)


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    image = np.zeros((1, 2, 2, 1))

    def exit_early(folder):
        log = record.Record(folder, 0)
        log.metrics(1, 1, {'train/loss': 1.})
        log.close()
        record.write_json(folder / 'summary.json', {})
        return [record.pictures(folder / 'images' / 'samples.png', {'samples': image}, 1),
                record.texts(folder / 'samples.txt', {'samples': ['a']}),
                record.curves(folder / 'images' / 'curves.png', record.read_lines(log.file))]

    folders = tmp_path / 'first', tmp_path / 'other'
    for i, folder in enumerate(folders):
        folder.mkdir()
        monkeypatch.setattr(jax, 'process_index', lambda i=i: i)
        assert len(exit_early(folder)) == 3
    assert len(list(folders[0].rglob('*.*'))) == 6 and not list(folders[1].iterdir())


@pytest.mark.parametrize('args, words', [
    ((None, 1, 2), ['--coordinator']),
    (('localhost:1', None, None), ['--process, --processes']),
    (('localhost', 0, 2), ['HOST:PORT', "'localhost'"]),
    (('localhost:x', 0, 2), ['HOST:PORT', "'localhost:x'"]),
    (('localhost:1', 2, 2), ['less than --processes=2', 'not 2']),
    (('localhost:1', -1, 2), ['counts from 0', 'not -1']),
    (('localhost:99999', 0, 2), ['99999'])])
def test_processes_that_cannot_be_are_refused(args, words):
    with pytest.raises(BadInput) as values:
        parallel.join(*args)
    assert all(word in str(values.value) for word in words), values.value


def test_port_in_use_is_refused():
    with socket.create_server(('', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f'port {port} .*in use'):
            parallel.join(f'localhost:{port}', 0, 2)


def refused(results, *words):
    for result in results:
        assert result.code == 1 and len(result.err.splitlines()) == 1, results
        assert result.err.startswith('gen_jax: ') and all(word in result.err for word in words)


@pytest.mark.full
def test_processes_that_do_not_come_are_waited_for_no_longer(start, tmp_path):
    """Neither by the first process, which the others connect to, nor by another."""
    flags = '--config=configs/vae.py', f'--workdir={tmp_path}/run'
    processes = [p for i in range(2) for p in start(2, *flags, patience=3, indices=[i])]
    refused(ends(processes), 'not all processes have come within 3 s', '--patience')
    assert not (tmp_path / 'run').exists()


def test_missing_cluster_is_reported(run_main, tmp_path):
    result = run_main('--config=configs/vae.py', '--distributed', f'--workdir={tmp_path}/run')
    refused([result], 'no TPU pod or Slurm', '--coordinator=HOST:PORT')
    assert not (tmp_path / 'run').exists()


@pytest.mark.full
def test_what_one_process_finds_all_report(start, tmp_path):
    """A batch that they cannot share, and a workdir that they do not share."""
    flags = '--config=configs/vae.py', *SMALL
    refused(ends(start(2, *flags, '--config.batch_size=33', f'--workdir={tmp_path}/run')),
            'batch 33', '2 devices')
    assert not (tmp_path / 'run').exists()
    results = ends(start(2, *flags, local=lambda i: [f'--workdir={tmp_path}/{i}']))
    refused(results, f'{tmp_path}/1', 'share')
