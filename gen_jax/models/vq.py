"""The VQ-VAE: a grid of discrete codes, and a prior over them (van den Oord et al. 2017)."""
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
from gen_jax.types import (ABOVE_0, ALONE, SHARE, Array, BadInput, Batch, Context, Density, Model,
                           Player, Tree)


def make(example: Batch, context: Context = ALONE, *, latent: int = 16, codes: int = 64,
         slots: int = 8, commitment: float = .25, decay: float = .99, dead: float = .1,
         units: int = 128, latents: Latents = LATENTS,
         net: Nets = nets.of('conv', width=(64, 64)), optimiser: Optimiser = optimisers.make(),
         prior_optimiser: Optimiser = optimisers.make()) -> Model:
    """`vq` minimises recon + commitment * |z - sg(e)|^2, nats per example, e the nearest of `codes`
    vectors to each of the encoder's z, through which the gradient goes straight; `prior` minimises
    the nll of the codes' indices, by so many gated recurrent `units`.

    latent: size of a vector.  They lie on the grid to which a net for images brings one, and are
    `slots` for other nets.  The codebook is the moving average of
    the vectors it replaces, with `decay`, see renewed: it needs no rate or weight of its own, and
    is linear in the batch, so that many devices do what one does.  dead: a code used less than so
    much of an equal share begins anew.
    Metrics: loss, recon; prior_nll, and elbo = -(recon + prior_nll), as q is certain of its codes;
    of the batch perplexity, the exponential of the entropy of its codes' shares, and used, the part
    of the codebook it uses.  A code z is the indices (n, places), int32.
    Raises BadInput for what does not fit.
    """
    x = example.x
    for name, value in dict(latent=latent, codes=codes, slots=slots).items():
        if value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    latents.require('its codes are those of a codebook, and its decoder gives a number for each '
                    'dimension', likelihood=('bernoulli', 'gaussian'), scale=('fixed',),
                    posterior=('diagonal',), prior=('normal',), schedule=('constant',),
                    free_bits=(0.,))
    nets.require_no_statistics(net, 'net')
    link = nets.link(x, net, latents.likelihood == 'bernoulli')
    seen = densities.likelihood(latents.likelihood, x, link, sigma=latents.sigma)
    encoder = net.encoder(x.shape[1:], None)
    features = jax.eval_shape(lambda x: encoder.apply(*encoder.init(jax.random.key(0), x), x), x)
    grid = features.shape[1:-1]
    places, size = (int(np.prod(grid)), latent) if grid else (slots, slots * latent)
    project = nets.of('linear').encoder((features.shape[-1],), size)
    decoder = net.decoder(x, None if grid else size, link, 0)
    speller = sequences.decoder(codes, places, width=units, embed=latent)

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
        book = z[np.arange(codes) % len(z)] + .1 * z.std(0) * jax.random.normal(
            keys[3], (codes, latent))
        return params, dict(share=jnp.full(codes, 1 / codes, jnp.float32), total=book / codes)

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
        recon = seen.nll({}, {}, output(state, straight(z, e)), x)
        far = losses.squared_error(z, losses.stop(e))
        return dict(loss=recon + commitment * far, recon=recon), quantised

    def vq_move(state, batch, key):
        found, (z, index, _) = terms(state, batch.x)
        metrics = {k: v.mean() for k, v in found.items()} | usage(index, codes)
        return metrics['loss'], metrics, renewed(state.buffers['vq'], z, index, decay, dead)

    def prior_move(state, batch, key):
        nll = -log_prior(state, encode(state, batch.x)).mean()
        return nll, dict(prior_nll=nll), {}

    def evaluate(state, batch, key):
        found, (_, index, _) = terms(state, batch.x)
        nll = -log_prior(state, index)
        whole = {k: jnp.full(len(nll), v) for k, v in usage(index, codes).items()}
        return found | dict(elbo=-(found['recon'] + nll), prior_nll=nll) | whole

    def read(state, index):
        return output(state, codebook(state.buffers['vq'])[index])

    def encode(state, x):
        return quantise(state, x)[1]

    def joint(state, batch, index):
        return -seen.nll({}, {}, read(state, index), batch.x), log_prior(state, index)

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
        prior=lambda state, batch, key: prior(state, key, len(batch.x)), joint=joint,
        observe=lambda state, batch, index, key: seen.sample({}, {}, read(state, index), key))
    return game(players, axis=context.axis, evaluate=evaluate, prior=prior, encode=encode,
                density=density, decode=lambda state, index: link(read(state, index)),
                bounds=dict(prior_nll=ABOVE_0, perplexity=(1., codes), used=SHARE) | (
                    dict(recon=ABOVE_0, elbo=(-float('inf'), 0.)) if seen.discrete else {}))


def nearest(z: Array, book: Array) -> Array:
    """The index (...,) of the nearest row of `book` (k, d) to each vector of z (..., d)."""
    z, book = z - book.mean(0), book - book.mean(0)  # or the squares of far vectors cancel
    square = (book ** 2).sum(-1) - 2 * jnp.matmul(z, book.T, precision='highest')
    return square.argmin(-1).astype(jnp.int32)


def straight(z: Array, e: Array) -> Array:
    """e, with the gradient of z."""
    return z + losses.stop(e - z)


def codebook(buffers: Tree) -> Array:
    """The mean of the vectors that each code replaces, (k, d)."""
    return buffers['total'] / jnp.maximum(buffers['share'], 1e-9)[:, None]


def renewed(buffers: Tree, z: Array, index: Array, decay: float, dead: float) -> Tree:
    """Moving averages of each code's share of the vectors z, and of their total in it; a code of
    less than `dead` of an equal share begins anew at a vector of this batch, whose order is random
    already."""
    share, total = buffers['share'], buffers['total']
    z, chosen = z.reshape(-1, z.shape[-1]), jax.nn.one_hot(index.ravel(), len(share))
    k, unused = len(share), share < dead / len(share)
    share += (1 - decay) * (chosen.mean(0) - share)
    total += (1 - decay) * (chosen.T @ z / len(z) - total)
    return dict(share=jnp.where(unused, 1 / k, share),
                total=jnp.where(unused[:, None], z[np.arange(k) % len(z)] / k, total))


def usage(index: Array, codes: int) -> dict[str, Array]:
    """perplexity of the shares of the codes in `index`, and which part of the codes are used."""
    share = jnp.bincount(index.ravel(), length=codes) / index.size
    return dict(perplexity=jnp.exp(-jax.scipy.special.xlogy(share, share).sum()),
                used=(share > 0).mean(dtype=jnp.float32))
