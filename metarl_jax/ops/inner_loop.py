"""Gradient descent in the inner loop, and the passage of gradients through it.

All functions handle one task. Batches and step sizes have a leading axis of inner steps ``[K]``. Batches were collected
before: they are data, and no derivative passes through their collection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Params, Tree

Loss: TypeAlias = Callable[[Params, Any], Array]
"""``(params, batch) -> scalar``."""
Gradient: TypeAlias = Literal["exact", "first_order"]


def _length(tree: Tree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _check_lengths(batches: Any, rates: Tree) -> None:
    steps = _length(rates)
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves((batches, rates))}
    if sizes != {(steps,)}:
        given = ", ".join(str(shape[0]) if shape else "none" for shape in sorted(sizes - {(steps,)}))
        raise ValueError(
            f"{steps} inner steps need a batch of data and a step size each, along the leading axis, but there are "
            f"{given}"
        )


def step_sizes(rate: Tree, params: Params, steps: int) -> Tree:
    """Return a step size for each inner step and each parameter.

    Args:
        rate: a tree prefix of ``params`` whose leaves broadcast against the parameters: one number, a tree of numbers
            (Meta-SGD), or zeros for parameters that do not adapt.
        params: the parameters.
        steps: K.

    Returns:
        A tree like ``params``, with leaves ``[K, ...]``.
    """
    full = jax.tree.broadcast(rate, params)
    return jax.tree.map(lambda r, p: jnp.broadcast_to(jnp.asarray(r, p.dtype), (steps, *p.shape)), full, params)


def descend(
    loss: Loss,
    params: Params,
    batches: Any,
    rates: Tree,
    *,
    gradient: Gradient = "exact",
    rematerialise: bool = False,
    max_norm: float | Array | None = None,
) -> Params:
    """Do gradient descent: params <- params - rate * grad loss(params, batch), once for every batch.

    Args:
        loss: the loss of the task.
        params: the parameters at the start.
        batches: ``[K, ...]``.
        rates: a tree like ``params`` with leaves ``[K, ...]`` (``step_sizes``).
        gradient: "exact": a derivative of the result passes through the inner gradients (MAML, Finn et al. 2017,
            equation 1); "first_order": the inner gradients count as constants (FOMAML).
        rematerialise: whether the backward pass computes the inner steps again instead of storing them. The use of
            memory grows with the square root of K instead of with K, at the cost of at most one more forward pass.
        max_norm: the largest norm of a gradient, to which longer ones are scaled down, so that a step on a steep loss
            cannot diverge. None: gradients are not scaled.

    Returns:
        The adapted parameters.

    Raises:
        ValueError: if the numbers of batches and of step sizes differ.
    """
    _check_lengths(batches, rates)

    def step(params: Params, now: tuple[Any, Tree]) -> tuple[Params, None]:
        batch, rate = now
        direction = jax.grad(loss)(params, batch)
        if max_norm is not None:
            direction = scaled_down(direction, max_norm)
        if gradient == "first_order":
            direction = jax.lax.stop_gradient(direction)
        return jax.tree.map(lambda p, r, d: p - r * d, params, rate, direction), None

    def run(params: Params, xs: tuple[Any, Tree]) -> Params:
        return jax.lax.scan(step, params, xs)[0]

    if not rematerialise:
        return run(params, (batches, rates))
    # Segments have about sqrt(K) steps. The backward pass stores the parameters between segments, and one segment.
    steps = _length(rates)
    size = max(1, math.isqrt(steps))
    whole = steps // size * size
    kept_run = jax.checkpoint(lambda params, xs: (run(params, xs), None))
    segments = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), (batches, rates))
    params, _ = jax.lax.scan(kept_run, params, segments)
    return kept_run(params, jax.tree.map(lambda x: x[whole:], (batches, rates)))[0] if whole < steps else params


def scaled_down(gradient: Params, max_norm: float | Array) -> Params:
    """Scale a gradient down to a norm if it is longer. The norm is that of all leaves together."""
    # The square root of zero has no derivative.
    squares = sum(jax.tree.leaves(jax.tree.map(lambda d: jnp.sum(d**2), gradient)))
    shrink = max_norm * jax.lax.rsqrt(jnp.maximum(squares, max_norm**2))
    return jax.tree.map(lambda d: d * shrink.astype(d.dtype), gradient)


def proximal(loss: Loss, centre: Params, strength: float | Array) -> Loss:
    """Make the loss ``loss(phi, batch) + strength/2 |phi - centre|^2`` (Rajeswaran et al. 2019)."""

    def regularised(phi: Params, batch: Any) -> Array:
        distances = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), phi, centre)
        return loss(phi, batch) + 0.5 * strength * sum(jax.tree.leaves(distances))

    return regularised


def implicit_descend(
    loss: Loss,
    params: Params,
    batches: Any,
    rates: Tree,
    *,
    strength: float | Array,
    iterations: int,
    max_norm: float | Array | None = None,
) -> Params:
    """Descend on the ``proximal`` loss around ``params``, with the derivative at convergence (iMAML).

    If phi is a minimum, d phi / d params = (I + H / strength)^-1, where H is the loss's Hessian at phi (Rajeswaran et
    al. 2019). No inner step has to be stored. The linear system is solved by conjugate gradients.

    Args:
        loss: the loss of the task.
        params: the parameters at the start, which are also the centre of the proximal term.
        batches: ``[K, ...]``; the Hessian is that of the last one.
        rates: as for ``descend``.
        strength: the weight lambda of the proximal term; above zero.
        iterations: the number of iterations of conjugate gradients.
        max_norm: as for ``descend``.

    Returns:
        The adapted parameters phi.

    Raises:
        ValueError: in the cases of ``descend``.
    """

    @jax.custom_vjp
    def solve(centre: Params, batches: Any) -> Params:
        return descend(proximal(loss, centre, strength), centre, batches, rates, max_norm=max_norm)

    def forward(centre: Params, batches: Any) -> tuple[Params, Any]:
        phi = solve(centre, batches)
        return phi, (phi, jax.tree.map(lambda x: x[-1], batches))

    def backward(kept: Any, cotangent: Params) -> tuple[Params, None]:
        phi, batch = kept

        def operator(v: Params) -> Params:
            product = jax.jvp(lambda p: jax.grad(loss)(p, batch), (phi,), (v,))[1]
            return jax.tree.map(lambda a, h: a + h / strength, v, product)

        # After convergence up to rounding, further iterations would divide rounding errors by each other.
        tolerance = 10 * float(jnp.finfo(jax.tree.leaves(cotangent)[0].dtype).eps)
        return jax.scipy.sparse.linalg.cg(operator, cotangent, maxiter=iterations, tol=tolerance)[0], None

    solve.defvjp(forward, backward)
    return solve(params, batches)
