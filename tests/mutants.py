"""Whether the tests notice: changes one line of the code at a time and runs them on that copy.

    python tests/mutants.py [--all] [--only=3,14] [--out=FILE]

Each mutant first meets the test files that should notice, then, where these pass, every test of
`./run.sh test`; with --all, those of `./run.sh test all`.  Prints a table as it goes, and at the
end how many were caught.  Most take some seconds; one that the named files miss takes minutes.
"""
import argparse
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """`old`, which is there once, becomes `new` in a file of gen_jax; tests: where to look first,
    as pytest is given them."""
    file: str
    old: str
    new: str
    tests: str


MODELS = 'test_models.py'
VAES, GANS = 'test_vae_family.py', 'test_gan_family.py'
MUTANTS = [
    Mutant(*m) for m in (
        # the models
        ('models/aae.py', 'lost + adversarial_weight * value', 'lost - adversarial_weight * value',
         f'{GANS} test_adversarial.py'),
        ('models/ae.py', 'value = error(y, batch.x).mean()', 'value = -error(y, batch.x).mean()',
         f'{MODELS} -k ae'),
        ('models/bigan.py', 'discriminator.swapped_loss(state, real, fake',
         'discriminator.swapped_loss(state, fake, real', f'test_adversarial.py {MODELS} -k bigan'),
        ('models/classifier.py', "if encoder == 'frozen' else ()",
         "if encoder == 'finetuned' else ()", f'{MODELS} -k classifier'),
        ('models/colorize.py', '(x[..., 2] - luma) / 1.772, (x[..., 0] - luma) / 1.402',
         '(x[..., 2] - luma) / 1.402, (x[..., 0] - luma) / 1.772', f'{MODELS} -k "chroma or colo"'),
        ('models/contractive.py', 'loss=away + penalty_weight * size',
         'loss=away - penalty_weight * size', f'{MODELS} -k contractive'),
        ('models/cvae.py', 'loss = recon + beta * model.kl_cost', 'loss = recon - model.kl_cost',
         f'test_latents.py {MODELS} -k cvae'),
        ('models/deepfake.py', 'minval=-1., maxval=1.', 'minval=0., maxval=1.',
         f'{MODELS} -k deepfake'),
        ('models/denoising.py', 'x + noise_level * jax.random', 'x + noise_level ** 2 * jax.random',
         f'{MODELS} -k "noise or denoising"'),
        ('models/factor.py', 'independent=True', 'independent=False', f'{VAES} -k permuted'),
        ('models/gan.py', 'discriminator.loss_and_metrics(state, batch, fake,',
         'discriminator.loss_and_metrics(state, fake, batch,', 'test_game.py test_adversarial.py'),
        ('models/infogan.py', 'entropy - category_loss - lost', 'entropy + category_loss - lost',
         f'{GANS} -k infogan'),
        ('models/iwae.py', 'share ** 2 * of_codes', 'share * of_codes',
         'test_likelihood.py -k doubly'),
        ('models/ladder.py', 'log_q + densities.normal_log_prob(z2, *q)',
         'log_q - densities.normal_log_prob(z2, *q)', f'{VAES} -k ladder'),
        ('models/mmd.py', '(alpha + mmd_weight - 1) * mmd', '(alpha + mmd_weight + 1) * mmd',
         f'{VAES} -k mmd'),
        ('models/rae.py', 'beta / 2 * size', 'beta * size', f'{MODELS} -k rae'),
        ('models/sparse.py', 'bernoulli_kl(target_activation, z.mean(0))',
         'bernoulli_kl(target_activation, z.mean(1))', f'{MODELS} -k sparse'),
        ('models/tcvae.py', '(size - 1) / size / max(n - 1, 1)', '(size - 1) / size / max(n, 1)',
         f'{VAES} -k aggregate'),
        ('models/text.py', 'length = counts.sum(1)', 'length = counts.sum(1) - 1', 'test_text.py'),
        ('models/vae.py', 'recon + beta * model.kl_cost', 'recon + 2 * beta * model.kl_cost',
         f'test_latents.py {MODELS} -k vae'),
        ('models/vaegan.py', 'features(*first_layers, x)) / 2', 'features(*first_layers, x))',
         f'{GANS} -k vaegan'),
        ('models/vq.py', 'squared_error(z, losses.stop_gradient(e))',
         'squared_error(losses.stop_gradient(z), e)', f'{VAES} test_game.py {MODELS} -k vq'),
        # what they share
        ('adversarial/__init__.py', 'noise * left * jax.random', 'noise * jax.random',
         'test_adversarial.py -k noise'),
        ('adversarial/rules.py', 'losses.softplus(fake - real.mean())',
         'losses.softplus(real.mean() - fake)', 'test_adversarial.py -k losses'),
        ('checkpoint.py', 'key=lambda path: int(path.name), reverse=True',
         'key=lambda path: int(path.name)', 'test_resume.py -k newest'),
        ('checkpoint.py', 'if crc != sums[name]:', 'if False:', 'test_damage.py -k flipped'),
        ('data/ranges.py', 'x / FULL[meaning]', 'x / (FULL[meaning] + 1)', 'test_data.py'),
        ('data/points.py', 'turn + jnp.pi * mode', 'turn - jnp.pi * mode / 2', 'test_points.py'),
        ('densities/gaussians.py', '(z - mean) ** 2 * jnp.exp(-logvar)',
         '(z - mean) ** 2 * jnp.exp(logvar)', 'test_densities.py'),
        ('densities/priors.py', 'losses.reparameterise(keys[1], mean',
         'losses.reparameterise(keys[0], mean', 'test_densities.py'),
        ('game.py', 'ema[name], 1 - kept)', 'ema[name], kept)', 'test_game.py'),
        ('game.py', "before if update_order == 'simultaneous'",
         "before if update_order != 'simultaneous'", 'test_adversarial.py -k moves'),
        ('loop.py', 'first + fine.argmin()', 'first + fine.argmax()', 'test_faults.py -k skipped'),
        ('loop.py', 'evaluate(state, examples, noise_of_model), rows < size',
         'evaluate(state, examples, noise_of_model), rows <= size', 'test_data.py -k once'),
        ('losses.py', 'jnp.exp(logvar) - 1 - logvar', 'jnp.exp(logvar) - 1 + logvar',
         'test_losses.py'),
        ('losses.py', 'mean + jnp.exp(logvar / 2) *', 'mean + jnp.exp(logvar) *', 'test_losses.py'),
        ('main.py', "print(f'gen_jax: {e}', file=sys.stderr)\n        return 1",
         "print(f'gen_jax: {e}', file=sys.stderr)\n        return 0", 'test_main.py -k bad_input'),
        ('main.py', 'if len(rest) > 1:', 'if len(rest) > 2:', 'test_main.py -k bad_input'),
        ('metrics/likelihood.py', 'jnp.log(k) - lax.scan', '-lax.scan', 'test_likelihood.py'),
        ('metrics/samples.py', 'squared_distance - 2 * np.linalg.norm',
         'squared_distance - np.linalg.norm', 'test_samples.py'),
        ('nets/layers.py', 'nn.leaky_relu(x, .2)', 'nn.leaky_relu(x, .1)', 'test_adversarial.py'),
        ('nets/layers.py', 'layer=1, instance=channels', 'layer=channels, instance=1',
         'test_adversarial.py -k norm'),
        ('ops.py', 'return total // 2, total - total // 2', 'return total - total // 2, total // 2',
         'test_ops.py'),
        ('ops.py', 'window(i, j, i * b + j)', 'window(i, j, j * b + i)', 'test_ops.py'),
        ('parallel.py', '-1)[i], jax.random.fold_in(key, i)', '-1)[i], key', 'test_parallel.py'),
        ('parallel.py', 'shape.index(max(shared))', 'shape.index(min(shared))', 'test_parallel.py'),
        ('record.py', "of('test/pairwise_distance_fake') < .1 *",
         "of('test/pairwise_distance_fake') < 1. *", f'{GANS} -k alarms'),
        ('record.py', "if line['step'] <= step]", "if line['step'] < step]", 'test_resume.py'),
        ('samplers.py', 'np.float32(sd) + np.float32(mean)', 'np.float32(sd) - np.float32(mean)',
         'test_samplers.py'),
        ('samplers.py', 'return y[:, ::-1], logdet', 'return y, logdet', 'test_samplers.py'),
        ('sweep/groups.py', 'max(point[LATENT]', 'min(point[LATENT]', 'test_sweep.py'),
        ('sweep/traced.py', '% latent < used', '% latent <= used', 'test_sweep.py'),
        ('train/faults.py', 'if received and number == signal.SIGINT', 'if received and not number',
         'test_faults.py'),
        ('train/run.py', 'if config.batch_size > size:', 'if config.batch_size > size + 1:',
         'test_main.py'),
        ('evaluation.py', "summary.get('metrics', {}) | measured", 'measured',
         'test_main.py -k evaluate'),
        ('evaluation.py', "mode == 'reconstruct' and not", "mode == 'sample' and not",
         'test_main.py -k mode'),
        ('types.py', "ema['buffers'] for name", "self.buffers[name] for name", 'test_game.py'),
        ('types.py', 'every: int = 1', 'every: int = 2', 'test_game.py'),
        ('latents.py', 'axis=0) - jnp.log(k)', 'axis=0) + jnp.log(k)',
         f'{VAES} test_likelihood.py'),
        ('latents.py', 'self.log_p - self.nll - self.log_q', 'self.log_p - self.nll + self.log_q',
         f'{VAES} test_likelihood.py'),
        ('parts.py', 'make(**current | keys)', 'make(**keys | current)', 'test_nets.py'),
        ('parts.py', "current = make(name=keys['name']).spec.keys", 'current = current',
         'test_nets.py'),
        ('optimisers.py', 'weight_decay=weight_decay', 'weight_decay=2 * weight_decay',
         'test_nets.py -k adam'),
        ('optimisers.py', 'cosine_decay_schedule(learning_rate, schedule_steps)',
         'cosine_decay_schedule(learning_rate, 2 * schedule_steps)', 'test_nets.py -k adam'))
]


def copied(folder: Path) -> Path:
    """A copy of what is needed to test."""
    copy = folder / 'gen_jax'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('.git', '.venv', 'runs', '*.egg-info',
                                                              '__pycache__', '.pytest_cache'))
    return copy


def caught(copy: Path, *flags: str) -> bool:
    """Whether these tests fail there.  Raises where they cannot run."""
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-x', *flags], cwd=copy,
                          capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 2, 5):  # 2: interrupted by an error of importing
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode in (1, 2)


def first(mutant: Mutant) -> list[str]:
    files, _, chosen = mutant.tests.partition(' -k ')
    return [f'tests/{name}' for name in files.split()] + (
        ['-k', chosen.strip('"')] if chosen else [])


def main(only: list[int], every: bool, out: Path | None) -> int:
    result, lines = [], []

    def say(line):
        lines.append(line)
        print(line, flush=True)
        if out:
            out.write_text('\n'.join(lines) + '\n')

    say('| mutant | file | line | becomes | caught by | seconds |\n|---|---|---|---|---|---|')
    for number in only or range(len(MUTANTS)):
        mutant, since = MUTANTS[number], time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            copy = copied(Path(folder))
            file = copy / 'gen_jax' / mutant.file
            text = file.read_text()
            assert text.count(mutant.old) == 1, f'{mutant.old!r} is not in {mutant.file} once'
            file.write_text(text.replace(mutant.old, mutant.new))
            by = mutant.tests if caught(copy, '-n0', *first(mutant)) else (
                'all' if every else 'test') if caught(copy, *['--all'] * every) else ''
        result.append(bool(by))
        displayed = (words.replace('\n', ' ').replace('|', '\\|') for words in mutant[1:3])
        say(f'| {number} | {mutant.file} | `{"` | `".join(displayed)}` | {by or "nothing"} | '
            f'{time.monotonic() - since:.0f} |')
    say(f'\n{sum(result)} of {len(result)} caught')
    return sum(result) < len(result)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--all', action='store_true', help='ask the tests marked full as well')
    p.add_argument('--only', default='', help='the numbers of some mutants')
    p.add_argument('--out', type=Path, help='a file for the table')
    a = p.parse_args()
    sys.exit(main([int(n) for n in a.only.split(',') if n], a.all, a.out))
