"""The step of trust-region policy optimisation (Schulman et al. 2015, arXiv 1502.05477, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Metrics, Params, Tree

BACKTRACKS = 15
"""The most tries of the line search."""
SHRINK = 0.8
"""What each further try makes of the step (15 and 0.8: published implementations of MAML-TRPO)."""


def dot(a: Tree, b: Tree) -> Array:
    """The inner product of two trees."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), jnp.zeros(()))


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
    objective: Callable[[Params], Array],
    gradient: Params,
    outputs: Callable[[Params], Any],
    divergence: Callable[[Any], Array],
    params: Params,
    *,
    max_divergence: float | Array,
    iterations: int,
    damping: float | Array,
) -> tuple[Params, Metrics]:
    """Go down ``objective`` as far as the divergence allows.

    The direction is the natural one, by conjugate gradients; its length is that whose divergence is, to second order,
    ``max_divergence``; it is cut until the objective falls and the divergence holds. If no length does, the
    parameters stay.

    Args:
        objective: to be minimised.
        gradient: of the objective at ``params``.
        outputs: see ``metric_product``.
        divergence: see ``metric_product``.
        params: where to start.
        max_divergence: the bound, above zero.
        iterations: of conjugate gradients.
        damping: added to the metric's diagonal.

    Returns:
        The new parameters; and "divergence", the step's, with "step_fraction", what the line search left of it (0: the
        parameters stayed).
    """
    product = metric_product(outputs, divergence, params)

    def damped(v: Params) -> Params:
        return jax.tree.map(lambda a, b: a + damping * b, product(v), v)

    direction = jax.scipy.sparse.linalg.cg(damped, gradient, maxiter=iterations, tol=1e-10)[0]
    length = jnp.sqrt(2 * max_divergence / jnp.maximum(dot(direction, damped(direction)), 1e-12))
    start = objective(params)

    def at(fraction: Array) -> tuple[Params, Array, Array]:
        new = jax.tree.map(lambda p, d: p - fraction * length * d, params, direction)
        moved = divergence(outputs(new))
        return new, moved, jnp.logical_and(objective(new) < start, moved <= max_divergence)

    def search(loop: tuple[Array, Array, Params, Array, Array]) -> tuple[Array, Array, Params, Array, Array]:
        tries, fraction, *_ = loop
        return tries + 1, fraction * SHRINK, *at(fraction)

    def unfinished(loop: tuple[Array, Array, Params, Array, Array]) -> Array:
        tries, *_, accepted = loop
        return jnp.logical_and(tries < BACKTRACKS, jnp.logical_not(accepted))

    first = (jnp.int32(0), jnp.ones_like(start), params, jnp.zeros_like(start), jnp.bool_(False))
    _, fraction, new, moved, accepted = jax.lax.while_loop(unfinished, search, first)
    new = jax.tree.map(lambda n, p: jnp.where(accepted, n, p), new, params)
    zero = jnp.zeros_like(start)
    return new, {
        "divergence": jnp.where(accepted, moved, zero),
        "step_fraction": jnp.where(accepted, fraction / SHRINK, zero),
    }
