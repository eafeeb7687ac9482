"""Docstrings of the source as Markdown, for the pages of gen_pages.py and those of the API."""
import inspect
import re
import textwrap

import griffe

CODE = re.compile(r'(`[^`]*`)')
FIELD = re.compile(r'(\w+(?:, \w+)*):\s+(.*)', re.S)
SECTION = re.compile(r'^([A-Z]\w+):\n((?:    .*(?:\n|\Z))+)', re.M)


def sections(doc: str) -> tuple[str, dict[str, dict[str, str]]]:
    """A docstring without its sections `Args:` and the like, and these: name -> what it is."""
    doc = inspect.cleandoc(doc)
    found = {head: dict(fields(body) or {}) for head, body in SECTION.findall(doc)}
    return SECTION.sub('\n', doc).strip(), found


def fields(text: str) -> list[tuple[str, str]] | None:
    """Lines `name: what it is`, with continuations indented, as pairs; None for anything else."""
    entries = re.split(r'\n(?! )', textwrap.dedent(text).strip())
    if not all(map(FIELD.fullmatch, entries)):
        return None
    return [(name, ' '.join(what.split())) for name, what in
            (FIELD.fullmatch(entry).groups() for entry in entries)]


def prose(doc: str) -> str:
    """A docstring as Markdown: letters mean themselves, indented commands are blocks of code, and
    lines `name: what it is` a list."""
    doc = SECTION.sub(lambda found: f'\n**{found[1]}**\n\n{textwrap.dedent(found[2])}\n',
                      inspect.cleandoc(doc))
    doc = re.sub(r'\n(?=(?:Metrics|Raises)\b)', '\n\n', doc)
    return '\n\n'.join(block(text) for text in re.split(r'\n\s*\n', doc) if text.strip())


def block(text: str) -> str:
    if text.lstrip().startswith('>>>'):
        return f'```python\n{inspect.cleandoc(text)}\n```'
    if all(line.startswith('    ') for line in text.splitlines()):
        lines = (re.sub(r' {5,}', ' \\\\\n    ', line)  # continued in the source
                 for line in inspect.cleandoc(text).splitlines())
        return '```\n' + '\n'.join(lines) + '\n```'
    if re.fullmatch(r'\*\*\w+\*\*', text.strip()):
        return text.strip()
    found = fields(text)
    if found and len(found) > 1:
        return '\n'.join(f'- `{name}`: {plain(what)}' for name, what in found)
    text = re.sub(r'(?<=[.)])\s+(?=(?:Metrics\b|Raises BadInput))', '\n\n', text)
    return re.sub(r'^(Metrics|Raises)\b', r'**\1**', plain(text), flags=re.M)


def plain(text: str) -> str:
    return ''.join(part if i % 2 else re.sub(r'([*_\[\]<>|])', r'\\\1', part)
                   for i, part in enumerate(CODE.split(text)))


class Prose(griffe.Extension):
    """Gives every docstring to `prose`."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = prose(obj.docstring.value)
