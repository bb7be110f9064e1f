"""PEARL: soft actor-critic agrees with known solutions, and adaptation uses only its own data."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.algorithms import pearl
from metarl_jax.environments import point_robot, tabular_mdp
from metarl_jax.interfaces.context import ContextEncoder, ContextNetworks, Experience
from metarl_jax.networks import context
from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.types import Algorithm, Array, EnvFamily, Key, Privileged, TaskDistribution, Transition

SIZES: dict[str, Any] = {
    "training_tasks": 4, "tasks": 2, "prior_episodes": 2, "posterior_episodes": 1, "initial_episodes": 3,
    "replay_episodes": 8, "gradient_steps": 2, "meta_batch": 3, "batch_size": 5, "context_size": 7,
    "adaptation_episodes": 4, "exploration_episodes": 1,
}  # fmt: skip


def networks(family: EnvFamily, latent_size: int = 2, units: int = 8) -> ContextNetworks:
    spaces = family.observation_space, family.action_space
    encoder = context.encoder(*spaces, latent_size=latent_size, hidden_sizes=(units,))
    return context.combine(*spaces, encoder, latent_size=latent_size, hidden_sizes=(units,))


FAMILY = point_robot.pearl_sparse()
NETWORKS = networks(FAMILY)


def make(**settings: Any) -> Algorithm:
    return pearl.make(FAMILY, NETWORKS, pearl.Config(**(SIZES | settings)))


ALGORITHM = make()


class Compiled(NamedTuple):
    start: pearl.State
    step: Any
    adapt: Any


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    start = jax.jit(ALGORITHM.init)(jax.random.key(0))
    return Compiled(start, jax.jit(ALGORITHM.step), jax.jit(ALGORITHM.adapt))


def same(a: Any, b: Any) -> bool:
    return all(bool(jnp.all(x == y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# ------------------------------------------------------------------------------------ soft actor-critic, solved


def soft_optimum(transition: np.ndarray, reward: np.ndarray, discount: float, temperature: float) -> np.ndarray:
    """Return optimal soft action values ``[S, A]``, by value iteration with V = temperature log sum exp(Q / ...)."""
    q = np.zeros_like(reward)
    for _ in range(500):
        q = reward + discount * transition @ (temperature * np.log(np.exp(q / temperature).sum(axis=-1)))
    return q


def learn(family: EnvFamily, **settings: Any) -> tuple[ContextNetworks, pearl.State]:
    """Make soft actor-critic on one task, from many random episodes, with the belief held at the prior."""
    made = networks(family, latent_size=1, units=32)
    config = SIZES | {"training_tasks": 1, "tasks": 1, "meta_batch": 1, "batch_size": 128, "kl_weight": 100.0}
    config |= {"initial_episodes": 500, "replay_episodes": 503, "gradient_steps": 2500, "target_rate": 0.05}
    algorithm = pearl.make(family, made, pearl.Config(**(config | settings), learning_rate=3e-3))
    return made, jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))[0]


@pytest.mark.slow
def test_discrete_soft_values_are_those_of_soft_value_iteration() -> None:
    """One tabular MDP is the only task. Critics ignore its time limit, and its noise averages out."""
    temperature, discount, scale = 0.7, 0.8, 2.0
    random = np.random.default_rng(0)
    transition = random.dirichlet(np.ones(3), size=(3, 2))
    reward = random.normal(size=(3, 2))
    task = tabular_mdp.TabularMDPParams(jnp.asarray(transition, jnp.float32), jnp.asarray(reward, jnp.float32))

    def mean_reward(task: tabular_mdp.TabularMDPParams, t: Transition, given: float) -> jax.Array:
        assert given == discount
        return task.reward_mean[jnp.argmax(t.inputs.obs, axis=-1), t.action]

    family = tabular_mdp.make(states=3, actions=2, horizon=10)
    tasks = TaskDistribution(lambda key: task, lambda key: task)
    family = family._replace(tasks=tasks, privileged=Privileged(training_reward=mean_reward))
    made, state = learn(family, temperature=temperature, discount=discount, reward_scale=scale)
    expected = soft_optimum(transition, scale * reward, discount, temperature)
    latent = jnp.zeros((3, 1))
    values = [
        made.critic.values(state.learned.critic, jnp.eye(3), latent, jnp.full(3, action, jnp.int32))
        for action in range(2)
    ]
    for twin in range(2):
        got = np.stack([np.asarray(each[twin]) for each in values], axis=-1)
        np.testing.assert_allclose(got, expected, rtol=0.03, atol=0.1)
    logits = made.actor.distribution(state.learned.actor, jnp.eye(3), latent).logits
    best = np.exp(expected / temperature)
    np.testing.assert_allclose(jax.nn.softmax(logits), best / best.sum(axis=-1, keepdims=True), atol=0.04)


@pytest.mark.slow
def test_real_actions_are_drawn_in_proportion_to_the_exponent_of_their_value() -> None:
    """If the critic is minus the squared distance to a target, the optimal actor is a Gaussian of variance T / 2."""
    temperature, target = 0.04, jnp.array([0.3, -0.2])
    made = networks(FAMILY, latent_size=1, units=32)

    def expected(params: Any, key: Key, obs: Array, latent: Array, distribution: Any) -> tuple[Array, Array]:
        action, log_prob = distribution.sample_with_log_prob(key)
        return -jnp.sum((action - target) ** 2, axis=-1), -log_prob

    made = made._replace(critic=made.critic._replace(expected=expected))
    # The belief is held at the prior. The latent variable below is its mean.
    config = dataclasses.replace(pearl.Config(**SIZES), temperature=temperature, kl_weight=100.0, batch_size=64)
    config = dataclasses.replace(config, gradient_steps=2000, learning_rate=2e-3)
    algorithm = pearl.make(FAMILY, made, config)
    state, metrics = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))
    actor = made.actor.distribution(state.learned.actor, jnp.zeros(2), jnp.zeros(1))
    draws = np.asarray(jax.vmap(actor.sample)(jax.random.split(jax.random.key(2), 4000)))
    np.testing.assert_allclose(draws.mean(axis=0), target, atol=0.05)
    np.testing.assert_allclose(draws.std(axis=0), math.sqrt(temperature / 2), rtol=0.15)
    # The reported entropy is that of this Gaussian. (The metric is a mean that includes earlier gradient steps.)
    assert float(metrics["entropy"]) == pytest.approx(math.log(math.pi * math.e * temperature), abs=0.3)


@pytest.mark.slow
def test_a_learned_temperature_converges_to_the_target_entropy() -> None:
    algorithm = make(
        gradient_steps=1000, learning_rate=5e-3, automatic_temperature=True, discount=0.0, target_entropy=-0.5
    )
    step = jax.jit(algorithm.step)
    state, metrics = algorithm.init(jax.random.key(0)), {}
    for seed in range(4):
        state, metrics = step(jax.random.key(seed), state)
    # The target is -0.5 nats for each of two entries.
    assert float(metrics["entropy"]) == pytest.approx(-1.0, abs=0.3)


# --------------------------------------------------------------------------------------------- what learns from what


@pytest.mark.slow
def test_the_encoder_is_trained_only_by_the_critics_and_its_divergence(compiled: Compiled) -> None:
    """Only critics and divergence train the encoder: without them its gradient is zero. Targets follow the critics."""
    start = compiled.start

    def after(**settings: Any) -> pearl.State:
        algorithm = make(gradient_steps=1, automatic_temperature=True, **settings)
        return jax.jit(algorithm.step)(jax.random.key(1), start)[0]

    one, other = after(), after(target_entropy=5.0, temperature=1.0)
    assert same(one.learned.encoder, other.learned.encoder)
    assert same(one.learned.critic, other.learned.critic)
    assert not same(one.learned.encoder, start.learned.encoder)
    scaled = after(reward_scale=50.0).learned
    assert not same(scaled.encoder, one.learned.encoder)
    assert not same(scaled.critic, one.learned.critic)
    moved = jax.tree.map(
        lambda new, old, target: jnp.allclose(target, 0.005 * new + 0.995 * old, atol=1e-7),
        one.learned.critic, start.target_critic, one.target_critic,
    )  # fmt: skip
    assert all(bool(x) for x in jax.tree.leaves(moved))


def test_the_replay_is_a_ring_of_the_newest_episodes_of_each_task(compiled: Compiled) -> None:
    """The ring buffer has eight places. Three are filled at the start, and three each time that a task is played."""
    start, step, _ = compiled
    states = [start]
    for i in range(4):
        states.append(step(jax.random.key(i), states[-1])[0])
    horizon = FAMILY.horizon
    for old, new in itertools.pairwise(states):
        played = np.flatnonzero(np.asarray(new.episodes) != np.asarray(old.episodes))
        assert len(played) == SIZES["tasks"]
        np.testing.assert_array_equal(np.asarray(new.episodes - old.episodes)[played], 3)
        for task in range(4):
            written = set()
            if task in played:
                written = {(int(old.episodes[task]) + i) % 8 for i in range(3)}
                assert not same(new.context.obs[task], old.context.obs[task])
                # Contexts are drawn from the first episodes that were added.
                places = (int(old.episodes[task]) * horizon + np.arange(2 * horizon)) % (8 * horizon)
                np.testing.assert_array_equal(new.context.action[task], new.replay.action[task, places])
            for place in range(8):
                rows = slice(place * horizon, (place + 1) * horizon)
                assert same(new.replay.action[task, rows], old.replay.action[task, rows]) == (place not in written)


def test_critics_learn_from_the_dense_reward_and_contexts_show_the_sparse_one(compiled: Compiled) -> None:
    state = compiled.step(jax.random.key(0), compiled.start)[0]
    filled = np.arange(8 * FAMILY.horizon) < 3 * FAMILY.horizon
    distance = jnp.linalg.norm(state.replay.next_obs - state.tasks.goal[:, None], axis=-1)
    np.testing.assert_allclose(state.replay.reward[:, filled], -distance[:, filled], rtol=1e-5)
    distance = jnp.linalg.norm(state.context.next_obs - state.tasks.goal[:, None], axis=-1)
    np.testing.assert_allclose(state.context.reward, jnp.where(distance <= 0.2, 1 - distance, 0.0), atol=1e-5)


def test_training_uses_only_steps_that_were_played(compiled: Compiled) -> None:
    """Unwritten places of the replay have no effect, and stored episodes have one."""
    start, step, _ = compiled
    filled = jnp.arange(8 * FAMILY.horizon) < 3 * FAMILY.horizon

    def spoilt(where: jax.Array) -> pearl.State:
        return start._replace(replay=start.replay._replace(reward=jnp.where(where, 1e6, start.replay.reward)))

    clean = step(jax.random.key(1), start)[0].learned
    assert same(clean, step(jax.random.key(1), spoilt(jnp.logical_not(filled)))[0].learned)
    assert not same(clean, step(jax.random.key(1), spoilt(filled))[0].learned)


# ----------------------------------------------------------------------------------------------------- contexts


def beliefs_from(statistic: Callable[[Array], Array]) -> ContextNetworks:
    """Make networks whose belief has the parameter times a statistic of the number of valid steps as its mean."""

    def infer(params: Any, experience: Experience) -> DiagonalGaussian:
        mean = params * statistic(jnp.sum(experience.valid)) * jnp.ones(2)
        return DiagonalGaussian(mean, jnp.zeros(2))

    return NETWORKS._replace(encoder=ContextEncoder(lambda key: jnp.float32(1), infer))


def divergence(statistic: Callable[[Array], Array], **settings: Any) -> float:
    """Return the mean divergence N(statistic, 1) || N(0, 1) of two latent variables, the mean squared statistic."""
    changes: dict[str, Any] = {"meta_batch": 400, "gradient_steps": 1, "batch_size": 1}
    config = pearl.Config(**(SIZES | changes | settings))
    algorithm = pearl.make(FAMILY, beliefs_from(statistic), config)
    return float(jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))[1]["belief_divergence"])


def test_contexts_consist_of_steps_or_of_whole_episodes() -> None:
    in_episodes = lambda steps: steps / FAMILY.horizon  # noqa: E731
    incomplete = lambda steps: steps % FAMILY.horizon  # noqa: E731
    assert divergence(in_episodes) == pytest.approx((7 / 20) ** 2)
    # Two stored episodes, of which contexts have none, one or two: the mean square is 5 / 3.
    whole: dict[str, Any] = {"context_unit": "episode", "context_size": 40}
    assert divergence(in_episodes, **whole) == pytest.approx(5 / 3, rel=0.25)
    assert divergence(incomplete, **whole) == 0
    # A context has at most as many episodes as its size holds.
    assert divergence(in_episodes, **{**whole, "context_size": 39}) == pytest.approx(1 / 2, rel=0.25)
    # With an episode of the posterior there are three, and the mean square is 14 / 4.
    more = {**whole, "context_size": 100, "posterior_context_episodes": 1}
    assert divergence(in_episodes, **more) == pytest.approx(14 / 4, rel=0.25)


def test_contexts_contain_episodes_of_the_posterior_if_they_are_asked_for() -> None:
    algorithm = make(posterior_context_episodes=1)
    start = jax.jit(algorithm.init)(jax.random.key(0))
    state = jax.jit(algorithm.step)(jax.random.key(1), start)[0]
    steps = 3 * FAMILY.horizon
    np.testing.assert_array_equal(start.context.action, start.replay.action[:, :steps])
    for task in np.flatnonzero(np.asarray(state.episodes) == 6):
        np.testing.assert_array_equal(state.context.action[task], state.replay.action[task, steps : 2 * steps])


def test_the_consistency_of_beliefs_has_its_closed_form() -> None:
    """The belief given n of two episodes is N(p n, 1). The gradient of its term by p is -2 p n (2 - n) on average."""

    def gradient(weight: float | None) -> float:
        settings: dict[str, Any] = {"context_size": 40, "meta_batch": 600, "gradient_steps": 1, "batch_size": 1}
        config = pearl.Config(**(SIZES | settings), consistency_weight=weight)
        algorithm = pearl.make(FAMILY, beliefs_from(lambda steps: steps / FAMILY.horizon), config)
        state = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))[0]
        # The first moment of Adam after one step is a tenth of the gradient.
        return 10 * float(state.optimizer.mu.encoder)  # pyright: ignore[reportAttributeAccessIssue]

    # One third of the draws has n = 1; the standard error is 6 % of the mean.
    assert gradient(100.0) - gradient(None) == pytest.approx(-100 * 2 / 3, rel=0.25)


# --------------------------------------------------------------------------------------------------- adapting


def adapts_on_its_own_data_alone(algorithm: Algorithm, state: pearl.State) -> bool:
    """Adaptation to a held-out task depends on the networks and its own episodes only.

    It does not depend on replay, contexts, training tasks, critics or moments.
    """
    adapt = jax.jit(algorithm.adapt)

    def poison(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.full_like(x, 123) if x.dtype != bool else jnp.logical_not(x), tree)

    learned = state.learned._replace(critic=poison(state.learned.critic))
    poisoned = poison(state)._replace(learned=learned)
    for seed in range(3):
        key, task = jax.random.key(seed), FAMILY.tasks.sample_heldout(jax.random.key(10 + seed))
        if not same(adapt(key, state, task), adapt(key, poisoned, task)):
            return False
    return True


def leaking(algorithm: Algorithm) -> Algorithm:
    """Adapt with context from the replay of a training task, a bug that a published library had for months."""

    def adapt(key: Key, state: pearl.State, task: Any) -> Any:
        replayed: Experience = jax.tree.map(lambda x: x[0], state.replay)
        belief = NETWORKS.encoder.infer(state.learned.encoder, replayed)
        adaptation = algorithm.adapt(key, state, task)
        beliefs = adaptation.learner._replace(mean=adaptation.learner.mean.at[-1].set(belief.mean))
        return adaptation._replace(learner=beliefs)

    return algorithm._replace(adapt=adapt)


def test_adaptation_uses_only_data_of_the_deployed_policy(compiled: Compiled) -> None:
    """The test detects an evaluation that uses data of the replay."""
    state = compiled.step(jax.random.key(1), compiled.start)[0]
    assert adapts_on_its_own_data_alone(ALGORITHM, state)
    assert not adapts_on_its_own_data_alone(leaking(ALGORITHM), state)


def test_beliefs_begin_with_the_prior_and_then_follow_the_observations(compiled: Compiled) -> None:
    state = compiled.step(jax.random.key(1), compiled.start)[0]
    task, key = FAMILY.tasks.sample_heldout(jax.random.key(2)), jax.random.key(3)
    late = jax.jit(make(exploration_episodes=3).adapt)
    for adapt, first in ((compiled.adapt, 1), (late, 3)):
        beliefs = adapt(key, state, task).learner
        assert beliefs.mean.shape == (4, 2)
        np.testing.assert_array_equal(beliefs.mean[:first], 0.0)
        np.testing.assert_allclose(beliefs.std[:first], 1.0, rtol=1e-6)
        # The variance falls with more steps, and no belief repeats.
        assert bool(jnp.all(jnp.diff(beliefs.std[first - 1 :], axis=0) < 0))
        assert bool(jnp.all(beliefs.mean[first:] != 0))
    # The same path with another reward gives another belief.
    unreachable = task.replace(goal=100 + task.goal)
    on_path = task.replace(goal=jnp.zeros(2))
    first, second = (compiled.adapt(key, state, t) for t in (unreachable, on_path))
    assert float(first.score[0]) == 0
    assert float(second.score[0]) > 0
    assert not same(first.learner.mean[1], second.learner.mean[1])


def test_no_data_pass_between_host_and_device(compiled: Compiled) -> None:
    """A meta-iteration under a guard that forbids transfers."""
    key, state = jax.random.key(1), compiled.step(jax.random.key(0), compiled.start)[0]
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(compiled.step(key, state))
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            compiled.step(key, state._replace(episodes=np.asarray([3, 3, 3, 3], np.int32)))


@pytest.mark.parametrize(
    ("field", "value"),
    [("training_tasks", 0), ("prior_episodes", 0), ("posterior_episodes", 0), ("gradient_steps", 0),
     ("discount", 1.5), ("target_rate", 0.0), ("reward_scale", 0.0), ("kl_weight", -1.0), ("temperature", 0.0),
     ("target_entropy", float("nan")), ("automatic_temperature", 1), ("exploration_episodes", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        make(**{field: value})


def test_the_target_entropy_of_discrete_actions_is_below_the_maximum() -> None:
    """A learned temperature would rise without limit."""
    family = tabular_mdp.make(states=3)
    spaces = family.observation_space, family.action_space
    encoder = context.encoder(*spaces, latent_size=2, hidden_sizes=(3,))
    networks = context.combine(*spaces, encoder, latent_size=2, hidden_sizes=(3,))
    for share in (-1.0, 0.5):
        with pytest.raises(ValueError, match=r"target_entropy of discrete actions must be .* above -1 "):
            pearl.make(family, networks, pearl.Config(automatic_temperature=True, target_entropy=share))
    pearl.make(family, networks, pearl.Config(automatic_temperature=False))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"tasks": 5}, r"tasks \(5\) must be at most training_tasks \(4\)"),
     ({"initial_episodes": 1}, r"initial_episodes \(1\) must be at least prior_episodes \+ posterior_c.* \(2\)"),
     ({"posterior_context_episodes": 2}, r"posterior_context_episodes \(2\) must be at most posterior_episodes \(1\)"),
     ({"context_unit": "episode"}, r"context_size \(7\) must be at least the horizon \(20\)"),
     ({"replay_episodes": 2}, r"replay_episodes \(2\) must be at least 3")],
)  # fmt: skip
def test_incompatible_settings_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
