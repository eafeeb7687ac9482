"""Text as rows of integers, and a set of English prose that Python itself contains."""
import re

import numpy as np

from gen_jax.types import BadInput, Batch

PADDING = '\0'
ALPHABET = PADDING + ''.join(map(chr, range(32, 127)))
NUMBER = {character: i for i, character in enumerate(ALPHABET)}
SHORTEST = 8  # the smallest window that still holds nearly all words
CODE = re.compile(r'::=|>>>|[=*~^-]{4}|[{}\\|]')  # grammar, sessions, underlined headings, tables
SENTENCE = re.compile(r'[A-Z](?:[^.?!]|[.?!](?! [A-Z]|$))*[.?!](?= [A-Z]|$)')
PROSE = re.compile(r"[A-Za-z0-9 _,;:.?!()'/-]+")
PLAIN = str.maketrans('‘’–—', "''--", '“”"`')


def ids(text: str, length: int) -> np.ndarray:
    """The indices of the characters in ALPHABET, int32 (length,), padded with 0.

    Raises BadInput for an empty text, one longer than `length`, and characters not in ALPHABET.
    """
    if not text:
        raise BadInput('the text is empty; give at least one character')
    if len(text) > length:
        raise BadInput(f'the text has {len(text)} characters, but the window is only {length}; '
                       'give a shorter one')
    if odd := sorted(set(text) - set(ALPHABET[1:])):
        raise BadInput(f'the text holds {", ".join(map(ascii, odd))}, but only the printable '
                       'characters of ASCII can be used')
    return np.array([NUMBER[c] for c in text.ljust(length, PADDING)], np.int32)


def text(ids) -> str:
    """The characters with these indices in ALPHABET, up to the first padding."""
    return ''.join(ALPHABET[i] for i in np.asarray(ids)).partition(PADDING)[0]


def sentences(topic: str) -> list[str]:
    """The sentences with more than three words in a text of Python's manual, without markup."""
    lines_of_prose = []
    for block in re.split(r'\n\s*\n', topic):
        if not CODE.search(block):
            line = re.sub(r'\*(\w[^*]*)\*| ?\[\d+\]', r'\1', ' '.join(block.split()))
            line = line.translate(PLAIN)
            lines_of_prose += [
                s for s in SENTENCE.findall(line) if PROSE.fullmatch(s) and s.count(' ') > 2
            ]
    return lines_of_prose


def windows(sentence: str, length: int) -> list[str]:
    """For each word, the longest text that begins with it and fits into `length`; none if the word
    is too long.
    """
    words, candidates = sentence.split(), []
    for i in range(len(words)):
        piece = words[i]
        for word in words[i + 1:]:
            if len(piece) + 1 + len(word) > length:
                break
            piece += f' {word}'
        candidates.append(piece)
    return [piece for piece in candidates if len(piece) <= length]


def pieces(sentence: str, length: int) -> list[str]:
    """Cuts a sentence between words into pieces of at most `length` characters; drops longer words.
    """
    joined = []
    for word in sentence.split():
        if joined and len(joined[-1]) + 1 + len(word) <= length:
            joined[-1] += f' {word}'
        elif len(word) <= length:
            joined.append(word)
    return joined


def text_set(length: int = 32) -> tuple[Batch, Batch]:
    """Prose from Python's manual (pydoc_data): train and test, x int32 (n, length), without labels.

    Every tenth topic is in the test split, its sentences cut into pieces between words. The
    training split has overlapping windows, one for each word of the other topics. No test sentence
    or piece is in the training split. The number of examples depends on Python's version. Raises
    BadInput for a length < 8.
    """
    if length < SHORTEST:
        raise BadInput(f'data.size must be at least {SHORTEST} characters, not {length}')
    from pydoc_data.topics import topics
    names = sorted(topics)
    parts = [{s: None for name in names if (names.index(name) % 10 == 0) == test
              for s in sentences(topics[name])} for test in (False, True)]
    test = dict.fromkeys(p for s in parts[1] for p in pieces(s, length))
    train = dict.fromkeys(w for s in parts[0] if s not in parts[1] for w in windows(s, length))
    rows = lambda texts: Batch(np.stack([ids(p, length) for p in texts]))
    return rows(p for p in train if p not in test), rows(test)
