"""gen_jax: autoencoders, variational autoencoders and generative adversarial networks in JAX."""
