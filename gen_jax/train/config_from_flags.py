"""A config with other parts: --config=THIS_FILE:GROUP=NAME,..;FILE[:DATASET] is the config of FILE,
with the keys and defaults of the named parts.
"""
import runpy

from ml_collections import ConfigDict

from gen_jax.train.config import choose


def get_config(words: str) -> ConfigDict:
    """The config for the words after the colon, `GROUP=NAME,..;FILE[:DATASET]`.
    Raises: BadInput for an unknown part.
    """
    named, _, source = words.partition(';')
    file, *dataset = source.split(':', 1)
    config = runpy.run_path(file)['get_config'](*dataset)
    for word in named.split(','):
        choose(config, *word.split('='))
    return config
