"""Draws of steps are uniform over valid steps, and equal plain uniform draws if there is no padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import belief_learning
from metarl_jax.algorithms import pearl, varibad
from metarl_jax.environments import bandits
from metarl_jax.interfaces.context import ContextNetworks
from metarl_jax.networks import belief, context
from metarl_jax.ops.draws import steps_of_episodes, steps_without_replacement, without_replacement
from metarl_jax.types import Array, EnvFamily, Key
from tests.probes import probe_family

STEPS = 40
KEYS = 4000


def assert_uniform(counts: np.ndarray, draws: int) -> None:
    """Assert that the counts of a uniform choice, and chi-square, are within five standard deviations."""
    expected = draws / len(counts)
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    chi_square, freedom = np.sum((counts - expected) ** 2) / expected, len(counts) - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom) + 10


@pytest.mark.parametrize(("population", "number"), [(1, 1), (5, 5), (16, 2), (4800, 5)])
def test_each_draw_without_replacement_is_uniform(population: int, number: int) -> None:
    drawn = np.asarray(without_replacement(jax.random.key(0), population, number, (KEYS, 5))).reshape(-1, number)
    assert drawn.min() >= 0
    assert drawn.max() < population
    assert all(len(set(row)) == number for row in drawn)
    bins = min(population, 8)
    for place in range(number):
        assert_uniform(np.bincount(drawn[:, place] // (population // bins), minlength=bins), len(drawn))


def test_draws_without_replacement_are_uniform_together() -> None:
    """All 24 ordered draws of 3 of 4 values are equally frequent."""
    drawn = np.asarray(without_replacement(jax.random.key(0), 4, 3, (KEYS, 5))).reshape(-1, 3)
    counts = np.bincount(drawn @ np.array([16, 4, 1]), minlength=64)
    assert np.count_nonzero(counts) == 24
    assert_uniform(counts[counts > 0], len(drawn))


def test_repetitions_can_have_populations_of_their_own() -> None:
    drawn = np.asarray(without_replacement(jax.random.key(0), jnp.array([3, 5, 80]), 3, (KEYS, 3)))
    for i, population in enumerate((3, 5, 80)):
        one = np.asarray(without_replacement(jax.random.key(1), population, 3, (KEYS,)))
        assert all(len(set(row)) == 3 for row in drawn[:, i])
        assert drawn[:, i].max() < population
        for rows in (drawn[:, i], one):
            assert_uniform(np.bincount(rows[:, 2], minlength=population), KEYS)


@pytest.mark.parametrize("valid_steps", [0, 1, 3, 8, 23, STEPS])
def test_steps_of_a_trial_are_drawn_among_its_valid_steps(valid_steps: int) -> None:
    """Only steps at odd indices of the second trial are valid."""
    number = 8
    valid = np.zeros((STEPS, 2), bool)
    valid[:valid_steps, 0] = True
    valid[1::2, 1] = True
    keys = jax.random.split(jax.random.key(0), KEYS)
    drawn = np.asarray(jax.vmap(lambda key: steps_without_replacement(key, jnp.asarray(valid), number))(keys))
    assert drawn.shape == (KEYS, number, 2)
    assert drawn.min() >= 0
    assert drawn.max() < STEPS
    for trial in range(2):
        count = min(number, int(valid[:, trial].sum()))
        assert valid[drawn[:, :count, trial], trial].all()
        assert not valid[drawn[:, count:, trial], trial].any()
        # The draws are without replacement.
        assert all(len(set(row)) == number for row in drawn[:200, :, trial])
        if count:
            counts = np.bincount(drawn[:, :count, trial].ravel(), minlength=STEPS)[valid[:, trial]]
            assert_uniform(counts, KEYS * count)
            # The order is random, too: the first draw alone is uniform.
            assert_uniform(np.bincount(drawn[:, 0, trial], minlength=STEPS)[valid[:, trial]], KEYS)


def test_without_padding_draws_are_those_of_jax_random() -> None:
    key = jax.random.key(3)
    expected = jax.random.choice(key, STEPS, (7,), replace=False)
    drawn = steps_without_replacement(key, jnp.ones((STEPS, 3), bool), 7)
    np.testing.assert_array_equal(drawn, np.broadcast_to(np.asarray(expected)[:, None], (7, 3)))

    # The ring buffers are filled to different lengths.
    lengths = jnp.array([[5, 5, 5, 0], [5, 5, 0, 0], [5, 5, 5, 5]])
    expected = jax.random.randint(key, (3, 100), 0, jnp.array([[15], [10], [20]]))
    np.testing.assert_array_equal(steps_of_episodes(key, lengths, 5, 100), expected)


def test_steps_of_episodes_are_drawn_among_the_valid_ones() -> None:
    lengths = np.array([[2, 5, 1, 0], [0, 0, 3, 4], [0, 0, 0, 0], [5, 5, 5, 5], [0, 1, 0, 0]])
    draws, horizon = 20_000, 5
    drawn = np.asarray(steps_of_episodes(jax.random.key(0), jnp.asarray(lengths, jnp.int32), horizon, draws))
    assert drawn.shape == (5, draws)
    for row, places in zip(lengths, drawn, strict=True):
        valid = (np.arange(horizon) < row[:, None]).ravel()
        assert places.min() >= 0
        assert places.max() < valid.size
        if valid.any():
            counts = np.bincount(places, minlength=valid.size)
            assert not counts[~valid].any()
            assert_uniform(counts[valid], draws)


# -------------------------------------------------------------------------------------------------------- VariBAD


def index_losses(monkeypatch: pytest.MonkeyPatch, bound_steps: int | None) -> np.ndarray:
    """Return VariBAD's losses in 40 iterations minus the mean of all valid indices.

    The bound of each step is minus its index.
    """

    def bound_is_minus_index(
        key: Key, beliefs: Any, log_likelihood: Any, prior: Any, kl_weight: Any, steps: Array | None
    ) -> tuple[Array, Array]:
        del key, log_likelihood, prior, kl_weight
        every = jnp.broadcast_to(jnp.arange(beliefs.mean.shape[0])[:, None], beliefs.mean.shape[:2])
        index = (every if steps is None else steps).astype(jnp.float32)
        return index, -index

    monkeypatch.setattr(belief_learning, "sequential_elbo", bound_is_minus_index)
    family = probe_family()
    spaces = family.observation_space, family.action_space
    networks = belief.combine(
        *spaces,
        belief.encoder(*spaces, latent_size=2, hidden_size=2, embedding_size=None),
        belief.step_decoder(*spaces, latent_size=2, hidden_sizes=(2,)),
        latent_size=2,
        hidden_sizes=(2,),
    )
    config = varibad.Config(
        episodes=2, trials=4, minibatches=1, epochs=1, buffer_trials=4, model_trials=60, model_updates=40,
        adaptation_episodes=1, bound_steps=bound_steps,
    )  # fmt: skip
    algorithm = varibad.make(family, networks, config)
    # Each iteration starts from the same state, and its buffer holds the four trials that the iteration collects.
    step, state = jax.jit(algorithm.step), algorithm.init(jax.random.key(0))
    differences = []
    for seed in range(40):
        after, metrics = step(jax.random.key(seed), state)
        valid = np.asarray(after.buffer.valid)
        differences.append(float(metrics["model_loss"]) - (valid @ np.arange(valid.shape[1])).sum() / valid.sum())
    return np.asarray(differences)


@pytest.mark.parametrize("bound_steps", [None, 2, 9])
def test_varibad_weights_valid_steps_equally(monkeypatch: pytest.MonkeyPatch, bound_steps: int | None) -> None:
    """For trials of 2 to 10 steps, the expected loss is the mean over all valid steps.

    It does not depend on the number of drawn steps.
    """
    differences = index_losses(monkeypatch, bound_steps)
    assert np.isfinite(differences).all()
    standard_error = differences.std(ddof=1) / np.sqrt(differences.size)
    assert abs(differences.mean()) < 4 * standard_error
    # Indices are between 0 and 9. The tolerance detects equal weights of trials instead of steps, an error of 0.3.
    assert standard_error < 0.06


# ---------------------------------------------------------------------------------------------------------- PEARL


def pearl_networks(family: EnvFamily) -> ContextNetworks:
    spaces = family.observation_space, family.action_space
    encoder = context.encoder(*spaces, latent_size=1, hidden_sizes=(4,))
    return context.combine(*spaces, encoder, latent_size=1, hidden_sizes=(4,))


PEARL_SIZES: dict[str, Any] = {
    "training_tasks": 3, "tasks": 2, "prior_episodes": 2, "posterior_episodes": 1, "initial_episodes": 2,
    "replay_episodes": 6, "gradient_steps": 2, "meta_batch": 3, "batch_size": 50, "context_size": 4,
    "adaptation_episodes": 1, "exploration_episodes": 1,
}  # fmt: skip


@pytest.mark.slow
def test_pearl_learns_from_valid_steps_of_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gradient step trains critics on padding."""
    family, seen = probe_family(), []
    original: Callable[..., Array] = pearl.steps_of_episodes

    def watched(key: Key, lengths: Array, horizon: int, number: int) -> Array:
        places = original(key, lengths, horizon, number)
        jax.debug.callback(lambda *x: seen.append([np.asarray(y) for y in x]), lengths, places)
        return places

    monkeypatch.setattr(pearl, "steps_of_episodes", watched)
    algorithm = pearl.make(family, pearl_networks(family), pearl.Config(**PEARL_SIZES))
    state, metrics = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))
    jax.effects_barrier()
    assert all(np.isfinite(float(x)) for x in metrics.values())
    valid = np.asarray(state.replay.valid)
    assert 0 < valid.sum() < valid.size
    kept = valid.reshape(3, 6, family.horizon).sum(axis=-1)
    assert len(seen) == PEARL_SIZES["gradient_steps"]
    for lengths, places in seen:
        assert places.shape == (3, 50)
        for row, drawn in zip(lengths, places, strict=True):
            task = int(np.flatnonzero((kept == row).all(axis=-1))[0])
            assert valid[task][drawn].all()


def test_pearl_takes_observations_of_width_zero() -> None:
    family = bandits.bernoulli(3)
    algorithm = pearl.make(family, pearl_networks(family), pearl.Config(**PEARL_SIZES))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert state.replay.obs.shape == (3, 6, 0)
    assert jax.eval_shape(algorithm.step, jax.random.key(0), state)[0].replay.obs.shape == (3, 6, 0)
