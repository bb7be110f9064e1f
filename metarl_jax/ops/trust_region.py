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
"""The largest number of tries of the line search."""
SHRINK = 0.8
"""The largest factor by which a further try shortens the step (15 tries and 0.8: published implementations of
MAML-TRPO)."""
LEAST = 0.1
"""The smallest factor by which a further try shortens the step."""
MARGIN = 0.9
"""The fraction of the step that a quadratic divergence would allow, for the next try after one beyond the bound."""


def metric_product(
    outputs: Callable[[Params], Any], divergence: Callable[[Any], Array], params: Params
) -> Callable[[Params], Params]:
    """Make the product with the Hessian of ``divergence(outputs(params))`` where the divergence has its minimum, zero.

    There the Hessian is J' H J, where J is the Jacobian of the outputs and H is the Hessian of the divergence with
    respect to the outputs. The network is differentiated once forward and once backward, never twice, and its residuals
    are kept between products.

    Args:
        outputs: a function of the parameters that returns the distributions that the divergence compares.
        divergence: a function of the outputs that returns a scalar, which is zero and smallest at ``outputs(params)``.
        params: the parameters at which the Hessian is evaluated.
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
    """Take the longest step that decreases an objective within a bound on the divergence.

    The direction is the natural gradient, computed by conjugate gradients. The divergence of the first try is
    ``max_divergence`` to second order. A line search shortens the step until the objective falls and the divergence is
    within the bound. If no try succeeds, the parameters do not change.

    Args:
        evaluate: returns the objective of new parameters, which is to be minimised, and their divergence from
            ``params``.
        value: the objective at ``params``.
        gradient: the gradient of the objective at ``params``.
        product: multiplies by the divergence's Hessian at ``params`` (``metric_product``), or by an estimate of it. It
            affects the direction of the step, but not which steps the line search accepts.
        params: the parameters at the start.
        max_divergence: the bound, above zero.
        iterations: the number of iterations of conjugate gradients.
        damping: added to the metric's diagonal.

    Returns:
        The new parameters, and the metrics "divergence", that of the step, and "step_fraction", the factor by which the
        line search shortened the step (0: the parameters did not change).
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
