"""The progress output of a run: rows that fit the terminal."""
import io
import re

import pytest

from conftest import thorough
from gen_jax import record

VAE = {f'{side}/{name}': 123.456789 for side in ('train', 'test')
       for name in ('active_units', 'elbo', 'kl', 'loss', 'recon')}
GAN = {f'train/{name}': .6931472 for name in (
    'accuracy_fake', 'accuracy_real', 'discriminator_loss', 'generator_loss')} | {
    f'test/{name}': 1234567.8 for name in ('pairwise_distance_fake', 'pairwise_distance_real')}
WRONG = {'train/accuracy_real': 1., 'train/accuracy_fake': 1., 'test/pairwise_distance_real': 4.,
         'test/pairwise_distance_fake': .1, 'train/active_units': 0.}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def displayed(monkeypatch, out, columns, named, epochs=300, **options):
    """The output of `epochs` epochs on a terminal of `columns` columns."""
    monkeypatch.setenv('COLUMNS', str(columns))
    progress = record.Progress(epochs, 0, out, **options)
    for epoch in range(1, epochs + 1):
        progress(epoch, named, 123_456.7)
    return out.getvalue()


@pytest.mark.parametrize('named', [VAE, GAN, VAE | GAN | WRONG], ids=['vae', 'gan', 'wrong'])
@pytest.mark.parametrize('columns', thorough([20, 40, 80, 132], 80))
def test_progress_is_one_row_however_narrow_the_terminal(monkeypatch, columns, named):
    before, *rows = displayed(monkeypatch, Terminal(), columns, named).split('\r\x1b[K')
    assert before == '' and len(rows) == 300
    assert rows[-1].count('\n') == 1 and not any('\n' in row for row in rows[:-1])
    assert all(row.startswith(f'epoch {i}/300') for i, row in enumerate(rows, 1))
    assert 0 < max(len(row.rstrip('\n')) for row in rows) < columns


def test_progress_keeps_what_matters_most(monkeypatch):
    row = displayed(monkeypatch, Terminal(), 80, VAE, epochs=1)[4:]
    assert row == 'epoch 1/1  train/loss 123.5  test/loss 123.5  123,457 examples/s  0:00 left\n'
    row = displayed(monkeypatch, Terminal(), 80, GAN, epochs=1)[4:]
    assert row == (
        'epoch 1/1  discriminator_loss 0.6931  generator_loss 0.6931  0:00 left\n')
    alike = GAN | {'test/pairwise_distance_real': 4., 'test/pairwise_distance_fake': .1}
    row = displayed(monkeypatch, Terminal(), 80, alike, epochs=1)[4:]
    assert row == (
        'epoch 1/1  discriminator_loss 0.6931  0:00 left  ! samples are nearly all '
        'alike\n')
    row = displayed(monkeypatch, Terminal(), 80, VAE | WRONG, epochs=1)[4:]
    assert '! the discriminator wins outright' in row and 'loss' not in row


def test_progress_shows_all_metrics_on_a_wide_terminal(monkeypatch):
    row = displayed(monkeypatch, Terminal(), 1000, VAE | GAN, epochs=1)
    assert re.findall(r'(t[a-z]+/\w+) \S+', row) == list(VAE | GAN)
    assert row.endswith('examples/s  0:00 left\n')


def test_progress_without_a_terminal_is_plain_lines_when_due(monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    out = io.StringIO()
    progress = record.Progress(30, 0, out, of=' of 90 points')
    for epoch in range(1, 31):
        progress(epoch, VAE, 1e5, due=epoch % 10 == 0)
    progress.end()
    lines = out.getvalue().splitlines()
    assert [line.split('  ')[0] for line in lines] == [
        f'epoch {epoch}/30 of 90 points' for epoch in (10, 20, 30)]
    assert max(map(len, lines)) < 80 and '\r' not in out.getvalue()


def test_output_after_a_row_begins_on_a_new_line(monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    out = Terminal()
    progress = record.Progress(3, 0, out)
    progress(1, VAE, 1e5)
    progress.end()
    progress.end()  # a second call does nothing
    assert out.getvalue().endswith(' left\n') and out.getvalue().count('\n') == 1
