"""A classifier on an encoder: the decoder is replaced by a head (Hinton & Salakhutdinov 2006)."""
from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import (NON_NEGATIVE, DEFAULT_CONTEXT, UNIT_INTERVAL, BadInput, Batch, Context,
                           Model, Player, State)

ENCODERS = 'frozen', 'finetuned', 'scratch'


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, encoder: str = 'frozen',
         head: Sequence[int] = (), latent: int | None = None, net: Nets = nets.make('conv'),
         optimiser: Optimiser = optimisers.make(weight_decay=1e-4)) -> Model:
    """Minimises the cross-entropy -log p(label | encode(x)), in nats.

    Args:
        encoder: frozen, the encoder of --config.init_from, of which only the head is trained;
            finetuned, the same encoder, trained further; scratch, a new encoder, for comparison.
        head: widths of the dense layers between code and labels.
        latent: size of the code of a new encoder.

    `net` is that of a new encoder. The batch statistics of a trained encoder stay as they are.

    Metrics: loss, accuracy.
    Raises: BadInput for an unknown encoder, for data without at least two labels, and where
    init_from is missing.
    """
    labels = losses.require_labels(example.label, 'give another data set')
    if encoder not in ENCODERS:
        raise BadInput(f'unknown encoder {encoder!r}; choose one of {", ".join(ENCODERS)}')
    if context.source is None:
        if encoder != 'scratch':
            raise BadInput(f'a {encoder} encoder comes from a trained run; give its workdir by '
                           '--config.init_from=DIR, or --config.model.encoder=scratch')
        body = net.encoder(example.x.shape[1:], latent)
    else:
        body = trained(*context.source, fresh=encoder == 'scratch')
    code = jax.eval_shape(lambda key, x: body.apply(*body.init(key, x), x), jax.random.key(0),
                          example.x[:1])
    size = sum(leaf.size for leaf in jax.tree.leaves(code))
    top = nets.make('mlp', width=head) if head else nets.make('linear')
    top = top.encoder((size,), labels)

    def flat(z):
        return jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(z)], -1)

    def init(key, batch):
        keys = jax.random.split(key)
        networks = dict(encoder=body.init(keys[0], batch.x),
                        head=top.init(keys[1], jnp.zeros((1, size))))
        return {n: p for n, (p, _) in networks.items()}, {n: b for n, (_, b) in networks.items()}

    def terms(logits, label):
        return dict(loss=optax.softmax_cross_entropy_with_integer_labels(logits, label),
                    accuracy=losses.accuracy(logits, label))

    def objective(state, batch, key):
        params, buffers = state.params['classifier'], state.buffers['classifier']
        z, new_encoder = body.train(params['encoder'], buffers['encoder'], batch.x)
        logits, new_head = top.train(params['head'], buffers['head'], flat(z))
        metrics = {k: v.mean() for k, v in terms(logits, batch.label).items()}
        return metrics['loss'], metrics, dict(encoder=new_encoder, head=new_head)

    def encode(state, x):
        return body.apply(state.params['classifier']['encoder'],
                          state.buffers['classifier']['encoder'], x)

    def classify(state, x):
        return top.apply(state.params['classifier']['head'], state.buffers['classifier']['head'],
                         flat(encode(state, x)))

    def evaluate(state, batch, key):
        return terms(classify(state, batch.x), batch.label)

    frozen = ('encoder',) if encoder == 'frozen' else ()
    return game({'classifier': Player(init, objective, optimiser, frozen=frozen)},
                axis=context.axis, evaluate=evaluate, encode=encode, classify=classify, bounds=dict(
                    loss=NON_NEGATIVE,
                    accuracy=UNIT_INTERVAL), from_source=context.source is not None)


def trained(model: Model, state: State, fresh: bool) -> nets.Net:
    """The encoder of a model as a net: from its trained parameters, or `fresh` ones."""
    def init(key, x):
        start = model.init(key, Batch(x)) if fresh else state
        start = start.averaged()
        return start.params, start.buffers

    def apply(params, buffers, x):
        return model.encode(state._replace(params=params, ema={}, buffers=buffers), x)

    return nets.Net(init, apply, lambda params, buffers, x: (apply(params, buffers, x), buffers))
