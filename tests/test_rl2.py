"""RL²: memory and return cross the ends of episodes, and both stop at the end of the trial."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import equations

from metarl_jax import batching, ppo
from metarl_jax.agents import Agent
from metarl_jax.algorithms import rl2
from metarl_jax.environments import bandits
from metarl_jax.networks import gated, recurrent
from metarl_jax.ops.distributions import Categorical
from metarl_jax.ops.policy_gradients import weighted_sum
from metarl_jax.rollout import episode_returns, trial
from metarl_jax.types import (
    Algorithm,
    Array,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Metrics,
    Output,
    Policy,
    Privileged,
    TaskDistribution,
)

EPISODES = 3
FAMILY = bandits.bernoulli(2)


def counting_policy() -> Policy:
    """Make a policy whose memory counts the steps since its last reset. It plays arm 0, and its values are 0."""

    def step(params: Any, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        del inputs
        logits = jnp.array([50.0, -50.0]) + params["logits"]
        return carry + 1, Output(Categorical(logits), params["value"] * 1.0)

    def unroll(params: Any, carry: Array, inputs: Inputs) -> tuple[Array, Output]:
        return jax.lax.scan(lambda c, x: step(params, c, x), carry, inputs)

    return Policy(
        init=lambda key: {"logits": jnp.zeros(2), "value": jnp.zeros(())},
        initial_carry=lambda params: jnp.float32(0),
        step=step,
        unroll=unroll,
    )


def test_memory_lasts_over_the_episodes_of_a_trial_and_is_reset_for_the_next_trial() -> None:
    algorithm = rl2.make(FAMILY, counting_policy(), rl2.Config(episodes=EPISODES, trials=2, minibatches=1))
    state = algorithm.init(jax.random.key(0))
    for seed in range(2):
        adaptation = algorithm.adapt(jax.random.key(seed), state, FAMILY.tasks.sample(jax.random.key(seed)))
        assert float(adaptation.learner) == EPISODES


@pytest.mark.parametrize("cell", gated.GATES)
def test_information_from_one_episode_is_remembered_in_the_next(cell: gated.Cell) -> None:
    policy = recurrent.make(FAMILY, recurrent.Settings(cell=cell, hidden_size=8))
    params = policy.init(jax.random.key(0))

    def logits(first_reward: float) -> Array:
        """Return the output at the third episode, after two episodes that differ in the first reward only."""
        inputs = Inputs(
            obs=jnp.zeros((3, 0)),
            prev_action=jnp.zeros(3, jnp.int32),
            prev_reward=jnp.array([0.0, first_reward, 0.0]),
            prev_done=jnp.array([0.0, 1.0, 1.0]),
            first=jnp.arange(3) == 0,
        )
        return policy.unroll(params, policy.initial_carry(params), inputs)[1].value[2]

    assert logits(0.0) != logits(1.0)


class Delayed:
    """Two episodes of one step, where the reward of the second is the action of the first.

    Only a return that crosses the end of the episode credits this action.
    """

    def reset(self, key: Key, params: Array) -> tuple[Array, Array]:
        del key, params
        return jnp.zeros(1), jnp.zeros(())

    def step(self, key: Key, state: Array, action: Array, params: Array) -> tuple[Any, ...]:
        # The state survives the end of the episode, and the learner does not observe it.
        del key, params
        reward = state
        done = jnp.bool_(True)
        return jnp.zeros(1), action.astype(jnp.float32), reward, done, done, {"final_observation": jnp.zeros(1)}

    def action_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(2)

    def observation_space(self, params: Any = None) -> Box:
        del params
        return Box(0.0, 1.0, (1,))


def first_step_policy() -> Policy:
    """Make a policy with one parameter for the first action of a trial. Other actions are uniform, and values are 0."""

    def step(params: Any, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        d = jnp.where(inputs.first, params["d"], 0.0)
        return carry, Output(Categorical(jnp.stack([jnp.zeros_like(d), d], axis=-1)), 0.0 * d)

    return Policy(lambda key: {"d": jnp.zeros(())}, lambda params: (), step, step)


def delayed_family() -> EnvFamily:
    env = Delayed()
    tasks = TaskDistribution(jax.random.uniform, jax.random.uniform)
    return EnvFamily(env, tasks, 1, env.observation_space(), Discrete(2))


def learned(episodes: int, discount: float) -> float:
    config = rl2.Config(
        episodes=episodes, trials=256, minibatches=1, epochs=1, learning_rate=0.1, iterations=20, discount=discount,
        gae_lambda=1.0, entropy_coefficient=0.0, learning_rate_schedule="constant", normalise_advantages=False,
    )  # fmt: skip
    algorithm = rl2.make(delayed_family(), first_step_policy(), config)

    def loop(state: Any, key: Key) -> tuple[Any, None]:
        return algorithm.step(key, state)[0], None

    keys = jax.random.split(jax.random.key(1), 20)
    state = jax.jit(lambda s: jax.lax.scan(loop, s, keys)[0])(algorithm.init(jax.random.key(0)))
    return float(state.params["d"])


def test_the_return_crosses_the_ends_of_episodes() -> None:
    assert learned(episodes=2, discount=1.0) > 1.0


def test_with_a_discount_of_zero_later_episodes_have_no_effect() -> None:
    assert abs(learned(episodes=2, discount=0.0)) < 1e-3


def test_the_return_stops_where_the_trial_does() -> None:
    """In a trial of one episode, the reward of the action in a next episode must not count."""
    assert abs(learned(episodes=1, discount=1.0)) < 1e-3


def test_most_likely_actions_are_for_held_out_tasks_only() -> None:
    """With ``deterministic`` the first action is the more probable one for every key, and training is unchanged."""
    family = delayed_family()

    def make(deterministic: bool) -> Algorithm:
        config = rl2.Config(episodes=2, trials=4, minibatches=2, deterministic=deterministic)
        return rl2.make(family, first_step_policy(), config)

    def after(algorithm: Algorithm) -> rl2.State:
        return jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))[0]

    sampled, likely = make(deterministic=False), make(deterministic=True)
    jax.tree.map(np.testing.assert_array_equal, after(sampled), after(likely))
    state = sampled.init(jax.random.key(0))
    state = state._replace(params={"d": jnp.float32(0.5)})
    keys = jax.random.split(jax.random.key(2), 100)

    def actions(algorithm: Algorithm) -> Array:
        # The reward of the second episode is the action of the first.
        return jax.vmap(lambda key: algorithm.adapt(key, state, jnp.zeros(())).score[1])(keys)

    np.testing.assert_array_equal(actions(likely), 1)
    assert 40 < float(jnp.sum(actions(sampled))) < 85
    agent = Agent(likely, state, family)
    chosen = []
    for seed in range(10):
        agent.reset(seed)
        chosen.append(agent.act(np.zeros(1)))
    assert chosen == [1] * 10


@pytest.mark.slow
def test_the_training_reward_is_neither_observed_nor_reported() -> None:
    def after(family: EnvFamily, **settings: Any) -> tuple[rl2.State, Any]:
        policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=4))
        config = rl2.Config(episodes=EPISODES, trials=4, minibatches=2, entropy_coefficient=0.0, **settings)
        algorithm = rl2.make(family, policy, config)
        return jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))

    def paying(reward: Any) -> EnvFamily:
        return FAMILY._replace(privileged=Privileged(training_reward=reward))

    def same(a: Any, b: Any) -> bool:
        return all(bool(jnp.all(x == y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    usual, metrics = after(FAMILY)
    assert same(after(paying(lambda task, t, discount: t.reward), training_reward="task")[0], usual)
    assert same(after(paying(lambda task, t, discount: 0 * t.reward))[0], usual), "not asked for"
    other, other_metrics = after(paying(lambda task, t, discount: -t.reward), training_reward="task")
    assert not same(other.params, usual.params)
    assert other_metrics["trial_reward"] == metrics["trial_reward"]


def test_belief_rewards_train_the_policy_and_cover_whole_trials() -> None:
    def after(family: EnvFamily, training_reward: Any) -> rl2.State:
        policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=4))
        config = rl2.Config(episodes=EPISODES, trials=4, minibatches=2, training_reward=training_reward)
        algorithm = rl2.make(family, policy, config)
        return jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))[0]

    def so_far(t: Any, discount: float) -> Array:
        assert t.reward.shape == (EPISODES * FAMILY.horizon,)
        return jnp.cumsum(t.reward) * discount

    of_belief = after(FAMILY._replace(privileged=Privileged(belief_reward=so_far)), "belief")
    of_task_alone = Privileged(training_reward=lambda task, t, discount: so_far(t, discount))
    of_task = after(FAMILY._replace(privileged=of_task_alone), "task")
    paid = after(FAMILY, "paid")
    first, *_ = jax.tree.leaves(of_belief.params)
    np.testing.assert_array_equal(first, jax.tree.leaves(of_task.params)[0])
    assert not np.array_equal(first, jax.tree.leaves(paid.params)[0])


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        ("task", {"training_reward": None}, r'"task" needs .*privileged.training_reward, .*: use "paid" or "belief"$'),
        ("belief", {"belief_reward": None}, r'"belief" needs .*privileged.belief_reward, .*: use "paid" or "task"$'),
        ("task", {"training_reward": None, "belief_reward": None}, r'use "paid"$'),
        ("tsak", {}, r"training_reward must be one of .*tsak.*did you mean"),
    ],
)
def test_a_training_reward_that_the_family_lacks_is_named(asked: Any, there: dict[str, Any], message: str) -> None:
    family = bandits.bernoulli(2)
    assert family.privileged is not None
    family = family._replace(privileged=family.privileged._replace(**there))
    with pytest.raises(ValueError, match=message):
        rl2.make(family, counting_policy(), rl2.Config(training_reward=asked))


def test_adaptation_scores_are_the_returns_of_its_episodes() -> None:
    policy = recurrent.make(FAMILY, recurrent.Settings(hidden_size=4))
    algorithm = rl2.make(FAMILY, policy, rl2.Config(episodes=EPISODES, trials=2, minibatches=1))
    state, task, key = algorithm.init(jax.random.key(0)), FAMILY.tasks.sample(jax.random.key(1)), jax.random.key(2)

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        carry, output = policy.step(state.params, carry, inputs)
        return carry, output.distribution.sample(key), ()

    carry, transitions = trial(key, act, policy.initial_carry(state.params), FAMILY, task, EPISODES)
    got = algorithm.adapt(key, state, task)
    np.testing.assert_array_equal(got.score, episode_returns(transitions, EPISODES))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got.learner, carry)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("episodes", 0),
        ("trials", -1),
        ("trials", 1.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "fast"),
        ("discount", 1.5),
        ("gae_lambda", -0.1),
        ("gae_lambda_rise", 1.1),
        ("clip", 0.0),
        ("value_unit", "metres"),
        ("learning_rate_schedule", "step"),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        rl2.make(FAMILY, counting_policy(), rl2.Config(**{field: value}))  # pyright: ignore[reportArgumentType]


def test_trials_must_divide_into_minibatches() -> None:
    with pytest.raises(ValueError, match="multiple of minibatches"):
        rl2.make(FAMILY, counting_policy(), rl2.Config(trials=10, minibatches=4))


class _Coin:
    """Episodes of up to 4 steps with random ends. The reward is the action times the task."""

    horizon = 4

    def reset(self, key: Key, params: Array) -> tuple[Array, Array]:
        del key, params
        return jnp.zeros(1), jnp.int32(0)

    def step(self, key: Key, state: Array, action: Array, params: Array) -> tuple[Any, ...]:
        terminated, truncated = jax.random.bernoulli(key, 0.5), state + 1 >= self.horizon
        time = jnp.where(terminated | truncated, 0, state + 1)
        obs = time[None].astype(jnp.float32)
        return obs, time, params * action, terminated, truncated, {"final_observation": obs}

    def action_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(2)

    def observation_space(self, params: Any = None) -> Box:
        del params
        return Box(0.0, 4.0, (1,))


def coin_family() -> EnvFamily:
    tasks = TaskDistribution(jax.random.normal, jax.random.normal)
    return EnvFamily(_Coin(), tasks, _Coin.horizon, _Coin().observation_space(), _Coin().action_space())


@pytest.mark.parametrize(("family", "parts"), [(coin_family(), 2), (coin_family(), 4), (FAMILY, 2)])
def test_a_gradient_in_parts_is_the_gradient(family: EnvFamily, parts: int) -> None:
    """Trials have different lengths, so that a mean of the parts' means would differ. The policy observes nothing."""
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))

    def step(accumulation: int) -> Any:
        # Adam's epsilon is so large that its step is proportional to the gradient.
        config = rl2.Config(
            episodes=2, trials=16, minibatches=2, epochs=1, adam_epsilon=1e3, learning_rate=1e4, iterations=10,
            accumulation=accumulation,
        )  # fmt: skip
        algorithm = rl2.make(family, policy, config)
        state = algorithm.init(jax.random.key(0))
        after, metrics = jax.jit(algorithm.step)(jax.random.key(1), state)
        return jax.tree.map(jnp.subtract, after.params, state.params), metrics

    (whole, metrics), (in_parts, same_metrics) = step(1), step(parts)
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(whole)) > 1e-2
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(in_parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, same_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_numbers_do_not_depend_on_how_many_trials_are_vectorised(monkeypatch: pytest.MonkeyPatch) -> None:
    family = coin_family()
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))
    algorithm = rl2.make(family, policy, rl2.Config(episodes=2, trials=32, minibatches=2, iterations=10))
    state = algorithm.init(jax.random.key(0))

    def step(bytes_at_once: int, widths: set[int]) -> Any:
        monkeypatch.setattr(batching, "CACHED_CARRIES", bytes_at_once)
        traced = jax.jit(lambda key, state: algorithm.step(key, state)).trace(jax.random.key(1), state)
        # These are the memories that are carried from step to step of trials.
        scanned = [e for e in equations(traced.jaxpr.jaxpr) if e.primitive.name == "scan" and e.params["length"] == 8]
        widths |= {v.aval.shape[0] for e in scanned for v in e.outvars if v.aval.shape[1:] == (4,)}
        return traced.lower().compile()(jax.random.key(1), state)

    all_at_once: set[int] = set()
    eight: set[int] = set()
    whole, sequential = step(2**22, all_at_once), step(8 * 16, eight)
    assert 32 in all_at_once
    assert 8 in eight and 32 not in eight
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), sequential, whole)


def test_lambda_rises_and_the_entropy_bonus_decays() -> None:
    """Schedules have their exact values in the middle of training.

    With a rise of 0.8, lambda 0.5 is then 0.5 + 0.8 * 0.5 * 0.5 = 0.7. With a decay in 0.6 of training, a bonus of 6 is
    then 6 * (1 - 0.5 / 0.6) = 1.
    """
    family = coin_family()
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))

    @jax.jit
    def stepped(iteration: Array, settings: dict[str, Any]) -> Any:
        config = rl2.Config(
            episodes=2, trials=8, minibatches=1, iterations=10, learning_rate_schedule="constant", **settings
        )
        algorithm = rl2.make(family, policy, config)
        state = algorithm.init(jax.random.key(0))._replace(iteration=iteration)
        # A new policy is nearly uniform, so its entropy has almost no gradient.
        uneven = jax.tree.map(lambda x: x + jnp.sin(jnp.arange(1.0, x.size + 1)).reshape(x.shape), state.params)
        return algorithm.step(jax.random.key(1), state._replace(params=uneven))[0].params

    def params(iteration: int, **settings: float) -> Any:
        usual = {"gae_lambda": 0.6, "gae_lambda_rise": 0.0, "entropy_coefficient": 0.05, "entropy_decay": 1.0}
        return stepped(jnp.int32(iteration), jax.tree.map(jnp.float32, usual | settings))

    def distance(a: Any, b: Any) -> float:
        return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    risen = params(5, gae_lambda=0.5, gae_lambda_rise=0.8)
    assert distance(risen, params(5, gae_lambda=0.7)) < 1e-5
    assert distance(risen, params(5, gae_lambda=0.5)) > 1e-4
    assert distance(params(0, gae_lambda=0.5, gae_lambda_rise=0.8), params(0, gae_lambda=0.5)) < 1e-5

    decayed = params(5, entropy_coefficient=6.0, entropy_decay=0.6)
    assert distance(decayed, params(5, entropy_coefficient=2.0)) < 1e-5
    assert distance(decayed, params(5, entropy_coefficient=0.0)) > 1e-4
    over = params(8, entropy_coefficient=6.0, entropy_decay=0.6)
    assert distance(over, params(8, entropy_coefficient=0.0)) < 1e-5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.5, 0.4, 0.1, 0.1]),
        ("cosine", [0.5, 0.1 + 0.4 * (1 + np.cos(np.pi / 4)) / 2, 0.1, 0.1]),
    ],
)
def test_the_learning_rate_is_a_function_of_the_iteration(schedule: Any, expected: list[float]) -> None:
    """Schedules are exact at 0, 2, 8 and 9 of 8 iterations, and all numbers may be tracers.

    All epochs of one iteration have the same rate.
    """
    family = coin_family()

    @jax.jit
    @jax.vmap
    def rates(iteration: Array, rate: Array, fraction: Array) -> tuple[Array, Array]:
        settings: dict[str, Any] = {"learning_rate": rate, "final_learning_rate_fraction": fraction}
        config = rl2.Config(
            episodes=2, trials=4, minibatches=2, iterations=8, epochs=3, learning_rate_schedule=schedule, **settings
        )
        algorithm = rl2.make(family, first_step_policy(), config)
        state = algorithm.init(jax.random.key(0))._replace(iteration=iteration)
        after, metrics = algorithm.step(jax.random.key(1), state)
        return metrics["learning_rate"], jnp.abs(after.params["d"])

    iterations = jnp.array([0, 2, 8, 9], jnp.int32)
    got, moved = rates(iterations, jnp.full(4, 0.5), jnp.full(4, 0.2))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    # Adam's first step has the size of the learning rate, and later steps are not longer.
    assert bool(jnp.all(moved <= 6 * got * 1.001))
    assert got.dtype == jnp.float32


def test_minibatches_must_divide_into_parts() -> None:
    with pytest.raises(ValueError, match=r"the trials of a minibatch \(4\) must be a multiple of accumulation \(3\)"):
        rl2.make(FAMILY, counting_policy(), rl2.Config(trials=8, minibatches=2, accumulation=3))


def reward_prediction(weight: float) -> ppo.Auxiliary:
    """An auxiliary loss as a user writes it: features of the memory predict the reward of a step linearly."""

    def loss(params: ppo.WithAuxiliary, output: Output, batch: ppo.Batch) -> tuple[Array, Metrics]:
        assert output.features is not None
        predicted = output.features[:-1] @ params.auxiliary
        error = weighted_sum((predicted - batch.inputs.prev_reward[1:]) ** 2, batch.weight[1:])
        return weight * error, {"reward_error": error}

    return ppo.Auxiliary(loss, lambda key: jax.random.normal(key, (4,)))


@pytest.mark.parametrize("normalise", [False, True])
def test_with_an_auxiliary_loss_of_zero_the_numbers_are_those_without(normalise: bool) -> None:
    family = coin_family()
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))
    config = rl2.Config(episodes=2, trials=8, minibatches=2, iterations=10, normalise_observations=normalise)

    def after(auxiliary: ppo.Auxiliary | None) -> tuple[Any, Metrics]:
        algorithm = rl2.make(family, policy, config, auxiliary=auxiliary)
        state, metrics = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))
        return state.params, metrics

    (params, metrics), (both, more) = after(None), after(reward_prediction(0.0))
    assert more.keys() - metrics.keys() == {"reward_error"}
    assert float(more.pop("reward_error")) > 0
    if normalise:
        params, seen, both, same_seen = params.network, params.seen, both.network, both.seen
        jax.tree.map(np.testing.assert_array_equal, same_seen, seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), both.policy, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), more, metrics)


def test_an_auxiliary_loss_trains_the_memory_and_parameters_of_its_own() -> None:
    """Trials have different lengths, and their gradient is computed in parts."""
    family, trials, weight = coin_family(), 8, 3.0
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))
    # Adam's epsilon is so large that its step is minus the gradient.
    config = rl2.Config(
        episodes=2, trials=trials, minibatches=1, epochs=1, accumulation=2, adam_epsilon=1e6, learning_rate=1e6,
        max_grad_norm=1e6, iterations=10,
    )  # fmt: skip
    key = jax.random.key(1)

    def step(auxiliary: ppo.Auxiliary | None) -> tuple[Any, Any, Metrics]:
        algorithm = rl2.make(family, policy, config, auxiliary=auxiliary)
        state = algorithm.init(jax.random.key(0))
        after, metrics = jax.jit(algorithm.step)(key, state)
        return state.params, jax.tree.map(jnp.subtract, state.params, after.params), metrics

    start, gradient, metrics = step(reward_prediction(weight))
    first, plain, _ = step(None)
    jax.tree.map(np.testing.assert_array_equal, start.policy, first)

    @jax.jit
    @jax.value_and_grad
    def by_hand(params: ppo.WithAuxiliary) -> Array:
        def errors(key: Key) -> tuple[Array, Array]:
            def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, Output]:
                carry, output = policy.step(params.policy, carry, inputs)
                return carry, jax.lax.stop_gradient(output.distribution.sample(key)), output

            key_task, key_trial = jax.random.split(key)
            task = family.tasks.sample(key_task)
            _, t = trial(key_trial, act, policy.initial_carry(params.policy), family, task, 2)
            # No input contains the reward of the last step.
            followed = jnp.append(t.valid[1:], False)
            squares = (t.output.features @ params.auxiliary - t.reward) ** 2
            return jnp.sum(jnp.where(followed, squares, 0.0)), jnp.sum(t.valid)

        keys = jax.random.split(jax.random.split(key)[0], trials)
        error, steps = jax.vmap(errors)(keys)
        return jnp.sum(error) / jnp.sum(steps)

    error, expected = by_hand(start)
    np.testing.assert_allclose(metrics["reward_error"], error, rtol=1e-5)
    difference = jax.tree.map(jnp.subtract, gradient.policy, plain), gradient.auxiliary
    expected = jax.tree.map(lambda x: weight * x, (expected.policy, expected.auxiliary))
    assert max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected[0])) > 1e-2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), difference, expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda params, output, batch: (output.value, {}),
            r"an auxiliary loss must be a scalar, not of shape \(4, 2\)",
        ),
        (lambda params, output, batch: (0.0, {"entropy": jnp.float32(0)}), "PPO already has a metric 'entropy'"),
    ],
)
def test_a_wrong_auxiliary_loss_is_a_clear_error(loss: Any, message: str) -> None:
    config = rl2.Config(episodes=2, trials=4, minibatches=2)
    family = FAMILY._replace(horizon=2)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))
    algorithm = rl2.make(family, policy, config, auxiliary=ppo.Auxiliary(loss))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(algorithm.step, jax.random.key(1), state)
