"""The config of a run from its workdir: --config=THIS_FILE:WORKDIR acts as a file of configs/."""
from pathlib import Path

from ml_collections import ConfigDict

from gen_jax.train.config import defaults_like, stored_config
from gen_jax.types import BadInput


def get_config(workdir: str | Path) -> ConfigDict:
    """The config in config.json; each value has the type of its key.
    Raises: BadInput if there is no run, or if its config does not fit its model.
    """
    stored = stored_config(Path(workdir))
    if stored is None:
        raise BadInput(f'there is no run in {workdir}, which holds no config.json; train one '
                       'first, by --mode=train --config=configs/NAME.py')
    config = defaults_like(stored)
    try:
        config.update(stored)
    except TypeError as e:
        raise BadInput(f'{workdir}/config.json cannot be read ({e}); give another --workdir') from e
    config.data.cache_dir = None  # may be a directory of another machine
    return config
