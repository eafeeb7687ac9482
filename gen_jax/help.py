"""What --help, --list and --describe print, from docstrings and signatures, at 80 columns."""
import ast
import inspect
from pathlib import Path
import re
import textwrap
from typing import Callable

from ml_collections import ConfigDict

from gen_jax import metrics, nets, parts, samplers, train
from gen_jax.data import builtin


def folded(doc: str) -> str:
    """A docstring at 80 columns: paragraphs filled, indented commands continued by backslashes."""
    paragraphs = re.split(r'\n\s*\n', inspect.cleandoc(doc))
    return '\n\n'.join(commands(p) if p.startswith(' ') else filled(p) for p in paragraphs)


def commands(paragraph: str) -> str:
    """Keeps the indented lines of a paragraph; long ones continue after a backslash."""
    lines = re.sub(r' \\\n +', ' ', paragraph).splitlines()
    return '\n'.join(filled(line, re.match(' +', line)[0] + 4 * ' ', 77).replace('\n', ' \\\n')
                     for line in lines)


def filled(text: str, more: str = '', width: int = 79) -> str:
    """Fills text to `width` columns; every line after the first begins with `more`."""
    return textwrap.fill(text, width, subsequent_indent=more, break_long_words=False,
                         break_on_hyphens=False)


def meanings(f: Callable) -> dict[str, str]:
    """What the section Args of a docstring says of each key."""
    section = re.search(r'^Args:\n((?:    .*\n?|\n)*)', inspect.getdoc(f) or '', re.M)
    if not section:
        return {}
    entries = re.findall(r'^    ([\w.]+): ((?:.*\n?)(?:        .*\n?)*)', section[1], re.M)
    return {key: ' '.join(text.split()) for key, text in entries}


def summary(doc: str | None) -> str:
    """The first sentence of a docstring, of its text before a colon that ends the paragraph."""
    return ' '.join((doc or '').partition('\n\n')[0].split())


def listed(title: str, entries: dict[str, str]) -> str:
    """A line each, cut off at 80 columns."""
    wide = 2 + max(map(len, entries))
    return '\n'.join([f'{title}:', *(
        f'  {name:{wide}}' + textwrap.shorten(text, 76 - wide, placeholder=' ...')
        for name, text in sorted(entries.items()))])


def listing(configs: Path) -> str:
    """Models with a config, nets, data sets, metrics and samplers, a line each."""
    docs = {p.stem: ast.get_docstring(ast.parse(p.read_text())) for p in configs.glob('*.py')}
    sets = builtin.SETS | builtin.SIZED
    return '\n\n'.join([
        listed('Models, --config=NAME[:DATASET]', {k: summary(v) for k, v in docs.items()}),
        listed('Nets, --config.net.name=NAME', {
            name: summary(parts.find_module(nets, 'net', name).__doc__) for name in nets.NAMES}),
        listed('Data sets, --config=MODEL:NAME, or any image set of TFDS', {
            name: summary(getattr(f, 'func', f).__doc__) for name, f in sets.items()}),
        listed('Metrics, --mode=evaluate --config.eval.metrics=NAME,NAME', {
            name: summary(m.numbers.__doc__) for name, m in metrics.MEASURES.items()}),
        listed('Samplers, --mode=sample --config.sampler=NAME', {
            name: summary(getattr(samplers, name).__doc__) if name != 'prior' else
            "The model's own prior." for name in samplers.SAMPLERS})])


def known_meanings(config: ConfigDict) -> dict[str, str]:
    """What each key of a config means, by the docstrings of the functions that take them."""
    make = train.find_model(config.model.name).make
    known = meanings(train.defaults) | {'model.name': 'the model, a file of gen_jax/models.'}
    groups = {'model': make}
    for group, part in parts.find_parts(make).items():
        groups[group] = part.spec.make
        if group.endswith('net'):
            name = config[group].name
            groups[group] = parts.find_module(nets, 'net', name, nets.OTHERS).make
            known[f'{group}.name'] = 'the net, a file of gen_jax/nets.'
    return known | {f'{group}.{key}': text for group, f in groups.items()
                    for key, text in meanings(f).items()}


def describe(config: ConfigDict) -> str:
    """Every key of a config with its value and meaning: the model's and its parts', then others."""
    known, lines = known_meanings(config), []
    make = train.find_model(config.model.name).make
    first = ['model', *parts.find_parts(make)]
    keys = train.leaves(config.to_dict())
    for key in sorted(keys, key=lambda key: (
            [*first, key.partition('.')[0]].index(key.partition('.')[0]), '.' in key)):
        pair = f'{key}={str(keys[key]).replace(" ", "")}'
        text = filled(known.get(key, ''), width=39).splitlines()
        lines += [f'{pair:40}{text[0]}' if text and len(pair) < 40 else pair,
                  *(40 * ' ' + line for line in text[len(pair) < 40:])]
    return '\n'.join([folded(summary(make.__doc__)), '', *lines])
