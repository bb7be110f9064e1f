"""The step of trust-region policy optimisation (Schulman et al. 2015, arXiv 1502.05477, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from metarl_jax.types import Array, Metrics, Params

BACKTRACKS = 15
"""The most tries of the line search."""
SHRINK = 0.8
"""What each further try makes of the step, at most (15 and 0.8: published implementations of MAML-TRPO)."""
LEAST = 0.1
"""What each further try makes of the step, at least."""
MARGIN = 0.9
"""Of the step that a quadratic divergence would allow, where the last try went beyond the bound."""


def metric_product(
    outputs: Callable[[Params], Any], divergence: Callable[[Any], Array], params: Params
) -> Callable[[Params], Params]:
    """Multiply by the Hessian of ``divergence(outputs(params))`` where the divergence is at its minimum, zero.

    There it is J' H J, with J the Jacobian of the outputs and H the divergence's Hessian in them: the
    network is differentiated once forward and once backward, never twice, and its residuals are kept between products.

    Args:
        outputs: of the parameters; the distributions that the divergence compares.
        divergence: of the outputs; a scalar, zero and smallest at ``outputs(params)``.
        params: where.
    """
    value, push = jax.linearize(outputs, params)
    pull = jax.linear_transpose(push, params)

    def product(v: Params) -> Params:
        return pull(jax.jvp(jax.grad(divergence), (value,), (push(v),))[1])[0]

    return product


def trust_region_step(
    evaluate: Callable[[Params], tuple[Array, Array]],
    value: Array,
    gradient: Params,
    product: Callable[[Params], Params],
    params: Params,
    *,
    max_divergence: float | Array,
    iterations: int,
    damping: float | Array,
) -> tuple[Params, Metrics]:
    """Go down an objective as far as the divergence allows.

    The direction is the natural one, by conjugate gradients; its length is that whose divergence is, to second order,
    ``max_divergence``; it is cut until the objective falls and the divergence holds. If no length does, the
    parameters stay.

    Args:
        evaluate: the objective, to be minimised, of new parameters, and their divergence from ``params``.
        value: of the objective at ``params``.
        gradient: of the objective at ``params``.
        product: multiplies by the divergence's Hessian at ``params`` (``metric_product``), or by an estimate of it: it
            decides where the line search looks, not what it accepts.
        params: where to start.
        max_divergence: the bound, above zero.
        iterations: of conjugate gradients.
        damping: added to the metric's diagonal.

    Returns:
        The new parameters; and "divergence", the step's, with "step_fraction", what the line search left of it (0: the
        parameters stayed).
    """
    chex.assert_rank([value, max_divergence, damping], 0)
    chex.assert_trees_all_equal_shapes(gradient, params)

    def damped(v: Params) -> Params:
        return jax.tree.map(lambda a, b: a + damping * b, product(v), v)

    direction = jax.scipy.sparse.linalg.cg(damped, gradient, maxiter=iterations, tol=1e-10)[0]
    length = jnp.sqrt(2 * max_divergence / jnp.maximum(optax.tree.vdot(direction, damped(direction)), 1e-12))

    def at(fraction: Array) -> tuple[Params, Array, Array]:
        new = jax.tree.map(lambda p, d: (p - fraction * length * d).astype(p.dtype), params, direction)
        achieved, moved = evaluate(new)
        return new, moved, jnp.logical_and(achieved < value, moved <= max_divergence)

    def search(loop: tuple[Array, Array, Params, Array, Array]) -> tuple[Array, Array, Params, Array, Array]:
        tries, fraction, _, moved, _ = loop
        allowed = jnp.where(moved > max_divergence, MARGIN * jnp.sqrt(max_divergence / moved), 1.0)
        fraction = jnp.where(tries == 0, fraction, fraction * jnp.clip(allowed, LEAST, SHRINK))
        return tries + 1, fraction, *at(fraction)

    def unfinished(loop: tuple[Array, Array, Params, Array, Array]) -> Array:
        tries, *_, accepted = loop
        return jnp.logical_and(tries < BACKTRACKS, jnp.logical_not(accepted))

    first = (jnp.int32(0), jnp.ones_like(value), params, jnp.zeros_like(value), jnp.bool_(False))
    _, fraction, new, moved, accepted = jax.lax.while_loop(unfinished, search, first)
    new = jax.tree.map(lambda n, p: jnp.where(accepted, n, p), new, params)
    zero = jnp.zeros_like(value)
    return new, {
        "divergence": jnp.where(accepted, moved, zero),
        "step_fraction": jnp.where(accepted, fraction, zero),
    }
