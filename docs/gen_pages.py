"""For MkDocs (mkdocs-gen-files): a page for each model, part and module, read from the source.

The source is parsed, not imported, so that the site needs neither JAX nor a device.
"""
import ast
import json
from pathlib import Path
import posixpath
import re
import sys

import mkdocs_gen_files

sys.path.insert(0, str(Path(__file__).parent))
from griffe_prose import plain, prose, sections  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'gen_jax'
MODELS = sorted(p for p in (PACKAGE / 'models').glob('*.py') if p.stem != '__init__')
PARTS = dict(  # group of keys, by the annotation of a parameter: page, title, files with its `make`
    Nets=('net', 'Networks', [p for p in sorted((PACKAGE / 'nets').glob('*.py'))
                              if 'def make(*,' in p.read_text()]),
    Latents=('latents', 'Latents', [PACKAGE / 'latents.py']),
    Optimiser=('optimiser', 'Optimisers', [PACKAGE / 'optimisers.py']),
    DiscriminatorOptions=('discriminator', 'Discriminators',
                          [PACKAGE / 'adversarial' / '__init__.py']))
FAMILIES = {
    'Autoencoders': ('ae', 'denoising', 'colorize', 'contractive', 'sparse', 'rae', 'deepfake',
                     'classifier', 'text'),
    'Variational autoencoders': ('vae', 'cvae', 'iwae', 'ladder', 'tcvae', 'factor', 'mmd', 'vq'),
    'Adversarial models': ('gan', 'infogan', 'vaegan', 'aae', 'bigan')}


# Reading the source


def make_of(file: Path) -> ast.FunctionDef:
    return next(node for node in ast.parse(file.read_text()).body
                if isinstance(node, ast.FunctionDef) and node.name == 'make')


def docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ''


def keys(make: ast.FunctionDef) -> list[tuple[str, str, ast.expr | None]]:
    """Name, type and default of each parameter but the example and the context."""
    a = make.args
    ordinary = list(zip(a.args, [None] * (len(a.args) - len(a.defaults)) + a.defaults))
    found = [*ordinary, *zip(a.kwonlyargs, a.kw_defaults)]
    return [(p.arg, ast.unparse(p.annotation) if p.annotation else '', default)
            for p, default in found if p.arg not in ('example', 'context')]


def changed(default: ast.expr) -> str:
    """What a part's default changes, as `nets.make('conv', width=(16, 32))` changes the width."""
    if not isinstance(default, ast.Call):
        return ''
    named = [f'name={ast.unparse(a)}' for a in default.args]
    named += [f'{k.arg}={ast.unparse(k.value)}' for k in default.keywords]
    return ', '.join(f'`{word}`' for word in named)


# Writing Markdown


def cell(text: str) -> str:
    return re.sub(r'(?<!\\)\|', r'\\|', text)


def table(head: str, rows: list[tuple]) -> str:
    lines = [f'| {head} |', '|' + '---|' * (head.count('|') + 1)]
    return '\n'.join([*lines, *('| ' + ' | '.join(map(cell, row)) + ' |' for row in rows)]) + '\n'


def write(path: str, *blocks: str) -> None:
    with mkdocs_gen_files.open(path, 'w') as file:
        file.write('\n\n'.join(block.strip('\n') for block in blocks if block) + '\n')


# The pages


def losses() -> dict[str, str]:
    """The sections of losses.md by model."""
    found = re.split(r'^## (\w+)\n', (ROOT / 'docs' / 'losses.md').read_text(), flags=re.M)
    return dict(zip(found[1::2], found[2::2]))


def picture(name: str) -> str:
    """The picture of a model that experiments/gallery.py has drawn, and the command of its run."""
    command = json.loads((ROOT / 'docs' / 'pictures' / 'commands.json').read_text()).get(name)
    return f'![{name}](../pictures/{name}.png)\n\n`{command}`' if command else ''


def model_page(file: Path, formulas: dict[str, str]) -> str:
    """Writes the page of a model; its first sentence."""
    name, make = file.stem, make_of(file)
    how, told = sections(ast.get_docstring(make) or '')
    meaning, own, groups = told.get('Args', {}), [], []
    for key, kind, default in keys(make):
        if kind in PARTS:
            page = PARTS[kind][0]
            groups.append((f'[`{key}.*`](../parts/{page}.md)', changed(default)))
        else:
            own.append((f'`model.{key}`', f'`{kind}`' if kind else '',
                        f'`{ast.unparse(default)}`' if default is not None else '',
                        plain(meaning.get(key, ''))))
    about = docstring(file)
    config = ROOT / 'configs' / f'{name}.py'
    write(f'models/{name}.md', f'# {name}', prose(about), picture(name),
          *(['## Loss', formulas[name]] if name in formulas else []),
          '## How it works', prose(how),
          *(['## Keys', table('key | type | default | meaning', own)] if own else []),
          *(['## Parts', 'Each is a group of keys beside `model`. The link shows its keys; the '
             'second column shows the defaults that this model changes.',
             table('group | defaults of this model', groups)] if groups else []),
          *([f'## Config: `configs/{name}.py`', prose(docstring(config)),
             f'All keys: `python -m gen_jax.main --config=configs/{name}.py --describe`']
            if config.exists() else []),
          f'Source: [`gen_jax.models.{name}`](../api/gen_jax.models.{name}.md)')
    return ' '.join(about.split('\n\n')[0].split())


def models() -> None:
    formulas = losses()
    first = {file.stem: model_page(file, formulas) for file in MODELS}
    grouped = dict(FAMILIES)
    if rest := first.keys() - {name for names in FAMILIES.values() for name in names}:
        grouped['Other'] = tuple(sorted(rest))
    blocks, nav = [], ['- [All models](index.md)']
    for family, names in grouped.items():
        names = [name for name in names if name in first]
        blocks += [f'## {family}', table('model | what it is', [
            (f'[`{name}`]({name}.md)', prose(first[name])) for name in names])]
        nav += [f'- {family}', *(f'    - [{name}]({name}.md)' for name in names)]
    write('models/index.md', '# Models', 'Each page is made from the source: the loss, what the '
          'model does, its keys with their defaults, and the commands that its config was tested '
          'with.', *blocks)
    write('models/SUMMARY.md', '\n'.join(nav))


def parts() -> None:
    nav = []
    for annotation, (page, title, files) in PARTS.items():
        blocks = [f'# {title}']
        for file in files:
            make, many = make_of(file), len(files) > 1
            how, told = sections(ast.get_docstring(make) or '')
            rows = [(f'`{page}.{key}`', f'`{kind}`', f'`{ast.unparse(default)}`',
                     plain(told.get('Args', {}).get(key, ''))) for key, kind, default in keys(make)]
            blocks += [f'## {file.stem}' if many else '', prose(docstring(file)), prose(how),
                       table('key | type | default | meaning', rows)]
        if annotation == 'Nets':
            blocks.insert(1, 'The name chooses the architecture, and with it the keys: '
                          '`--config.net.name=vit --config.net.depth=4`. The other groups of '
                          'networks (`discriminator_net`, `encoder_net`, `recognition_net`, '
                          '`top_net`) have the same keys.')
        write(f'parts/{page}.md', *blocks)
        nav.append(f'- [{title}]({page}.md)')
    write('parts/SUMMARY.md', '\n'.join(nav))


def all_keys() -> None:
    """The keys that every config has, with the comments beside them in the source."""
    file = PACKAGE / 'train' / 'config.py'
    text = file.read_text()
    function = next(node for node in ast.parse(text).body
                    if isinstance(node, ast.FunctionDef) and node.name == 'defaults')
    made = next(node for node in ast.walk(function)
                if isinstance(node, ast.Call) and ast.unparse(node.func) == 'ConfigDict')
    lines, rows = text.splitlines(), []

    def comment(value: ast.expr) -> str:
        after = lines[value.end_lineno - 1][value.end_col_offset:]
        return after.partition('#')[2].strip() if re.match(r'[),\s]*#', after) else ''

    def walk(call: ast.Call, path: str) -> None:
        for keyword in call.keywords:
            if keyword.arg in (None, 'model'):
                continue
            value = keyword.value
            if isinstance(value, ast.Call) and ast.unparse(value.func) == 'dict':
                walk(value, f'{path}{keyword.arg}.')
                continue
            shown = ast.unparse(value)
            if found := re.fullmatch(r'config_dict.placeholder\((\w+)\)', shown):
                shown = f'none, or {found[1]}'
            elif isinstance(value, ast.Name):
                shown = 'from the config'
            else:
                shown = f'`{shown}`'
            rows.append((f'`{path}{keyword.arg}`', shown, plain(comment(value))))

    walk(made.args[0], '')
    write('reference/keys.md', '# Keys of every config', 'From `gen_jax/train/config.py`. The keys '
          'of a model are on [its page](../models/index.md), those of a part on the page of the '
          'part. [Training options](../guides/training_options.md) and [Data](../guides/data.md) '
          'explain what they do.', table('key | default | meaning', rows))


def api() -> None:
    nav = []
    for file in sorted(PACKAGE.rglob('*.py')):
        dotted = '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        write(f'api/{dotted}.md', f'::: {dotted}')
        nav.append(f'- [{dotted.removeprefix("gen_jax.")}]({dotted}.md)')
    write('api/SUMMARY.md', '\n'.join(nav))


def moved(source: str, target: str) -> None:
    """A page at the root of the repository among those of docs/, with its links from there."""
    pages = {'README.md': 'index.md', 'CHANGELOG.md': 'changelog.md',
             'CONTRIBUTING.md': 'contributing.md'}

    def link(found):
        to = found[2]
        if to.startswith('docs/'):
            return f'{found[1]}({posixpath.relpath(to, "docs")})'
        if to in pages:
            return f'{found[1]}({pages[to]})'
        return found[1][1:-1] if to in ('LICENSE', 'CITATION.cff') else found[0]

    text = (ROOT / source).read_text()
    write(target, re.sub(r'(!?\[[^\]]*\])\(([^)\s]+)\)', link, text))


models()
parts()
all_keys()
api()
moved('README.md', 'index.md')
moved('CHANGELOG.md', 'changelog.md')
moved('CONTRIBUTING.md', 'contributing.md')
