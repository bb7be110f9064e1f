"""Agents act in plain Python loops in the same way as their learners do in rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from acting import Tasks, play
from probes import probe_family

from metarl_jax import problems
from metarl_jax.agents import Agent, Episode, Interface
from metarl_jax.algorithms import maml_trpo, pearl, promp, reptile, rl2, varibad
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import bandits, point_robot
from metarl_jax.evaluation import evaluate
from metarl_jax.networks import belief, context, mlp, recurrent
from metarl_jax.ops import distributions
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.training import start, train
from metarl_jax.types import Acting, Algorithm, Box, Discrete, EnvFamily


def play_by_gradient(agent: Agent, env: Tasks, steps: int, episodes: int, seed: int = 0) -> np.ndarray:
    """Return the mean return before each gradient step and after the last one, ``[N, steps + 1]``."""
    agent.reset(seed, batch=env.number)
    scores = np.zeros((env.number, steps + 1))
    obs = env.reset()
    for step in range(steps + 1):
        whole: Any = agent.episodes()
        while min(map(len, whole)) < episodes:
            obs, reward, done, final = env.step(agent.act(obs))
            agent.observe(reward, done, final)
            whole = agent.episodes()
        # On tasks with shorter episodes, the agent has played more of them.
        used = [of_task[:episodes] for of_task in whole]
        scores[:, step] = [np.mean([episode.rewards.sum() for episode in of_task]) for of_task in used]
        agent.adapt(used)
    return scores


class Kind(NamedTuple):
    """A learner of one kind, and the family that it is trained on."""

    family: EnvFamily
    algorithm: Algorithm
    stages: int
    episodes: int | None = None
    """The number of episodes of a gradient step. None: the learner adapts while it acts."""


def _rl2(**settings: Any) -> Kind:
    family = point_robot.maml()
    sizes: dict[str, Any] = {"episodes": 3, "trials": 8, "minibatches": 1, "iterations": 4}
    algorithm = rl2.make(
        family, recurrent.make(family, recurrent.Settings(hidden_size=6)), rl2.Config(**sizes | settings)
    )
    return Kind(family, algorithm, 3)


def _varibad(**settings: Any) -> Kind:
    family = point_robot.maml()
    sizes: dict[str, Any] = {"episodes": 2, "trials": 8, "minibatches": 1, "iterations": 4, "adaptation_episodes": 3}
    sizes |= {"model_trials": 4, "model_updates": 2, "buffer_trials": 16}
    networks = belief.make(family, belief.Settings(latent_size=2, hidden_size=5))
    return Kind(family, varibad.make(family, networks, varibad.Config(**sizes | settings)), 3)


def _pearl(next_observation: bool = False, **settings: Any) -> Kind:
    family = point_robot.maml()
    spaces = family.observation_space, family.action_space
    encoder = context.encoder(*spaces, latent_size=2, hidden_sizes=(6,), next_observation=next_observation)
    networks = context.combine(*spaces, encoder, latent_size=2, hidden_sizes=(7,))
    sizes: dict[str, Any] = {"training_tasks": 6, "tasks": 2, "prior_episodes": 2, "posterior_episodes": 1}
    sizes |= {"initial_episodes": 3, "replay_episodes": 6, "gradient_steps": 2, "meta_batch": 4, "batch_size": 5}
    sizes |= {"context_size": 8, "adaptation_episodes": 4, "exploration_episodes": 2, "iterations": 4}
    return Kind(family, pearl.make(family, networks, pearl.Config(**sizes | settings)), 4)


def _gradient(module: Any, **settings: Any) -> Kind:
    family = point_robot.maml()
    policy = mlp.make(family, mlp.Settings(units=8), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=2, action_scale=2.0))
    sizes: dict[str, Any] = {"tasks": 4, "adaptation_steps": 2, "iterations": 4, "inner_rate": 0.3}
    return Kind(family, module.make(problem, module.Config(**sizes | settings)), 2, 2)


KINDS: dict[str, Callable[[], Kind]] = {
    "rl2": _rl2,
    "varibad": _varibad,
    "pearl": _pearl,
    "pearl, next observation": lambda: _pearl(next_observation=True),
    "maml_trpo": lambda: _gradient(maml_trpo, later_rate_fraction=0.5),
    "promp": lambda: _gradient(promp),
    "reptile": lambda: _gradient(reptile),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_agent_acts_as_its_learner(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without randomness, the agent's returns on a task equal those of the learner's ``adapt``."""
    for kind in (distributions.Categorical, distributions.DiagonalGaussian, distributions.SquashedGaussian):
        monkeypatch.setattr(kind, "sample", lambda self, key: self.mode())
    made = KINDS[name]()
    state = start(made.algorithm, jax.random.key(0)).algorithm
    env, agent = Tasks(made.family, jax.random.key(1), 4), Agent(made.algorithm, state, made.family)
    if made.episodes is None:
        got = play(agent, env, made.stages)
    else:
        got = play_by_gradient(agent, env, made.stages, made.episodes)
    keys = jax.random.split(jax.random.key(2), 4)
    expected = jax.jit(jax.vmap(made.algorithm.adapt, (0, None, 0)))(keys, state, env.tasks).score
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)
    # The comparison is meaningful: returns differ between tasks or between stages.
    assert np.std(got) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("full_optimisation")
@pytest.mark.parametrize("name", ["rl2", "varibad", "pearl", "maml_trpo"])
def test_the_scores_of_an_agent_agree_with_evaluation(name: str) -> None:
    """With sampled actions, after some training, the mean returns agree within both intervals."""
    made = {
        "rl2": lambda: _rl2(iterations=30, trials=64),
        "varibad": lambda: _varibad(iterations=30, trials=64, buffer_trials=64),
        "pearl": lambda: _pearl(iterations=5, gradient_steps=50, deterministic=False),
        "maml_trpo": lambda: _gradient(maml_trpo, iterations=10),
    }[name]()
    run = train(jax.random.key(0), made.algorithm)
    scores = evaluate(jax.random.key(1), made.algorithm, run.state, made.family, num_tasks=2000)
    env, agent = Tasks(made.family, jax.random.key(2), 300), Agent(made.algorithm, run.state, made.family)
    if made.episodes is None:
        got = play(agent, env, made.stages)
    else:
        got = play_by_gradient(agent, env, made.stages, made.episodes)
    for stage, expected in enumerate(scores.by_stage()):
        here = mean_with_interval(got[:, stage])
        error = np.hypot(here.standard_error, expected.standard_error)
        # Twenty comparisons, of which none should fail by chance.
        assert abs(here.mean - expected.mean) < 4 * error, (stage, here, expected)


def agent_of_bandit(batch: int | None = None) -> Agent:
    family = bandits.bernoulli(3)
    algorithm = rl2.make(family, recurrent.make(family, recurrent.Settings(hidden_size=4)), rl2.Config(episodes=2))
    agent = Agent(algorithm, start(algorithm, jax.random.key(0)), family)
    agent.reset(batch=batch)
    return agent


def test_actions_are_plain() -> None:
    agent = agent_of_bandit()
    action = agent.act([])
    assert type(action) is int
    assert 0 <= action < 3
    agent.observe(1.0, True)
    assert type(agent.act([])) is int
    agent = agent_of_bandit(batch=5)
    action = agent.act(np.zeros((5, 0)))
    assert isinstance(action, np.ndarray)
    assert action.shape == (5,)
    made = _rl2()
    agent = Agent(made.algorithm, start(made.algorithm, jax.random.key(0)), made.family)
    action = agent.act([0.0, 0.0])
    assert isinstance(action, np.ndarray)
    assert (action.shape, action.dtype) == ((2,), np.float32)


def test_reset_forgets_and_seeds_decide() -> None:
    agent = agent_of_bandit(batch=50)

    def first(seed: int) -> np.ndarray:
        agent.reset(seed, batch=50)
        one = np.asarray(agent.act(np.zeros((50, 0))))
        return np.stack([one, np.asarray(agent.act(np.zeros((50, 0)), np.ones(50), np.ones(50, bool)))])

    np.testing.assert_array_equal(first(3), first(3))
    assert np.any(first(3) != first(4))


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda agent: agent.act(3), r"observation must be from 0 to 2, not 3"),
        (lambda agent: agent.act([0, 0]), r"observation must have shape \[0\], not \[2\]"),
        (lambda agent: agent.act("left"), r"observation must be numeric, not 'left'"),
        (lambda agent: agent.act([], 0.0, True), "the first step of a task has no previous action"),
        (lambda agent: agent.observe(1.0, False), "there is no action whose outcome is not known yet"),
        (lambda agent: [agent.act([]), agent.act([])], "the outcome of the previous action is missing"),
        (lambda agent: [agent.act([]), agent.act([], np.nan)], "reward must be finite, not nan"),
        (lambda agent: [agent.act([]), agent.act([], [1.0, 2.0])], r"reward must have shape \[\], not \[2\]"),
        (lambda agent: agent.act([]) + agent.act([], 1.0, 0.5), "done must be True or False, not 0.5"),
        (lambda agent: agent.act([]) + agent.act([], 1.0, "False"), "done must be numeric, not 'False'"),
        (lambda agent: agent.reset(-1), "seed must be a whole number of at least 0"),
        (lambda agent: agent.reset(batch=0), "batch must be a positive whole number"),
    ],
)
def test_misuse_is_named(misuse: Callable[[Agent], object], message: str) -> None:
    agent = agent_of_bandit()
    if "from 0 to 2" in message:
        agent = discrete_observations()
    with pytest.raises(ValueError, match=message):
        misuse(agent)


@pytest.mark.parametrize("observation", [1.5, np.nan, 2**40, np.int64(2**32), "1"])
def test_whole_observations_are_not_rounded(observation: Any) -> None:
    with pytest.raises(ValueError, match="observation must be"):
        discrete_observations().act(observation)
    assert discrete_observations().act(np.float64(2)) == 2
    with pytest.raises(ValueError, match="observation must be whole numbers of the type uint8"):
        recording(np.uint8).act([0.5, 0.5])


def test_a_batch_may_leave_out_done_or_reward() -> None:
    agents = [agent_of_bandit(batch=2) for _ in range(3)]
    obs = np.zeros((2, 0))
    for agent in agents:
        agent.act(obs)
    default = agents[0].act(obs, [1.0, 0.0])
    np.testing.assert_array_equal(default, agents[1].act(obs, [1.0, 0.0], [False, False]))
    agents[2].act(obs, done=[True, False])


def test_a_call_can_be_made_again_after_an_error() -> None:
    agent = discrete_observations()
    agent.act(0)
    with pytest.raises(ValueError, match="observation must be from 0 to 2"):
        agent.act(9, 1.0, False)
    assert agent.act(1, 1.0, False) == 1


def test_arrays_of_the_environment_may_change() -> None:
    """Environments write the next observation into the same array, and users change actions in place."""
    agent, obs = recording(np.float32), np.zeros(2, np.float32)
    for step in range(3):
        action = agent.act(obs)
        action *= 0.5  # pyright: ignore[reportOperatorIssue]
        obs[:] = step + 1
        agent.observe(0.0, step == 2)
    (episode,) = agent.episodes()
    assert isinstance(episode, Episode)
    np.testing.assert_array_equal(episode.observations, [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(episode.actions, np.ones((3, 2)))


def recording(dtype: Any) -> Agent:
    acting = Acting(
        params=lambda state: state,
        start=lambda key, params: (),
        act=lambda key, params, memory, inputs, final_obs: (memory, jnp.ones(2, jnp.float32), ()),
        learn=lambda params, memory, episodes: memory,
    )
    space = Box(0.0, 255.0, (2,))
    return Agent.from_parts(acting, (), Interface(space, space, np.dtype(dtype), 4))


def discrete_observations() -> Agent:
    acting = Acting(
        params=lambda state: state,
        start=lambda key, params: (),
        act=lambda key, params, memory, inputs, final_obs: (memory, inputs.obs, ()),
    )
    return Agent.from_parts(acting, (), Interface(Discrete(3), Discrete(3), np.dtype("int32"), 4))


def test_episodes_of_different_lengths() -> None:
    """Adaptation from short episodes gives finite parameters that do not depend on padding."""
    family = probe_family()
    policy = mlp.make(family, mlp.Settings(units=5), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=6))
    algorithm = promp.make(problem, promp.Config(tasks=2, inner_rate=0.1))
    agent = Agent(algorithm, start(algorithm, jax.random.key(0)), family)
    env = Tasks(family, jax.random.key(1), 1)
    agent.reset()
    while len(agent.episodes()) < 6:
        obs, done = env.reset()[0], False
        while not done:
            obs, reward, ended, _ = (x[0] for x in env.step(np.asarray(agent.act(obs))[None]))
            done = bool(ended)
            agent.observe(reward, done)
    episodes = agent.episodes()
    assert all(isinstance(episode, Episode) for episode in episodes)
    assert len({len(episode.rewards) for episode in episodes if isinstance(episode, Episode)}) > 1
    agent.adapt()
    assert agent.episodes() == []
    probe = np.ones(3, np.float32)
    agent.adapt(episodes)
    assert np.all(np.isfinite(agent.act(probe)))


def test_episodes_of_a_batch_end_one_by_one() -> None:
    """Each task's episodes are its own steps, also if the environment uses its arrays again; the rest of an episode
    that went on while the agent adapted is not recorded, however often it adapts.
    """
    made = _gradient(promp)
    agent = Agent(made.algorithm, start(made.algorithm, jax.random.key(0)), made.family)
    agent.reset(batch=3)
    obs, reward, done = np.zeros((3, 2), np.float32), np.zeros(3, np.float32), np.zeros(3, bool)
    lengths = np.array([2, 3, 4])

    def play(first: int, last: int) -> list[list[list[float]]]:
        """Steps ``first`` to ``last``; the rewards of the episodes so far."""
        for step in range(first, last + 1):
            obs[:] = [[task, step] for task in range(3)]
            agent.act(obs)
            reward[:] = [100 * task + step for task in range(3)]
            done[:] = step % lengths == 0
            agent.observe(reward, done)
        episodes: Any = agent.episodes()
        for task, of_task in enumerate(episodes):
            for episode in of_task:
                assert np.all(100 * episode.observations[:, 0] + episode.observations[:, 1] == episode.rewards)
                assert np.all(episode.observations[:, 0] == task)
                assert len(episode.actions) == len(episode.rewards)
        return [[episode.rewards.tolist() for episode in of_task] for of_task in episodes]

    assert play(1, 5) == [[[1, 2], [3, 4]], [[101, 102, 103]], [[201, 202, 203, 204]]]
    assert play(6, 6) == [[[1, 2], [3, 4], [5, 6]], [[101, 102, 103], [104, 105, 106]], [[201, 202, 203, 204]]]
    episodes: Any = agent.episodes()
    # The third task has played two of the four steps of an episode.
    for _ in range(2):
        agent.adapt([of_task[:1] for of_task in episodes])
    assert play(7, 12) == [[[7, 8], [9, 10], [11, 12]], [[107, 108, 109], [110, 111, 112]], [[209, 210, 211, 212]]]


def test_an_agent_says_how_it_adapts() -> None:
    agent = agent_of_bandit()
    assert not agent.adapts_by_gradient
    with pytest.raises(TypeError, match="this learner adapts while it acts"):
        agent.adapt()
    made = _gradient(promp)
    agent = Agent(made.algorithm, start(made.algorithm, jax.random.key(0)), made.family)
    assert agent.adapts_by_gradient
    with pytest.raises(ValueError, match="every task needs the same number of whole episodes, at least one, not 0"):
        agent.adapt()
    made = _pearl(next_observation=True)
    agent = Agent(made.algorithm, start(made.algorithm, jax.random.key(0)), made.family)
    assert agent.needs_final_observation
    agent.act([0.0, 0.0])
    with pytest.raises(ValueError, match="the episode has ended, and this learner needs its final observation"):
        agent.observe(0.0, True)


def test_a_learner_that_does_not_act_is_refused() -> None:
    problem = problems.few_shot(sinusoid.maml(shots=3, queries=4), mlp.predictor(1, 1, hidden_sizes=(4,)))
    algorithm = reptile.make(problem, reptile.Config(inner_steps=1))
    state = start(algorithm, jax.random.key(0))
    with pytest.raises(ValueError, match="this algorithm does not act"):
        Agent(algorithm, state, probe_family())
    made = _rl2()
    run = train(jax.random.key(0), made.algorithm, iterations=1, seeds=2)
    with pytest.raises(ValueError, match="a learner is made from one seed, not from 2"):
        Agent(made.algorithm, run.state, made.family)
