"""The figures of an ablation: rate and distortion, heat maps, units in use, samples by point."""
from pathlib import Path

import numpy as np

from gen_jax import record, sweep


def pictures(workdir: Path, found: list[dict], objective: str) -> list[Path]:
    """The figures of the field, as far as there are numbers for them."""
    alive = [f for f in found if f['metrics']]
    keys = [k for k in found[0]['values'] if k != sweep.SEED]
    if not alive or not keys:
        return []
    panels = []
    if all({'test/kl', 'test/recon'} <= f['metrics'].keys() for f in alive):
        panels.append(rate_distortion)
    if objective:
        panels.append(heat if len(keys) > 1 else line)
    if sweep.LATENT in keys and 'test/active_units' in alive[0]['metrics']:
        panels.append(units)
    if any(k.startswith('test/kl_unit/') for k in alive[0]['metrics']):
        panels.append(dimensions)
    files = []
    if panels:
        fig = record.figure(4.4 * len(panels), 3.8)
        for axes, panel in zip(fig.subplots(1, len(panels), squeeze=False)[0], panels):
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


def over_seeds(found: list[dict]) -> dict[tuple, list[dict]]:
    """Points by their values but for the seed."""
    groups = {}
    for f in found:
        groups.setdefault(tuple(v for k, v in f['values'].items() if k != sweep.SEED), []).append(f)
    return groups


def short(key: str) -> str:
    return key.removeprefix('model.').removeprefix('test/').replace('_', ' ')


def coloured(alive, keys):
    """A colour for each point by its first key but the latent size, on a scale of its own."""
    key = next((k for k in keys if k != sweep.LATENT), keys[0])
    values = sorted({f['values'][key] for f in alive})
    return key, values, [values.index(f['values'][key]) / max(1, len(values) - 1) for f in alive]


def rate_distortion(fig, axes, alive, keys, objective):
    """Alemi et al. 2018: what the code costs and what it leaves out."""
    from matplotlib import colormaps
    key, values, places = coloured(alive, keys)
    colours = colormaps['viridis'](places)
    for value in values:
        own = [i for i, f in enumerate(alive) if f['values'][key] == value]
        axes.plot([alive[i]['metrics']['test/kl'] for i in own],
                  [alive[i]['metrics']['test/recon'] for i in own], 'o', ms=4,
                  color=colours[own[0]], label=f'{value:g}')
    axes.set(xlabel='rate: KL, nats', ylabel='distortion: reconstruction, nats')
    axes.legend(title=short(key), frameon=False, fontsize=8)


def heat(fig, axes, alive, keys, objective):
    """Means of the objective over two keys."""
    across, down = keys[:2]
    xs, ys = (sorted({f['values'][k] for f in alive}) for k in (across, down))
    table = np.full((len(ys), len(xs)), np.nan)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            own = [f['metrics'][objective] for f in alive if objective in f['metrics']
                   and (f['values'][across], f['values'][down]) == (x, y)]
            if own:
                table[i, j] = np.mean(own)
                axes.text(j, i, f'{table[i, j]:.4g}', ha='center', va='center', fontsize=7,
                          color='w', bbox=dict(facecolor='.2', alpha=.5, lw=0, pad=1))
    fig.colorbar(axes.imshow(table, origin='lower', aspect='auto'), ax=axes, label=short(objective))
    axes.set(xticks=range(len(xs)), yticks=range(len(ys)), xlabel=short(across), ylabel=short(down))
    axes.set_xticklabels([f'{x:g}' for x in xs])
    axes.set_yticklabels([f'{y:g}' for y in ys])


def line(fig, axes, alive, keys, objective):
    """The objective over the one key, with its deviation over seeds."""
    groups = {k[0]: [f['metrics'][objective] for f in own if objective in f['metrics']]
              for k, own in over_seeds(alive).items()}
    xs = sorted(x for x, v in groups.items() if v)
    axes.errorbar(xs, [np.mean(groups[x]) for x in xs], [np.std(groups[x]) for x in xs], marker='o',
                  ms=4, capsize=2)
    axes.set(xlabel=short(keys[0]), ylabel=short(objective))


def units(fig, axes, alive, keys, objective):
    """Active units over the latent size."""
    from matplotlib import colormaps
    key, values, places = coloured(alive, keys)
    sizes = sorted({f['values'][sweep.LATENT] for f in alive})
    axes.plot(sizes, sizes, '--', color='.7', label='all')
    for value in values if key != sweep.LATENT else [None]:
        own = [f for f in alive if value is None or f['values'][key] == value]
        found = [np.mean([f['metrics']['test/active_units'] for f in own
                          if f['values'][sweep.LATENT] == n] or [np.nan]) for n in sizes]
        place = 0 if value is None else values.index(value) / max(1, len(values) - 1)
        axes.plot(sizes, found, marker='o', ms=4, color=colormaps['viridis'](place),
                  label='active' if value is None else f'{value:g}')
    axes.set(xlabel='latent dimensions', ylabel='active units')
    axes.legend(title=None if key == sweep.LATENT else short(key), frameon=False, fontsize=8)


def dimensions(fig, axes, alive, keys, objective):
    """The KL of each dimension, largest first."""
    from matplotlib import colormaps
    _, _, places = coloured(alive, keys)
    for f, colour in zip(alive, colormaps['viridis'](places)):
        kl = sorted((v for k, v in f['metrics'].items() if k.startswith('test/kl_unit/')),
                    reverse=True)[:f['values'].get(sweep.LATENT)]
        axes.plot(range(1, len(kl) + 1), kl, color=colour, lw=.8)
    axes.set(xlabel='latent dimension, sorted', ylabel='KL, nats')
