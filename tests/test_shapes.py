"""Arrays of a wrong shape are refused while a program is traced, before any number is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from metarl_jax import ppo
from metarl_jax.environments import bandits
from metarl_jax.networks import recurrent
from metarl_jax.ops import baselines, draws, gaussians, policy_gradients, returns, running_statistics, trust_region
from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.rollout import episode_returns, episode_successes
from metarl_jax.types import Array, Inputs, Transition

T, B, A, K, D = 5, 3, 2, 4, 6


def of(*shape: int) -> Array:
    return jnp.ones(shape, jnp.float32)


def gaussian(*shape: int) -> DiagonalGaussian:
    return DiagonalGaussian(of(*shape), of(*shape))


def trial(*shape: int) -> Transition:
    inputs = Inputs(of(*shape), jnp.zeros(shape, jnp.int32), of(*shape), of(*shape), jnp.zeros(shape, bool))
    ends, valid = jnp.zeros(shape, bool), jnp.ones(shape, bool)
    return Transition(inputs, inputs.prev_action, of(*shape), ends, ends, of(*shape), inputs.prev_action, valid, ())


FAMILY = bandits.bernoulli(A)
SUCCESSFUL = FAMILY._replace(success=lambda task, step: step.reward > 0)
STATISTICS = running_statistics.initial_statistics((D,))
POLICY = recurrent.make(FAMILY, recurrent.Settings(hidden_size=3, embedding_size=3))
LEARNING = ppo.make(POLICY, FAMILY.observation_space, T, ppo.Config(trials=B, minibatches=1))


def prepare(t: Transition, value: Array) -> Any:
    return LEARNING.prepare(t.inputs, t, ppo.Record(value, value), jnp.int32(0))


def bound(*shape: int) -> Callable[[DiagonalGaussian, DiagonalGaussian, Any], Any]:
    key = jax.random.key(0)
    return lambda beliefs, prior, steps: gaussians.sequential_elbo(
        key, beliefs, lambda m: of(*shape), prior, steps=steps
    )


def step(value: Array, gradient: Any) -> Any:
    params = {"w": of(D)}
    return trust_region.trust_region_step(
        lambda params: (of(), of()), value, gradient, lambda v: v, params, max_divergence=0.1, iterations=2, damping=0.1
    )


STEPS, FEW = jnp.zeros((2, B), jnp.int32), jnp.zeros((2, B + 1), jnp.int32)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[tuple[Any, ...]]]] = {
    # Cases are a function, correct arguments, and wrong ones.
    "discounted_returns": (
        returns.discounted_returns,
        (of(T), of(T), 0.0),
        [(of(T, B), of(T, B), 0.0), (of(T), of(), 0.0), (of(T), of(T), of(B))],
    ),
    "generalised_advantages": (
        returns.generalised_advantages,
        (of(T), of(T), of(T), of(T), 0.5),
        [(of(T), of(T), of(T), of(T + 1), 0.5), (of(T), of(T), of(T, 1), of(T), 0.5), (*[of(T)] * 4, of(T))],
    ),
    "expected_advantages": (
        returns.expected_advantages,
        (of(T, A), of(T, A), of(T, A, K), of(T, A, K), of(T), 0.9, 0.5),
        [
            (of(T, A), of(T), of(T, A, K), of(T, A, K), of(T), 0.9, 0.5),
            (of(T, A), of(T, A), of(T, A, K), of(T, A, 1), of(T), 0.9, 0.5),
            (of(T, A), of(T, A), of(T, A, K), of(T, A, K), of(T, 1), 0.9, 0.5),
        ],
    ),
    "remaining_horizon": (lambda discount: returns.remaining_horizon(T, discount), (0.9,), [(of(T),)]),
    "clipped_surrogate": (policy_gradients.clipped_surrogate, (of(T, B), of(T, B), 0.2), [(of(T, B), of(B), 0.2)]),
    "dice": (policy_gradients.dice, (of(T), of(T)), [(of(T, B), of(T, B)), (of(T), of(1))]),
    "weighted_sum": (policy_gradients.weighted_sum, (of(T, B), of(T, B)), [(of(T, B), of(T, 1))]),
    "masked_mean": (policy_gradients.masked_mean, (of(T, B), of(T, B)), [(of(T, B), of(B))]),
    "linear_features": (
        lambda observation, time: baselines.linear_features(observation, time, T),
        (of(B, T, D), of(B, T)),
        [(of(B, T, D), of(T)), (of(B, T), of(B, T))],
    ),
    "fit_linear": (
        baselines.fit_linear,
        (of(T, D), of(T), of(T)),
        [(of(T, D), of(T, 1), of(T)), (of(T, D), of(T), of()), (of(B, T, D), of(B), of(B))],
    ),
    "steps_without_replacement": (
        lambda valid: draws.steps_without_replacement(jax.random.key(0), valid, T),
        (of(T, B) > 0,),
        [(of(T - 1, B) > 0,)],
    ),
    "steps_of_episodes": (
        lambda lengths: draws.steps_of_episodes(jax.random.key(0), lengths, T, 2),
        (jnp.ones((A, B), jnp.int32),),
        [(jnp.ones(B, jnp.int32),)],
    ),
    "product": (
        gaussians.product,
        (gaussian(T, B, D), of(T, B)),
        [(gaussian(T, B, D), of(T)), (DiagonalGaussian(of(T, D), of(D)), None)],
    ),
    "sequential_elbo": (
        bound(T, B),
        (gaussian(T, B, D), gaussian(B, D), None),
        [(gaussian(T, B, D), gaussian(D), None), (gaussian(T, D), gaussian(D), None)],
    ),
    "sequential_elbo of steps": (
        bound(2, B),
        (gaussian(T, B, D), gaussian(B, D), STEPS),
        [(gaussian(T, B, D), gaussian(B, D), FEW), (gaussian(T, B, D), gaussian(B, D), None)],
    ),
    "observe": (
        lambda x, weight: running_statistics.observe(STATISTICS, x, weight),
        (of(T, B, D), of(T, B)),
        [(of(T, B, D), of(T)), (of(T, B), of(T, B))],
    ),
    "normalise": (lambda x: running_statistics.normalise(STATISTICS, x, 10.0), (of(T, B, D),), [(of(T, B),)]),
    "trust_region_step": (step, (of(), {"w": of(D)}), [(of(T), {"w": of(D)}), (of(), {"w": of(1)})]),
    "episode_returns": (lambda t: episode_returns(t, 2), (trial(T),), [(trial(T, B),)]),
    "episode_successes": (
        lambda t: episode_successes(t, SUCCESSFUL, of(A), 2),
        (trial(T),),
        [(trial(T)._replace(reward=of(T, B)),)],
    ),
    "ppo.prepare": (prepare, (trial(T), of(T)), [(trial(T + 1), of(T + 1)), (trial(T), of(T, 1))]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_shape_is_one_clear_error(name: str) -> None:
    function, right, wrong = CASES[name]
    jax.eval_shape(lambda: function(*right))
    for arguments in wrong:
        with pytest.raises(AssertionError, match=r"Assertion assert_\w+ failed"):
            jax.eval_shape(lambda arguments=arguments: function(*arguments))


def test_a_policy_that_does_not_unroll_batches_is_named_by_the_shapes() -> None:
    """Make a policy whose ``unroll`` returns one value per step for any number of trials."""

    def unroll(params: Any, carry: Any, inputs: Inputs) -> Any:
        carry, output = POLICY.unroll(params, carry, inputs)
        return carry, output._replace(value=output.value[:, 0])

    learning = ppo.make(
        POLICY._replace(unroll=unroll), FAMILY.observation_space, T, ppo.Config(trials=B, minibatches=1)
    )
    key = jax.random.key(0)
    params = jax.eval_shape(POLICY.init, key)
    t = trial(T, B)
    obs = jnp.zeros((T, B, *FAMILY.observation_space.shape), jnp.float32)  # pyright: ignore[reportAttributeAccessIssue]
    batch = ppo.Batch(t.inputs._replace(obs=obs), t.action, *[of(T, B)] * 4)
    arguments = key, params, jax.eval_shape(learning.init, params), batch, jnp.int32(0)
    with pytest.raises(AssertionError, match=r"\(5, 3\).*\(5,\)"):
        jax.eval_shape(learning.update, *arguments)
