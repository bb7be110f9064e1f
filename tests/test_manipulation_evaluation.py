"""Success rates on Meta-World: ``per_goal`` is unbiased, and ``official`` counts as Meta-World does and overstates."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems
from metarl_jax.algorithms import maml, pearl, rl2
from metarl_jax.environments import bandits, manipulation
from metarl_jax.manipulation_evaluation import Attempts, _first_finished, attempt, official, per_goal
from metarl_jax.networks import context, mlp, recurrent
from metarl_jax.rollout import trial
from metarl_jax.types import Algorithm, Array, EnvFamily, Inputs, Key, Policy, State, Transition

metaworld: Any = importlib.import_module("metaworld.evaluation")
wrappers: Any = importlib.import_module("metaworld.wrappers")

# ---------------------------------------------------------------------------------------------------------------
# The rules, on outcomes of a learner that is known.


def always_on(goals: int, solved: int, step: int, horizon: int, skills: int = 1) -> Attempts:
    """Return the outcomes of a learner that always succeeds at a step on some goals of each skill, and never else."""
    steps = np.zeros((goals, 3), np.int64)
    steps[:solved] = step
    names = [f"skill {skill}" for skill in range(skills) for _ in range(goals)]
    return Attempts(np.tile(steps, (skills, 1)), tuple(names), horizon)


@pytest.mark.parametrize(("skills", "together"), [(5, 4), (1, 20)])
def test_one_goal_in_ten_reads_as_a_third_on_ml10_and_as_most_on_ml1(skills: int, together: int) -> None:
    """The official rate is the probability that an environment of a round has one of the solved goals."""
    attempts = always_on(goals=40, solved=4, step=40, horizon=150, skills=skills)
    exact = 1 - math.comb(36, together) / math.comb(40, together)
    assert per_goal(attempts).rate == pytest.approx(0.1)
    found = official(attempts, assignments=10_000)
    assert found.rate == pytest.approx(exact, abs=0.01)
    assert exact > (0.34 if skills == 5 else 0.87)
    assert set(found.by_skill) == {f"skill {skill}" for skill in range(skills)}


def test_late_successes_are_overstated_less() -> None:
    """Before the horizon ends, an environment with a solved goal finishes one episode only, and not three."""
    attempts = always_on(goals=40, solved=4, step=100, horizon=150, skills=5)
    # The mean of min(3, solved goals of a round) / 3, by the hypergeometric distribution.
    rounds = [math.comb(4, n) * math.comb(36, 4 - n) / math.comb(40, 4) for n in range(5)]
    exact = sum(min(3, n) * p for n, p in enumerate(rounds)) / 3
    assert official(attempts, assignments=10_000).rate == pytest.approx(exact, abs=0.01)
    assert 0.13 < exact < 0.14


def test_the_expectation_of_both_rules_by_enumeration() -> None:
    """An episode succeeds with a probability p, at a uniformly random step, and one episode of a round is counted."""
    horizon, together, p = 3, 3, 0.2
    probability = {0: 1 - p} | dict.fromkeys(range(1, horizon + 1), p / horizon)
    expected_per_goal = expected_official = 0.0
    for outcome in itertools.product(probability, repeat=together):
        weight = math.prod(probability[step] for step in outcome)
        attempts = Attempts(np.array(outcome)[:, None], ("push",) * together, horizon)
        finished = official(attempts, environments=together, evaluation_episodes=1)
        expected_per_goal += weight * per_goal(attempts).rate
        expected_official += weight * finished.rate
    assert expected_per_goal == pytest.approx(p)
    # It is a success if any environment succeeds before the horizon, or if none does and the first one does at the end.
    none_before = (1 - p * (horizon - 1) / horizon) ** together
    at_the_end = (p / horizon) / (1 - p * (horizon - 1) / horizon)
    assert expected_official == pytest.approx(1 - none_before + none_before * at_the_end, abs=0.005)
    assert expected_official > 1.9 * p


def test_one_random_success_in_ten_reads_as_14_percent() -> None:
    """Every episode on every goal succeeds with a probability of 10 %, at a uniformly random step."""
    goals, horizon, p = 8000, 500, 0.1
    random = np.random.default_rng(0)
    steps = random.integers(1, horizon + 1, (goals, 3)) * (random.random((goals, 3)) < p)
    attempts = Attempts(steps, ("push",) * goals, horizon)
    # An environment has at least n successes before the horizon with the probability p^n / n!, where steps are short.
    at_least = np.array([p**n / math.factorial(n) for n in range(8)])
    one = at_least[:-1] - at_least[1:]
    four = np.convolve(np.convolve(one, one), np.convolve(one, one))
    exact = np.sum(np.minimum(np.arange(len(four)), 3) / 3 * four)
    assert exact == pytest.approx(0.14, abs=0.001)
    assert official(attempts, environments=4, assignments=10).rate == pytest.approx(exact, abs=0.01)
    assert per_goal(attempts).rate == pytest.approx(p, abs=0.006)


def test_the_learner_that_always_or_never_succeeds_is_rated_so() -> None:
    for solved, rate in ((0, 0.0), (40, 1.0)):
        attempts = always_on(goals=40, solved=solved, step=7, horizon=150, skills=5)
        assert official(attempts).rate == per_goal(attempts).rate == rate
    assert "horizon 150, 200 goals: per goal 100.0%" in str(attempts)


def test_few_goals_and_episodes_are_printed() -> None:
    text = str(Attempts(np.array([[3]]), ("reach",), 10))
    assert (
        text
        == "horizon 10, 1 goals: per goal 100.0% (nan% to nan%), 1 episodes each; official rule 100.0%, 1 environments"
    )
    assert "official rule 100.0%, 4 environments" in str(always_on(goals=2, solved=2, step=1, horizon=10, skills=2))


def test_too_few_episodes_goals_or_environments_are_named() -> None:
    attempts = always_on(goals=4, solved=1, step=2, horizon=10, skills=2)
    with pytest.raises(ValueError, match=r"evaluation_episodes \(4\) must be at most .* \(3\)"):
        official(attempts, environments=2, evaluation_episodes=4)
    with pytest.raises(ValueError, match=r"environments \(3\) must be a multiple of the number of skills \(2\)"):
        official(attempts, environments=3)
    with pytest.raises(ValueError, match="environments \\(20\\) are 10 for each skill, but skill 0 has 4 goals"):
        official(attempts)
    with pytest.raises(ValueError, match="assignments must be a positive whole number"):
        official(attempts, environments=8, assignments=0)


# ---------------------------------------------------------------------------------------------------------------
# Meta-World's own function, with its wrappers, on environments whose outcomes are written down.

HORIZON = 12


class Written(gymnasium.Env[Any, Any]):
    """An environment whose n-th evaluation episode succeeds at a given step, if at all."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, task_name: str, steps: list[int]) -> None:
        self.task_name, self._steps = task_name, steps
        self._episode = self._time = 0

    def set_task(self, task: str) -> None:
        """Begin a round. Episode 0 is the first one after adaptation and the resets before and after it."""
        assert task == "the goal"
        self._episode = -ADAPTATION - 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        del seed, options
        self._episode, self._time = self._episode + 1, 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        del action
        self._time += 1
        success = 0 <= self._episode < len(self._steps) and self._time == self._steps[self._episode]
        return np.zeros(1), 1.0, False, False, {"success": float(success)}


ADAPTATION = 2


class Idle:
    """An agent that does nothing."""

    def init(self) -> None:
        pass

    def adapt_action(self, observations: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return self.eval_action(observations), {}

    def step(self, timestep: Any) -> None:
        pass

    def adapt(self) -> None:
        pass

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((len(observations), 1))

    def reset(self, env_mask: np.ndarray) -> None:
        pass


def wrapped(task_name: str, steps: list[int]) -> Any:
    """Return the environment with the wrappers of ``metaworld.make_ml_envs``, in their order."""
    env: Any = gymnasium.wrappers.TimeLimit(Written(task_name, steps), HORIZON)
    env = wrappers.AutoTerminateOnSuccessWrapper(env)
    env = gymnasium.wrappers.RecordEpisodeStatistics(env)
    return wrappers.PseudoRandomTaskSelectWrapper(env, ["the goal"])


def outcomes(seed: int, environments: int) -> np.ndarray:
    """Return the steps of first successes of many episodes of some environments, ``[environments, episodes]``."""
    random = np.random.default_rng(seed)
    steps = random.integers(1, HORIZON, (environments, 40))
    return np.where(random.random(steps.shape) < 0.25, steps, 0)


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_counts_as_meta_world_does(seed: int) -> None:
    """The success rates of both skills equal those of ``metaworld.evaluation.metalearning_evaluation`` exactly."""
    names = {"SawyerReachEnvV3": "reach-v3", "SawyerPushEnvV3": "push-v3"}
    tables = {name: outcomes(10 * seed + i, 4) for i, name in enumerate(names)}
    makers = [partial(wrapped, name, row.tolist()) for name, table in tables.items() for row in table]
    envs = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    mean, _, by_name = metaworld.metalearning_evaluation(
        Idle(), envs, num_evals=1, adaptation_episodes=ADAPTATION, evaluation_episodes=3
    )
    steps = np.concatenate([table[:, :3] for table in tables.values()])
    attempts = Attempts(steps, tuple(name for name in names.values() for _ in range(4)), HORIZON)
    # A round has all environments. Their order is irrelevant, since no success is at the last step of the horizon.
    ours = official(attempts, environments=8)
    assert ours.by_skill == pytest.approx(by_name)
    assert ours.rate == pytest.approx(mean)


def test_the_outcomes_of_that_comparison_differ() -> None:
    """The comparison has rounds with no success, with some, and with successes only."""
    rates = {
        float(_first_finished(outcomes(seed + i, 4)[:, :3], HORIZON, 3)) for seed in (0, 10, 20, 30) for i in (0, 1)
    }
    assert len(rates) > 2


# ---------------------------------------------------------------------------------------------------------------
# The episodes of trained learners.


@pytest.fixture(scope="module")
def push() -> Iterator[EnvFamily]:
    yield manipulation.ml1("push", horizon=5, tasks=3, heldout_tasks=4)


def recurrent_learner(family: EnvFamily, **settings: Any) -> tuple[Algorithm, State]:
    algorithm = rl2.make(family, network(family), rl2.Config(trials=2, minibatches=1, **settings))
    state = algorithm.init(jax.random.key(3))
    # Actions of a network with larger weights depend more on the memory.
    return algorithm, state._replace(params=jax.tree.map(lambda x: 5 * x, state.params))


def twitching(family: EnvFamily) -> EnvFamily:
    """Return the family with a success that depends on the fourth action, so that a small difference changes it."""

    def success(task: Any, step: Transition) -> Array:
        del task
        return jnp.sin(1000 * step.action[3]) > 0.5

    return family._replace(success=success)


def network(family: EnvFamily) -> Policy:
    return recurrent.make(family, recurrent.Settings(hidden_size=8, embedding_size=6))


def test_evaluation_episodes_follow_those_of_adaptation(push: EnvFamily) -> None:
    """The evaluation episode of a learner with a memory is the last episode of a trial, step for step."""
    algorithm, state = recurrent_learner(push, deterministic=True)
    goals, policy = push.tasks.sample_heldout, network(push)
    assert isinstance(goals, manipulation.Goals)

    def act(key: Key, carry: Any, inputs: Inputs) -> tuple[Any, Array, tuple[()]]:
        carry, output = policy.step(state.params, carry, inputs)
        return carry, output.distribution.mode(), ()

    def actions(task: Any) -> Array:
        """Return the fourth action of each step of a trial, ``[episodes, horizon]``."""
        _, t = trial(jax.random.key(1), act, policy.initial_carry(state.params), push, task, 3)
        return t.action[:, 3].reshape(3, push.horizon)

    expected = np.asarray(jax.jit(jax.vmap(actions))(goals.tasks))
    assert np.all(np.abs(expected[:, 2, 0] - expected[:, 0, 0]) > 1e-3)
    limit = float(np.median(expected[:, 2].max(axis=1)))
    large = expected[:, 2] > limit
    steps = np.where(large.any(axis=1), large.argmax(axis=1) + 1, 0)
    assert {*steps} > {0}
    family = push._replace(success=lambda task, step: step.action[3] > limit)
    found = attempt(jax.random.key(0), algorithm, state, family, episodes=2, adaptation_episodes=2, batch_size=3)
    np.testing.assert_array_equal(found.steps, np.stack([steps, steps], axis=1))
    assert found.skills == ("push",) * 4
    assert found.horizon == 5


@pytest.mark.slow
def test_an_explorer_acts_in_adaptation_only(push: EnvFamily) -> None:
    """After sampled adaptation, the most likely actions are the same in every evaluation episode."""
    family = twitching(push)
    algorithm, state = recurrent_learner(push, deterministic=True)
    sampled, _ = recurrent_learner(push)
    key = jax.random.key(0)
    alone, explored, samples = (
        attempt(key, acts, state, family, episodes=8, adaptation_episodes=2, explorer=explorer)
        for acts, explorer in ((algorithm, None), (algorithm, sampled), (sampled, None))
    )
    assert np.all(explored.steps == explored.steps[:, :1])
    assert np.any(explored.steps != alone.steps)
    assert np.any(samples.steps != samples.steps[:, :1])


def test_a_success_has_the_number_of_its_step(push: EnvFamily) -> None:
    """A success that is defined by the time of the episode is found at that time."""
    algorithm, state = recurrent_learner(push, episodes=2)
    task = push.tasks.sample(jax.random.key(0))
    first = push.env.reset(jax.random.key(0), task)[0]

    def at_the_start(task: Any, step: Transition) -> Array:
        del task
        return jnp.all(step.inputs.obs == first)

    def in_later_steps(task: Any, step: Transition) -> Array:
        return jnp.logical_not(at_the_start(task, step))

    for success, number in ((at_the_start, 1), (in_later_steps, 2)):
        one_goal = push._replace(success=success, tasks=push.tasks._replace(sample=_only(push, task)))
        found = attempt(
            jax.random.key(0), algorithm, state, one_goal, episodes=3, adaptation_episodes=1, split="training"
        )
        np.testing.assert_array_equal(found.steps, [[number] * 3])


def _only(family: EnvFamily, task: manipulation.ManipulationParams) -> manipulation.Goals:
    places = jnp.stack([task.object, task.place, task.goal])
    return manipulation.Goals(task.skill[None], places[None], family.horizon)


@pytest.mark.slow
def test_learners_of_other_kinds(push: EnvFamily) -> None:
    """One step of adaptation by gradient descent changes the policy; PEARL's context keeps its size."""
    push = twitching(push)
    policy = mlp.policy(push.observation_space, push.action_space, hidden_sizes=(8,))
    problem = problems.policy_gradient(push, policy, problems.PolicyGradientSettings(episodes=2))
    config = maml.Config(tasks=2, adaptation_steps=1, inner_rate=50.0)
    by_gradient = maml.make(problem, config)
    state = by_gradient.init(jax.random.key(0))
    key = jax.random.key(1)
    found = [
        attempt(key, by_gradient, state, push, episodes=20, adaptation_episodes=2, adaptation_steps=steps)
        for steps in (1, 2)
    ]
    assert found[0].steps.shape == (4, 20)
    assert np.any(found[0].steps != found[1].steps)
    networks = context.make(push, context.Settings(latent_size=2, units=8, encoder_units=8, next_observation=True))
    settings: dict[str, Any] = {
        "tasks": 1,
        "training_tasks": 2,
        "prior_episodes": 1,
        "posterior_episodes": 1,
        "initial_episodes": 1,
    }
    by_context = pearl.make(push, networks, pearl.Config(**settings, replay_episodes=4, adaptation_episodes=3))
    state = by_context.init(jax.random.key(0))
    assert attempt(key, by_context, state, push, adaptation_episodes=2).steps.shape == (4, 3)


def test_wrong_families_and_learners_are_named(push: EnvFamily) -> None:
    family = bandits.bernoulli(2)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4))
    bandit = rl2.make(family, policy, rl2.Config(trials=2, minibatches=1))
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"families of environments\.manipulation"):
        attempt(key, bandit, bandit.init(key), family)
    algorithm, state = recurrent_learner(push)
    with pytest.raises(ValueError, match="adaptation_episodes must be a positive whole number"):
        attempt(key, algorithm, state, push, adaptation_episodes=0)
    with pytest.raises(ValueError, match="split must be"):
        attempt(key, algorithm, state, push, split="test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="the explorer does not act"):
        attempt(key, algorithm, state, push, explorer=algorithm._replace(acting=None))
    with pytest.raises(TypeError, match="the state does not belong to the algorithm"):
        attempt(key, algorithm, bandit.init(key), push)
