"""Docstrings as text for a terminal of 80 columns."""
import inspect
import re
import textwrap


def folded(doc: str) -> str:
    """A docstring at 80 columns: paragraphs filled, indented commands continued by backslashes."""
    parts = re.split(r'\n\s*\n', inspect.cleandoc(doc))
    return '\n\n'.join(commands(part) if part.startswith(' ') else filled(part) for part in parts)


def commands(part: str) -> str:
    """Indented lines."""
    lines = re.sub(r' \\\n +', ' ', part).splitlines()
    return '\n'.join(filled(line, re.match(' +', line)[0] + 4 * ' ', 77).replace('\n', ' \\\n')
                     for line in lines)


def filled(text: str, more: str = '', width: int = 79) -> str:
    """Lines of that width; those after the first begin with `more`."""
    return textwrap.fill(text, width, subsequent_indent=more, break_long_words=False,
                         break_on_hyphens=False)
