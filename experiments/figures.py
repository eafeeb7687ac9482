"""The figures of an ablation: rate and distortion, heat maps, units in use, samples by point."""
import itertools
from pathlib import Path

import numpy as np

from gen_jax import record, sweep


def pictures(workdir: Path, result: list[dict], objective: str) -> list[Path]:
    """The figures of the field, as far as there are numbers for them."""
    alive = [f for f in result if f['metrics']]
    keys = [k for k in result[0]['values'] if k != sweep.SEED]
    if not alive or not keys:
        return []
    panels = []
    if all({'test/kl', 'test/recon'} <= f['metrics'].keys() for f in alive):
        panels.append(rate_distortion)
    if objective:
        panels.append(heat if len(keys) > 1 else line)
    if sweep.LATENT in keys and 'test/active_units' in alive[0]['metrics']:
        panels.append(units)
    if any(k.startswith('test/kl_per_dim/') for k in alive[0]['metrics']):
        panels.append(dimensions)
    files = []
    if panels:
        across = 2 if len(panels) == 4 else len(panels)
        down = len(panels) // across
        fig = record.figure(4.4 * across, 3.8 * down)
        for axes, panel in zip(fig.subplots(down, across, squeeze=False).ravel(), panels):
            panel(fig, axes, alive, keys, objective)
        files.append(workdir / 'ablate.png')
        fig.savefig(files[0], dpi=150)
    groups = [members[0] for members in over_seeds([f for f in alive if f['samples']]).values()]
    if groups:
        some = [groups[i] for i in np.unique(np.linspace(0, len(groups) - 1, 24).astype(int))]
        files.append(record.pictures(workdir / 'samples.png', {
            sweep.name({k: f['values'][k] for k in keys}): np.asarray(f['samples'])
            for f in some}, columns=3))
    return files


def over_seeds(result: list[dict]) -> dict[tuple, list[dict]]:
    """Points by their values but for the seed."""
    groups = {}
    for f in result:
        groups.setdefault(tuple(v for k, v in f['values'].items() if k != sweep.SEED), []).append(f)
    return groups


def short(key: str) -> str:
    return key.removeprefix('model.').removeprefix('test/').replace('_', ' ')


def coloured(alive, keys):
    """The first key but the latent size, and its values, each with a colour and its points."""
    from matplotlib import colormaps
    key = next((k for k in keys if k != sweep.LATENT), keys[0])
    values = sorted({f['values'][key] for f in alive})
    colours = colormaps['viridis'](np.linspace(0, .92, len(values)))  # the rest is pale in print
    return key, [(v, c, [f for f in alive if f['values'][key] == v])
                 for v, c in zip(values, colours)]


def rate_distortion(fig, axes, alive, keys, objective):
    """Alemi et al. 2018: what the code costs and what it leaves out; a mark for a latent size."""
    key, groups = coloured(alive, keys)

    def size(f):
        return 0 if key == sweep.LATENT else f['values'].get(sweep.LATENT, 0)

    marks = dict(zip(sorted(set(map(size, alive))), itertools.cycle('osD^v<>p*')))
    for value, colour, local in groups:
        for f in local:
            axes.plot(f['metrics']['test/kl'], f['metrics']['test/recon'], marks[size(f)], ms=4,
                      color=colour)
        axes.plot([], [], 'o', ms=4, color=colour, label=f'{value:g}')
    axes.set(xlabel='rate: KL, nats', ylabel='distortion: reconstruction, nats')
    axes.add_artist(axes.legend(title=short(key), frameon=False, fontsize=9, loc='upper right'))
    if len(marks) > 1:
        lines = [axes.plot([], [], mark, ms=4, color='.3', label=f'{n:g}')[0]
                 for n, mark in marks.items()]
        axes.legend(handles=lines, title='latent', frameon=False, fontsize=9, loc='upper center')


def heat(fig, axes, alive, keys, objective):
    """Means of the objective over two keys."""
    across, down = keys[:2]
    xs, ys = (sorted({f['values'][k] for f in alive}) for k in (across, down))
    local = {}
    for f in alive:
        if objective in f['metrics']:
            place = ys.index(f['values'][down]), xs.index(f['values'][across])
            local.setdefault(place, []).append(f['metrics'][objective])
    table = np.full((len(ys), len(xs)), np.nan)
    for place, result in local.items():
        table[place] = np.mean(result)
    image = axes.imshow(table, origin='lower', aspect='auto', cmap='cividis')
    for i, j in local:
        light = image.norm(table[i, j]) > .5
        axes.text(j, i, f'{table[i, j]:#.4g}'.rstrip('.'), ha='center', va='center',
                  fontsize=min(9.5, 60 / len(xs)), color='k' if light else 'w')
    fig.colorbar(image, ax=axes, label=short(objective))
    axes.set(xticks=range(len(xs)), yticks=range(len(ys)), xlabel=short(across), ylabel=short(down))
    axes.set_xticklabels([f'{x:g}' for x in xs])
    axes.set_yticklabels([f'{y:g}' for y in ys])


def line(fig, axes, alive, keys, objective):
    """The objective over the one key, with its deviation over seeds."""
    groups = {k[0]: [f['metrics'][objective] for f in local if objective in f['metrics']]
              for k, local in over_seeds(alive).items()}
    xs = sorted(x for x, v in groups.items() if v)
    axes.errorbar(xs, [np.mean(groups[x]) for x in xs], [np.std(groups[x]) for x in xs], marker='o',
                  ms=4, capsize=2)
    axes.set(xlabel=short(keys[0]), ylabel=short(objective))


def units(fig, axes, alive, keys, objective):
    """Active units over the latent size."""
    key, groups = coloured(alive, keys)
    sizes = sorted({f['values'][sweep.LATENT] for f in alive})
    axes.plot(sizes, sizes, '--', color='.7', label='all')
    if key == sweep.LATENT:
        groups = [(None, groups[0][1], alive)]
    for value, colour, local in groups:
        result = [np.mean([f['metrics']['test/active_units'] for f in local
                          if f['values'][sweep.LATENT] == n] or [np.nan]) for n in sizes]
        axes.plot(sizes, result, marker='o', ms=4, color=colour,
                  label='active' if value is None else f'{value:g}')
    axes.set(xlabel='latent dimensions', ylabel='active units')
    axes.legend(title=None if key == sweep.LATENT else short(key), frameon=False, fontsize=9)


def dimensions(fig, axes, alive, keys, objective):
    """The KL of each dimension, largest first, in the mean over points of the largest latent size
    that there is of a value."""
    key, groups = coloured(alive, keys)
    for value, colour, local in groups:
        size = max(f['values'].get(sweep.LATENT, 0) for f in local)
        kl = np.mean([
            sorted((v for k, v in f['metrics'].items() if k.startswith('test/kl_per_dim/')),
                   reverse=True) for f in local if f['values'].get(sweep.LATENT, 0) == size
        ], 0)[:size or None]
        axes.plot(range(1, len(kl) + 1), kl, marker='o', ms=3, color=colour, label=f'{value:g}')
    axes.set(xlabel='latent dimension, sorted', ylabel='KL, nats',
             ylim=(None, 1.3 * axes.get_ylim()[1]))  # which leaves room for the legend
    axes.legend(title=short(key), frameon=False, fontsize=9, loc='upper right', ncols=3)
