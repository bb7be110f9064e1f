"""Networks of VariBAD: encoders equal a scan of their steps, and decoders give the log-probability of whole trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import probe_family

from metarl_jax.environments import gridnavi
from metarl_jax.networks import belief
from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, Discrete, EnvFamily, Inputs, Key, Params, Transition

GRID, PROBE = gridnavi.make(3, 4), probe_family()
TRIALS, EPISODES, LATENTS, SIZE = 3, 2, 4, 2


def random_trials(family: EnvFamily) -> Transition:
    """Trials of random actions, ``[T, TRIALS, ...]``; the trials of the probe end early."""

    def one(key: Key) -> Transition:
        def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
            del inputs
            discrete = isinstance(family.action_space, Discrete)
            action = jax.random.randint(key, (), 0, 5) if discrete else jax.random.normal(key, (2,))
            return carry, action, ()

        return trial(key, act, (), family, family.tasks.sample(key), EPISODES)[1]

    return jax.jit(jax.vmap(one, out_axes=1))(jax.random.split(jax.random.key(0), TRIALS))


def noisy(init: Callable[[Key], Params]) -> Params:
    """Parameters away from their initial values, where biases are zero."""
    params = jax.jit(init)(jax.random.key(0))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.3 * random.normal(size=x.shape).astype(np.float32), params)


@pytest.mark.parametrize("family", [GRID, PROBE], ids=["index", "vector"])
def test_the_encoder_unrolls_as_it_steps_and_sees_the_previous_observation(family: EnvFamily) -> None:
    encoder = belief.encoder(
        family.observation_space, family.action_space, latent_size=SIZE, hidden_size=6, embedding_size=9, readout_size=4
    )
    params, inputs = noisy(encoder.init), random_trials(family).inputs

    def stepped(params: Params, inputs: Inputs) -> DiagonalGaussian:
        def one(inputs: Inputs) -> DiagonalGaussian:
            start = encoder.initial_carry(params)
            return jax.lax.scan(lambda carry, x: encoder.step(params, carry, x), start, inputs)[1]

        return jax.vmap(one, in_axes=1, out_axes=1)(inputs)

    def unrolled(params: Params, inputs: Inputs) -> DiagonalGaussian:
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (TRIALS, *x.shape)), encoder.initial_carry(params))
        return encoder.unroll(params, start, inputs)[1]

    def loss(params: Params, play: Any) -> tuple[Array, DiagonalGaussian]:
        beliefs = play(params, inputs)
        return jnp.sum(jnp.sin(beliefs.mean) + beliefs.log_std**2), beliefs

    (_, expected), expected_gradient = jax.jit(lambda p: jax.value_and_grad(loss, has_aux=True)(p, stepped))(params)
    (_, got), gradient = jax.jit(lambda p: jax.value_and_grad(loss, has_aux=True)(p, unrolled))(params)
    for a, b in zip(jax.tree.leaves((got, gradient)), jax.tree.leaves((expected, expected_gradient)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert got.mean.shape == got.log_std.shape == (inputs.first.shape[0], TRIALS, SIZE)
    # The observation of step 1 is an input of step 1 and, as the previous observation, of step 2; not of earlier steps.
    changed = inputs._replace(obs=inputs.obs.at[1].set(1 - inputs.obs[1]))
    other = jax.jit(unrolled)(params, changed)
    np.testing.assert_allclose(other.mean[0], got.mean[0], atol=1e-6)
    assert bool(jnp.all(jnp.any(other.mean[1:3] != got.mean[1:3], axis=-1)))


def test_the_cell_decoder_equals_a_loop_over_steps() -> None:
    decoder = belief.grid_decoder(GRID.observation_space, latent_size=SIZE, hidden_sizes=(5,), threshold=0.5)
    params, trials = noisy(decoder.init), random_trials(GRID)
    reward = np.where(np.random.default_rng(2).random(trials.reward.shape) < 0.4, 1.0, -0.1)
    valid = np.arange(len(reward))[:, None] < np.array([len(reward), len(reward) - 2, len(reward)])
    trials = trials._replace(reward=jnp.asarray(reward), valid=jnp.asarray(valid))
    latent = jnp.asarray(np.random.default_rng(1).normal(size=(LATENTS, TRIALS, SIZE)), jnp.float32)
    got = np.asarray(jax.jit(decoder.log_likelihood)(params, latent, trials))
    weights = params["params"]
    hidden = np.maximum(np.asarray(latent) @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"], 0)
    probability = 1 / (1 + np.exp(-(hidden @ weights["head"]["kernel"] + weights["head"]["bias"])))
    assert decoder.pays is not None
    np.testing.assert_allclose(decoder.pays(params, latent[:, 0]), probability[:, 0], rtol=1e-4)
    expected = np.zeros((LATENTS, TRIALS))
    for i in range(TRIALS):
        for step in range(trials.reward.shape[0]):
            if trials.valid[step, i]:
                p = probability[:, i, int(trials.final_obs[step, i])]
                expected[:, i] += np.log(p if trials.reward[step, i] > 0.5 else 1 - p)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("transitions", [False, True], ids=["rewards", "transitions too"])
@pytest.mark.parametrize("family", [GRID, PROBE], ids=["index", "vector"])
def test_the_step_decoder_is_the_sum_over_single_steps(family: EnvFamily, transitions: bool) -> None:
    """The decoder is compared with single steps and one latent variable; a reward's error counts as -error^2 / 2."""
    decoder = belief.step_decoder(
        family.observation_space, family.action_space, latent_size=SIZE, hidden_sizes=(6, 5), transitions=transitions
    )
    params, trials = noisy(decoder.init), random_trials(family)
    latent = jnp.asarray(np.random.default_rng(1).normal(size=(LATENTS, TRIALS, SIZE)), jnp.float32)

    @jax.jit
    def singly(latent: Array, step: Transition) -> Array:
        one = jax.tree.map(lambda x: x[None, None], step)
        return decoder.log_likelihood(params, latent[None, None], one)[0, 0]

    over = jax.jit(jax.vmap(jax.vmap(jax.vmap(singly, (None, 0)), (0, 1)), (0, None)))
    each = np.asarray(over(latent, trials))
    got = np.asarray(jax.jit(decoder.log_likelihood)(params, latent, trials))
    np.testing.assert_allclose(got, each.sum(axis=-1), rtol=1e-4)
    np.testing.assert_array_equal(each[:, ~np.asarray(trials.valid).T], 0)

    # The log-probability is highest at the predicted reward; one unit away from it, it is lower by a half.
    def at(reward: float) -> float:
        step = jax.tree.map(lambda x: x[0, 0], trials)._replace(reward=jnp.float32(reward))
        return float(singly(latent[0, 0], step))

    slope = (at(1.0) - at(-1.0)) / 2
    assert at(slope + 1.0) - at(slope) == pytest.approx(-0.5, abs=1e-4)
    assert at(slope - 1.0) - at(slope) == pytest.approx(-0.5, abs=1e-4)
    if transitions:
        other = trials._replace(final_obs=jnp.roll(trials.final_obs, 1, axis=0))
        assert bool(jnp.any(jax.jit(decoder.log_likelihood)(params, latent, other) != got))


def test_the_policy_is_shown_observation_mean_and_spread() -> None:
    space = GRID.observation_space
    networks = belief.combine(
        space,
        GRID.action_space,
        belief.encoder(space, GRID.action_space, latent_size=SIZE),
        belief.grid_decoder(space, latent_size=SIZE),
        latent_size=SIZE,
    )
    shown = networks.show(jnp.int32(4), DiagonalGaussian(jnp.array([0.5, -1.0]), jnp.array([0.1, 0.2])))
    np.testing.assert_allclose(shown, [*(np.arange(9) == 4), 0.5, -1.0, 0.1, 0.2], rtol=1e-6)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="needs discrete observations, not Box"):
        belief.grid_decoder(PROBE.observation_space)
    with pytest.raises(ValueError, match="threshold must be a finite number"):
        belief.grid_decoder(GRID.observation_space, threshold=float("nan"))
    with pytest.raises(ValueError, match="hidden_sizes must contain at least one layer"):
        belief.step_decoder(GRID.observation_space, GRID.action_space, hidden_sizes=())
    with pytest.raises(ValueError, match="latent_size must be a positive whole number, not 0"):
        belief.encoder(GRID.observation_space, GRID.action_space, latent_size=0)
