"""Policy networks behind `metarl_jax.types.Policy`."""
