"""Each module imports only those before it in the design, and no pickle comes in anywhere."""
import ast
import pkgutil

import pytest

from conftest import ROOT
from gen_jax import models

ORDER = ('types', 'parts', 'losses', 'ops', 'nets', 'optimisers', 'densities', 'latents',
         'adversarial', 'game',
         'models', 'data', 'loop', 'parallel', 'checkpoint', 'samplers', 'metrics', 'record',
         'train', 'evaluation', 'sweep', 'help', 'main')
PICKLES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
SOURCES = sorted((ROOT / 'gen_jax').rglob('*.py'))
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
MODELS = sorted(m.name for m in pkgutil.iter_modules(models.__path__))


def part(path):
    """The name in ORDER of a file of the package; '' of the package itself."""
    top = path.relative_to(ROOT / 'gen_jax').parts[0].removesuffix('.py')
    return '' if top == '__init__' else top


def imports(source):
    """Dotted names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = '.' * node.level + (node.module or '')
            names |= {f'{base}.{alias.name}' for alias in node.names}
    return names


def ours(names):
    """The names in ORDER among dotted names of our package."""
    return {name.split('.')[1] for name in names if name.split('.')[0] == 'gen_jax'
            and len(name.split('.')) > 1}


def violations(name, source):
    """What a module called `name` in the design imports although it should not."""
    result = imports(source)
    rank = ORDER.index(name)
    wrong = {f'gen_jax.{other}' for other in ours(result)
             if other != name and (other not in ORDER or ORDER.index(other) > rank)}
    tops = {dotted.split('.')[0] for dotted in result}
    wrong |= tops & {'flax'} if name != 'nets' else set()
    if rank < ORDER.index('train'):
        wrong |= tops & {'ml_collections', 'absl'}
    wrong |= {dotted for dotted in result if dotted.startswith('.')}
    return wrong


def pickles(source):
    """Imports that unpickle, and calls with allow_pickle other than False."""
    wrong = {name for name in imports(source) if name.split('.')[0] in PICKLES}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == 'allow_pickle' \
                and ast.unparse(node.value) != 'False':
            wrong.add('allow_pickle')
    return wrong


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_imports_only_those_before_it(path):
    if part(path):
        assert violations(part(path), path.read_text()) == set()
    else:
        assert imports(path.read_text()) == set()


def test_every_module_of_the_design_is_there_and_no_other():
    assert {part(p) for p in SOURCES} - {''} == set(ORDER)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.name)
def test_config_imports_only_train(path):
    assert imports(path.read_text()) <= {'gen_jax.train.defaults', 'gen_jax.train.POINTS'}


@pytest.mark.parametrize('path', [p for p in SOURCES if part(p) == 'models'], ids=lambda p: p.name)
def test_models_do_not_import_each_other(path):
    assert not {n for n in imports(path.read_text()) if n.startswith('gen_jax.models')}


@pytest.mark.parametrize('path', SOURCES + CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled(path):
    assert pickles(path.read_text()) == set()


@pytest.mark.parametrize('name, source, caught', [
    ('losses', 'from gen_jax import nets', 'gen_jax.nets'),
    ('losses', 'def f():\n    import gen_jax.train', 'gen_jax.train'),
    ('game', 'from gen_jax.models.vae import make', 'gen_jax.models'),
    ('types', 'from gen_jax.helpers import x', 'gen_jax.helpers'),
    ('models', 'from flax import linen as nn', 'flax'),
    ('train', 'import flax.linen', 'flax'),
    ('record', 'from ml_collections import ConfigDict', 'ml_collections'),
    ('loop', 'from absl import flags', 'absl'),
    ('game', 'from .train import train', '.train.train')])
def test_checker_catches_a_planted_import(name, source, caught):
    assert violations(name, source) == {caught}


def test_checker_allows_what_the_design_allows():
    assert violations('nets', 'from gen_jax import losses, ops\nfrom flax import linen') == set()
    assert violations('data', 'from gen_jax.data import tfds_sets') == set()
    assert violations('main', 'from absl import app\nfrom gen_jax import train') == set()


@pytest.mark.parametrize('source', [
    'import pickle', 'from joblib import load', 'np.load(f, allow_pickle=True)',
    'np.load(f, allow_pickle=flag)'])
def test_checker_catches_a_planted_pickle(source):
    assert pickles(source)
    assert not pickles('np.load(f, allow_pickle=False)')


def test_importing_computes_nothing(python, tmp_path):
    """Or a process could not choose its devices afterwards, nor join others, nor fork."""
    (tmp_path / 'see.py').write_text('\n'.join(
        [*(f'import gen_jax.models.{name}' for name in MODELS), 'import gen_jax.main, jax',
         "jax.config.update('jax_platforms', 'none_such')", 'jax.devices()']))
    done = python(tmp_path / 'see.py')
    assert "Unable to initialize backend 'none_such'" in done.err
