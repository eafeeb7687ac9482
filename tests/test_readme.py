"""What the documentation shows works: its commands, its examples, and the variant it adds."""
import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT
import gen_jax
from gen_jax import optimisers
from gen_jax.types import Batch

PAGES = 'README.md', 'docs/getting_started.md'
QUICK = ['--config.epochs=2', '--config.eval.every=2']  # of trainings; the last of two counts


def commands(page: str) -> list[str]:
    """The commands of a page that start Python, without those that have words to fill in."""
    text = (ROOT / page).read_text().replace('\\\n', ' ')
    lines = '\n'.join(re.findall(r'```\n(.*?)```', text, re.S)).split('\n')
    return [line for line in lines if line.startswith('python ') and not re.search(
        r'NAME|PYTHON|=DIR', line)]


def test_examples_in_docstrings_give_what_they_show():
    attempted = 0
    for module in pkgutil.walk_packages(gen_jax.__path__, 'gen_jax.'):
        result = doctest.testmod(importlib.import_module(module.name))
        assert not result.failed, module.name
        attempted += result.attempted
    assert attempted > 20


@pytest.mark.full
@pytest.mark.parametrize('page', PAGES)
def test_every_command_of_a_page_works_in_its_order(page, python, tmp_path, request):
    for folder in 'configs', 'experiments':
        (tmp_path / folder).symlink_to(ROOT / folder)
    lines = commands(page)
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)[1:]
        if '--mode' not in line and '--describe' not in line and '--list' not in line:
            words += QUICK
        if ':mnist' in line:
            words.append(f'--config.data.dir={request.getfixturevalue("mnist_dir")}')
        done = python(*words, cwd=tmp_path, timeout=300)
        assert (done.code, done.err) == (0, ''), (line, done)
        assert done.out


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / 'README.md').read_text()
    assert text.count('\n') <= 150
    for page in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').rglob('*.md')):
        for link in re.findall(r'\]\(([\w./-]+\.(?:md|png|cff)|LICENSE)(?:#[\w-]+)?\)',
                               page.read_text()):
            generated = link.removeprefix('../').startswith(('models/', 'parts/', 'reference/'))
            assert generated or (page.parent / link).exists(), (page.name, link)


def test_the_version_is_the_same_wherever_it_stands():
    version = re.search(r'^version = (.+)$', (ROOT / 'setup.cfg').read_text(), re.M)[1]
    for file, words in {'README.md': f'version = {{{version}}}',
                        'CITATION.cff': f'\nversion: {version}',
                        'CHANGELOG.md': f'## {version}\n'}.items():
        assert words in (ROOT / file).read_text(), file


@pytest.mark.full
def test_the_site_is_built_without_a_warning(tmp_path):
    for package in 'mkdocs', 'material', 'mkdocstrings', 'mkdocs_gen_files':
        if not importlib.util.find_spec(package):
            pytest.skip(f'{package} is not installed; pip install ".[docs]"')
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet',
                           f'--site-dir={tmp_path}'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in 'index', 'getting_started', 'models/vae', 'naming':
        text = (tmp_path / f'{page}.html').read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', text), page


@pytest.mark.full
def test_the_variant_in_the_documentation_learns():
    blocks = re.findall(r'```python\n# (gen_jax/models|configs)/(\w+)\.py.*?\n(.*?)```',
                        (ROOT / 'docs' / 'extending.md').read_text(), re.S)
    (model, config), names = ([code for _, _, code in blocks], {name for _, name, _ in blocks})
    module = types.ModuleType(names.pop())
    exec(model, module.__dict__)
    compile(config, 'config', 'exec')
    assert not names and f"defaults('{module.__name__}'" in config
    batch = Batch(jnp.float32(np.random.default_rng(0).uniform(size=(16, 4, 4, 1))))
    robust = module.make(batch, latent=16, optimiser=optimisers.make(learning_rate=1e-2))
    state, step = jax.jit(robust.init)(jax.random.key(0), batch), jax.jit(robust.step)
    before = robust.evaluate(state, batch, None)['loss']
    for i in range(200):
        state, _ = step(state, batch, jax.random.key(i))
    after = robust.evaluate(state, batch, None)['loss']
    assert after.shape == (16,) and after.mean() < .2 * before.mean()
