"""The VQ-VAE (van den Oord et al. 2017): a grid of discrete codes, and a prior over them."""
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax import densities, losses, nets, optimisers
from gen_jax.latents import LATENTS, Latents
from gen_jax.optimisers import Optimiser
from gen_jax.nets import Nets
from gen_jax.game import game
from gen_jax.nets import sequences
from gen_jax.types import (NON_NEGATIVE, DEFAULT_CONTEXT, UNIT_INTERVAL, Array, BadInput, Batch,
                           Context, Density, Model, Player, Tree)


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 16,
    codebook_size: int = 64, num_positions: int = 8, commitment_cost: float = .25,
    codebook_decay: float = .99, dead_code_threshold: float = .1, prior_width: int = 128,
    latents: Latents = LATENTS, net: Nets = nets.make('conv', width=(64, 64)),
    optimiser: Optimiser = optimisers.make(), prior_optimiser: Optimiser = optimisers.make()
) -> Model:
    """Two players. `vq` minimises recon + commitment_cost * |z - sg(e)|^2, in nats per example,
    where e is the codebook vector nearest to each of the encoder's z, with the straight-through
    gradient. `prior` minimises the nll of the codes' indices, by gated recurrent units.

    The codebook is the moving average of the vectors it replaces, see `renewed`: it needs no
    learning rate or weight, and is linear in the batch, so many devices do what one does.

    Args:
        latent: size of a codebook vector.
        codebook_size: number of codebook vectors.
        num_positions: number of codes of an example, for nets that are not for images; those for
            images give a grid.
        commitment_cost: weight of the distance of z from its codebook vector.
        codebook_decay: decay of the codebook's moving average.
        dead_code_threshold: a code that is used less than this share of an equal share is restarted
            at a vector of the batch.
        prior_width: number of gated recurrent units of the prior.

    Metrics: loss, recon; prior_nll, and elbo = -(recon + prior_nll), as q is deterministic; of the
    batch perplexity, the exponential of the entropy of the codes' shares, and codebook_usage, the
    share of the codebook in use. A code z is the indices (n, positions), int32.
    Raises: BadInput for options that do not fit.
    """
    x = example.x
    for name, value in dict(latent=latent, codebook_size=codebook_size,
                            num_positions=num_positions).items():
        if value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    latents.require('its codes are those of a codebook, and its decoder gives a number for each '
                    'dimension', likelihood=('bernoulli', 'gaussian'), scale=('fixed',),
                    posterior=('diagonal',), prior=('normal',), kl_schedule=('constant',),
                    free_bits=(0.,))
    nets.require_no_statistics(net, 'net')
    link = nets.link(x, net, latents.likelihood == 'bernoulli')
    observation = densities.likelihood(latents.likelihood, x, link, sigma=latents.sigma)
    encoder = net.encoder(x.shape[1:], None)
    features = jax.eval_shape(lambda x: encoder.apply(*encoder.init(jax.random.key(0), x), x), x)
    grid = features.shape[1:-1]
    places, size = (int(np.prod(grid)), latent) if grid else (num_positions, num_positions * latent)
    project = nets.make('linear').encoder((features.shape[-1],), size)
    decoder = net.decoder(x, None if grid else size, link, 0)
    speller = sequences.decoder(codebook_size, places, width=prior_width, embed_dim=latent)

    def infer(params, x):
        """The encoder's vectors, (n, places, latent)."""
        y = encoder.apply(params['encoder'], {}, x)
        y = project.apply(params['project'], {}, y.reshape(-1, y.shape[-1]))
        return y.reshape(len(x), places, latent)

    def init(key, batch):
        keys = jax.random.split(key, 4)
        blank = jnp.zeros((1, *grid, size))
        params = dict(encoder=encoder.init(keys[0], batch.x)[0],
                      project=project.init(keys[1], jnp.zeros((1, features.shape[-1])))[0],
                      decoder=decoder.init(keys[2], blank)[0])
        z = infer(params, batch.x).reshape(-1, latent)
        # noise, for equal vectors, as of blank corners, would make codes between which chance chose
        book = z[np.arange(codebook_size) % len(z)] + .1 * z.std(0) * jax.random.normal(
            keys[3], (codebook_size, latent))
        return params, dict(share=jnp.full(codebook_size, 1 / codebook_size, jnp.float32),
                            total=book / codebook_size)

    def quantise(state, x):
        """The encoder's vectors, their indices and the nearest codes."""
        z, book = infer(state.params['vq'], x), codebook(state.buffers['vq'])
        index = nearest(z, book)
        return z, index, book[index]

    def output(state, e):
        return decoder.apply(state.params['vq']['decoder'], {}, e.reshape(len(e), *grid, -1))

    def log_prior(state, index):
        logits = speller.logits(state.params['prior'], jnp.zeros((len(index), 1)), index)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1)
        return losses.per_example(chosen)

    def terms(state, x):
        """loss and recon (n,), and the quantised x."""
        z, index, e = quantised = quantise(state, x)
        recon = observation.nll({}, {}, output(state, straight(z, e)), x)
        far = losses.squared_error(z, losses.stop_gradient(e))
        return dict(loss=recon + commitment_cost * far, recon=recon), quantised

    def vq_move(state, batch, key):
        values, (z, index, _) = terms(state, batch.x)
        metrics = {k: v.mean() for k, v in values.items()} | usage(index, codebook_size)
        return metrics['loss'], metrics, renewed(state.buffers['vq'], z, index, codebook_decay,
                                                 dead_code_threshold)

    def prior_move(state, batch, key):
        nll = -log_prior(state, encode(state, batch.x)).mean()
        return nll, dict(prior_nll=nll), {}

    def evaluate(state, batch, key):
        values, (_, index, _) = terms(state, batch.x)
        nll = -log_prior(state, index)
        of_batch = {k: jnp.full(len(nll), v) for k, v in usage(index, codebook_size).items()}
        return values | dict(elbo=-(values['recon'] + nll), prior_nll=nll) | of_batch

    def read(state, index):
        return output(state, codebook(state.buffers['vq'])[index])

    def encode(state, x):
        return quantise(state, x)[1]

    def joint(state, batch, index):
        return -observation.nll({}, {}, read(state, index), batch.x), log_prior(state, index)

    def prior(state, key, n):
        def place(i, index):
            logits = speller.logits(state.params['prior'], jnp.zeros((n, 1)), index)[:, i]
            return index.at[:, i].set(jax.random.categorical(jax.random.fold_in(key, i), logits))
        return lax.fori_loop(0, places, place, jnp.zeros((n, places), jnp.int32))

    players = dict(
        vq=Player(init, vq_move, optimiser),
        prior=Player(lambda key, batch: (speller.init(key, jnp.zeros((1, 1))), {}), prior_move,
                     prior_optimiser))
    density = Density(
        posterior=lambda state, batch, key: (encode(state, batch.x), jnp.zeros(len(batch.x))),
        prior=lambda state, batch, key: prior(state, key, len(batch.x)), joint=joint, observe=lambda
        state, batch, index, key: observation.sample({}, {}, read(state, index), key))
    return game(
        players, axis=context.axis, evaluate=evaluate, prior=prior, encode=encode, density=density,
        decode=lambda state, index: link(read(state, index)), bounds=dict(
            prior_nll=NON_NEGATIVE, perplexity=(1., codebook_size), codebook_usage=UNIT_INTERVAL) |
        (dict(recon=NON_NEGATIVE, elbo=(-float('inf'), 0.)) if observation.discrete else {}))


def nearest(z: Array, book: Array) -> Array:
    """The index (...,) of the nearest row of `book` (k, d) to each vector of z (..., d)."""
    z, book = z - book.mean(0), book - book.mean(0)  # or the squares of far vectors cancel
    square = (book ** 2).sum(-1) - 2 * jnp.matmul(z, book.T, precision='highest')
    return square.argmin(-1).astype(jnp.int32)


def straight(z: Array, e: Array) -> Array:
    """e, with the gradient of z."""
    return z + losses.stop_gradient(e - z)


def codebook(buffers: Tree) -> Array:
    """The mean of the vectors that each code replaces, (k, d)."""
    return buffers['total'] / jnp.maximum(buffers['share'], 1e-9)[:, None]


def renewed(buffers: Tree, z: Array, index: Array, codebook_decay: float,
            dead_code_threshold: float) -> Tree:
    """Moving averages of each code's share of the vectors z, and of their total in it; a code of
    less than `dead` of an equal share begins anew at a vector of this batch, whose order is random
    already."""
    share, total = buffers['share'], buffers['total']
    z, chosen = z.reshape(-1, z.shape[-1]), jax.nn.one_hot(index.ravel(), len(share))
    k, unused = len(share), share < dead_code_threshold / len(share)
    share += (1 - codebook_decay) * (chosen.mean(0) - share)
    total += (1 - codebook_decay) * (chosen.T @ z / len(z) - total)
    return dict(share=jnp.where(unused, 1 / k, share),
                total=jnp.where(unused[:, None], z[np.arange(k) % len(z)] / k, total))


def usage(index: Array, codebook_size: int) -> dict[str, Array]:
    """perplexity of the shares of the codes in `index`, and which part of the codes are used."""
    share = jnp.bincount(index.ravel(), length=codebook_size) / index.size
    return dict(perplexity=jnp.exp(-jax.scipy.special.xlogy(share, share).sum()),
                codebook_usage=(share > 0).mean(dtype=jnp.float32))
