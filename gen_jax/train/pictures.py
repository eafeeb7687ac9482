"""Samples and reconstructions of a trained state, as pictures or text."""
import functools
from pathlib import Path

import jax

from gen_jax import record, samplers
from gen_jax.train.model_info import test_examples
from gen_jax.train.run import Run, collector
from gen_jax.types import Array, Batch, Model, State


def save_pictures(run: Run, state: State, workdir: Path, only: str | None = None) -> list[Path]:
    """Writes samples and reconstructions, whichever the model has, as pictures or text; returns the
    files. `only`: `sample` or `reconstruct`.
    """
    n, files = run.config.eval.samples, []
    columns = max(1, round(n ** .5))
    sampler = run.config.sampler if only == 'sample' else 'prior'
    if only == 'sample' or run.model.prior and only != 'reconstruct':
        title = 'samples' if sampler == 'prior' else f'samples-{sampler}'
        parts = {title: samples(run, state, sampler, n)}
        if parts[title].ndim < 3 and not run.data.read:
            parts = {'test data': test_examples(run.data, n, run.key).x, **parts}
        files.append(save_examples(run, workdir, title, parts, columns))
    if can_reconstruct(run.model) and only != 'sample':
        batch = test_examples(run.data, n, run.key)
        if run.config.eval.text:
            batch = Batch(jax.numpy.asarray(run.data.write(run.config.eval.text))[None])
        files.append(save_examples(run, workdir, 'reconstructions',
                                   reconstruction_rows(run, state, batch), columns))
    return files


def save_examples(run: Run, workdir: Path, name: str, parts: dict[str, Array],
                  columns: int) -> Path:
    """Writes examples to a text file or a picture, and returns its path."""
    if run.data.read:
        lines = {title: [run.data.read(x) for x in part] for title, part in parts.items()}
        return record.texts(workdir / f'{name}.txt', lines)
    return record.pictures(workdir / 'images' / f'{name}.png', parts, columns)


def samples(run: Run, state: State, sampler: str, n: int) -> Array:
    """n decoded samples of the model's prior, or of a density fitted to the codes of the training
    data.
    """
    key = jax.random.fold_in(run.key, 1)
    if sampler == 'prior':
        z = jax.jit(run.model.prior, static_argnums=2)(state, key, n)
    else:
        codes = collector(run, state)(samplers.codes(run.model), 'train', None)
        z = samplers.fit(sampler, codes, jax.random.fold_in(run.key, 2))(key, n)
    return jax.jit(run.model.decode)(state, z)


def reconstruction_rows(run: Run, state: State, batch: Batch) -> dict[str, Array]:
    """The rows of Model.show, or of `reconstructions` without it, by title in the order of the
    model. Compiled.
    """
    show, titles = run.model.show or functools.partial(reconstructions, run.model), []

    def values(*args):
        parts = show(*args)
        titles[:] = parts  # jit would sort a dict
        return list(parts.values())

    parts = jax.jit(values)(state, batch, run.key)
    return {title_with_name(title, run.data.names): part for title, part in zip(titles, parts)}


def title_with_name(title: str, names: tuple[str, ...]) -> str:
    """A title of Model.show, `as 3` or `true 3`, with the name of label 3 if labels have names."""
    word, _, label = title.partition(' ')
    return f'{word} {names[int(label)]}' if names and word in ('as', 'true') else title


def can_reconstruct(model: Model) -> bool:
    return bool(model.show or model.encode and model.decode)


def reconstructions(model: Model, state: State, batch: Batch, key: Array) -> dict[str, Array]:
    y = model.decode(state, model.encode(state, batch.x))
    return {'test data': batch.x, 'reconstructions': y}
