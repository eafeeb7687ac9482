"""The variant that README shows how to add works as it stands."""
import re
import types

import jax
import jax.numpy as jnp
import numpy as np

from conftest import ROOT
from gen_jax import optimisers
from gen_jax.types import Batch


def test_the_variant_in_readme_learns():
    blocks = re.findall(r'```python\n# (gen_jax/models|configs)/(\w+)\.py.*?\n(.*?)```',
                        (ROOT / 'README.md').read_text(), re.S)
    (model, config), names = ([code for _, _, code in blocks], {name for _, name, _ in blocks})
    module = types.ModuleType(names.pop())
    exec(model, module.__dict__)
    compile(config, 'config', 'exec')
    assert not names and f"defaults('{module.__name__}'" in config
    batch = Batch(jnp.float32(np.random.default_rng(0).uniform(size=(16, 4, 4, 1))))
    made = module.make(batch, latent=16, optimiser=optimisers.make(learning_rate=1e-2))
    state, step = jax.jit(made.init)(jax.random.key(0), batch), jax.jit(made.step)
    before = made.evaluate(state, batch, None)['loss']
    for i in range(200):
        state, _ = step(state, batch, jax.random.key(i))
    after = made.evaluate(state, batch, None)['loss']
    assert after.shape == (16,) and after.mean() < .2 * before.mean()
