"""In-context learners that imitate: what they converge to, compared with exact posteriors, and stored histories."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import experiments, problems, training
from metarl_jax.algorithms import algorithm_distillation, decision_pretrained
from metarl_jax.datasets import histories
from metarl_jax.environments import bandits, dark_room, gridnavi, tabular_mdp
from metarl_jax.networks import recurrent
from metarl_jax.oracles import bandits as bandit_learners
from metarl_jax.oracles import dark_room as room_learners
from metarl_jax.oracles import known_task
from metarl_jax.rollout import episode_returns, joined, trial
from metarl_jax.types import Acting, Algorithm, Array, Discrete, EnvFamily, Inputs, Policy, Transition

FAMILY = bandits.bernoulli(2)
TRAINING = {"episodes": 2, "trials": 512, "iterations": 150, "learning_rate": 1e-2}


def small_policy(family: EnvFamily) -> Policy:
    return recurrent.make(family, recurrent.Settings(hidden_size=16, embedding_size=16), critic=False)


def second_pull(policy: Policy, algorithm: Algorithm) -> np.ndarray:
    """Train; return the probability of arm 0 at the second pull, ``[first arm, reward]``."""
    state = training.train(jax.random.key(0), algorithm).state.algorithm

    def probability(arm: int, reward: int) -> Array:
        nothing = jnp.zeros((2, 0))
        inputs = Inputs(
            nothing,
            jnp.array([0, arm]),
            jnp.array([0.0, reward]),
            jnp.array([0.0, 1.0]),
            jnp.array([True, False]),
        )
        output = policy.unroll(state.params, policy.initial_carry(state.params), inputs)[1]
        return jax.nn.softmax(output.distribution.logits[1])[0]

    return np.array([[probability(arm, reward) for reward in (0, 1)] for arm in (0, 1)])


# A pulled arm has the posterior Beta(1, 2) after a failure, or Beta(2, 1) after a success. The probability that it
# exceeds a uniform variable is its mean.
PULLED_IS_BETTER = np.array([1 / 3, 2 / 3])
EXACT = np.stack([PULLED_IS_BETTER, 1 - PULLED_IS_BETTER])


def test_the_decision_pretrained_transformer_converges_to_the_posterior_of_the_best_arm() -> None:
    policy = small_policy(FAMILY)
    config = decision_pretrained.Config(**TRAINING, behaviour="uniform")
    found = second_pull(policy, decision_pretrained.make(FAMILY, policy, config))
    # The first reward pays for about 512 * 100 trials in the last quarter of training: errors of the mean are 0.01.
    np.testing.assert_allclose(found, EXACT, atol=0.03)


def test_algorithm_distillation_converges_to_the_behaviour_of_its_source() -> None:
    policy = small_policy(FAMILY)
    problem = problems.imitation(FAMILY, policy, bandit_learners.thompson_sampling)
    found = second_pull(policy, algorithm_distillation.make(FAMILY, problem, algorithm_distillation.Config(**TRAINING)))
    np.testing.assert_allclose(found, EXACT, atol=0.03)


def test_the_mixture_has_trials_of_one_action_and_trials_of_all_actions() -> None:
    family = bandits.bernoulli(4)
    seen: list[Any] = []

    def spying(inputs: Inputs) -> None:
        seen.append(np.asarray(inputs.prev_action))

    policy = small_policy(family)

    def unroll(params: Any, carry: Any, inputs: Inputs) -> Any:
        jax.debug.callback(spying, inputs)
        return policy.unroll(params, carry, inputs)

    config = decision_pretrained.Config(episodes=41, trials=256, iterations=1)
    algorithm = decision_pretrained.make(family, policy._replace(unroll=unroll), config)
    training.train(jax.random.key(0), algorithm)
    jax.effects_barrier()
    actions = seen[0][1:]  # the first one has no previous action
    most = np.array([np.bincount(one, minlength=4).max() for one in actions.T]) / len(actions)
    # The weight of the favourite is 1 in one of 11 trials, so that 23 of 256 have one action only (15 to 31: 95 %).
    assert 10 < np.sum(most == 1) < 40
    assert np.sum(most < 0.6) > 80


def reference_actions(task: Any, t: Transition, place: Any) -> list[set[int]]:
    """Return all actions of shortest paths to the next goal at each step, by a loop over steps."""
    goals = np.asarray(task.goals)
    reached, found = 0, []
    for step in range(len(t.reward)):
        if t.inputs.first[step] or t.inputs.prev_done[step]:
            reached = 0
        x, y = goals[min(reached, len(goals) - 1)] - np.array(place(np.asarray(t.inputs.obs[step])))
        moves = {2: x > 0, 4: x < 0, 1: y > 0, 3: y < 0}
        found.append({action for action, good in moves.items() if good} or {0})
        reached += int(t.reward[step] > 0)
    return found


@pytest.mark.parametrize(
    "family",
    [dark_room.algorithm_distillation(0.0), dark_room.key_to_door(3, 12), gridnavi.make(3, 6)],
    ids=["room", "key to door", "GridNavi"],
)
def test_optimal_actions_are_on_shortest_paths(family: EnvFamily) -> None:
    assert family.privileged is not None
    assert family.privileged.optimal_action is not None
    assert isinstance(family.env, dark_room.DarkRoom)

    def act(key: Any, carry: Any, inputs: Inputs) -> Any:
        del inputs
        return carry, jax.random.randint(key, (), 0, 5), ()

    reached = 0
    for seed in range(4):
        keys = jax.random.split(jax.random.key(seed))
        task = family.tasks.sample(keys[0])
        t = trial(keys[1], act, (), family, task, 3)[1]
        actions = np.asarray(family.privileged.optimal_action(task, t))
        right = reference_actions(task, t, family.env.place)
        assert all(action in wanted for action, wanted in zip(actions, right, strict=True))
        reached += int(np.sum(t.reward > 0))
    assert reached > 0


def test_optimal_actions_of_mdps_have_no_negative_advantage() -> None:
    family = tabular_mdp.make(4, 3, 5)
    privileged = family.privileged
    assert privileged is not None
    assert privileged.optimal_action is not None
    assert privileged.training_reward is not None
    task = family.tasks.sample(jax.random.key(0))
    steps = family.horizon * 2
    states = jax.nn.one_hot(jax.random.randint(jax.random.key(1), (steps,), 0, 4), 4)
    inputs = Inputs(states, *[jnp.zeros(steps)] * 4)
    t = Transition(inputs, *[jnp.zeros(steps)] * 8)
    actions = privileged.optimal_action(task, t)
    assert actions.dtype == jnp.int32
    advantages = [privileged.training_reward(task, t._replace(action=a), 1.0) for a in (actions, 0 * actions)]
    np.testing.assert_allclose(advantages[0], 0.0, atol=1e-5)
    assert float(jnp.min(advantages[1])) < -0.1


def test_posterior_sampling_in_a_dark_room_plays_best_once_it_has_found_the_goal() -> None:
    family, episodes = dark_room.algorithm_distillation(0.0), 20
    oracle, known = room_learners.posterior_sampling(family, episodes), known_task.optimal(family, episodes)
    keys = jax.random.split(jax.random.key(0), 300)
    tasks = jax.vmap(family.tasks.sample)(keys)
    score = np.asarray(jax.jit(jax.vmap(lambda k, t: oracle.adapt(k, (), t).score))(keys, tasks))
    best = np.asarray(jax.vmap(lambda k, t: known.adapt(k, (), t).score)(keys, tasks))
    after = np.cumsum(score > 0, axis=1) - (score > 0) > 0
    assert np.all(score[after] == best[after])
    # It never goes to the same wrong cell again, so that it finds all goals soon.
    assert np.all(score[:, -1] == best[:, -1])
    # In the first episode, it meets the goal in a fifth to a third of the trials: 20 steps visit 16 to 21 of 81 cells.
    assert 0.15 < np.mean(score[:, 0] > 0) < 0.35


def test_separate_episodes_join_to_a_trial() -> None:
    """The valid steps come first, and the inputs show the step before."""
    lengths, horizon = [2, 4, 3], 4
    steps = np.arange(len(lengths) * horizon).reshape(-1, horizon)
    valid = np.arange(horizon) < np.array(lengths)[:, None]
    done = np.arange(horizon) == np.array(lengths)[:, None] - 1
    zero = jnp.zeros(steps.shape)
    inputs = Inputs(jnp.asarray(steps, jnp.float32), zero, zero, zero, zero > 0)
    t = Transition(
        inputs=inputs,
        action=jnp.asarray(steps),
        reward=jnp.asarray(10.0 * steps),
        terminated=jnp.asarray(done & (steps < 4)),
        truncated=jnp.asarray(done & (steps >= 4)),
        final_obs=zero,
        episode=zero.astype(jnp.int32),
        valid=jnp.asarray(valid),
        output=(),
    )
    whole = joined(t)
    real = steps[valid]
    np.testing.assert_array_equal(whole.inputs.obs[: len(real)], real)
    np.testing.assert_array_equal(whole.inputs.prev_action[1 : len(real)], real[:-1])
    np.testing.assert_array_equal(whole.inputs.prev_reward[1 : len(real)], 10 * real[:-1])
    np.testing.assert_array_equal(whole.inputs.prev_done[1 : len(real)], done[valid][:-1])
    np.testing.assert_array_equal(whole.inputs.first, np.arange(steps.size) == 0)
    np.testing.assert_array_equal(whole.valid, np.arange(steps.size) < len(real))
    np.testing.assert_array_equal(episode_returns(whole, 3), 10 * np.sum(steps * valid, axis=1))


# ----------------------------------------------------------------------------------------------------- stored histories


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = dark_room.algorithm_distillation(0.2)
    play = room_learners.posterior_sampling(family, 2).play
    assert play is not None
    path = tmp_path_factory.mktemp("data") / "histories"
    return histories.write(
        path, jax.random.key(0), play, family, histories=10, learner="posterior sampling", name="dark room", shard=4
    )


def test_a_data_set_round_trips_bit_by_bit(stored: Path) -> None:
    family = dark_room.algorithm_distillation(0.2)
    loaded = histories.load(stored)
    assert (loaded.histories, loaded.episodes, loaded.steps, loaded.learner) == (10, 2, 40, "posterior sampling")
    assert sorted(file.name for file in stored.iterdir()) == [
        *(f"histories-0000{shard}.safetensors" for shard in range(3)),
        "histories.json",
    ]
    # The same trials, played again.
    key_tasks, key_play = jax.random.split(jax.random.key(0))
    tasks = family.tasks.sample_distinct(key_tasks, 10)
    play = room_learners.posterior_sampling(family, 2).play
    assert play is not None
    t = jax.jit(jax.vmap(play))(jax.random.split(key_play, 10), tasks)
    for name, wanted in (("observation", t.inputs.obs), ("action", t.action), ("reward", t.reward)):
        assert loaded.arrays[name].dtype == wanted.dtype
        np.testing.assert_array_equal(loaded.arrays[name], wanted)
    # A demonstration is a trial as the policy saw it.
    draw = loaded.demonstrations(family, 2)
    shown = draw(jax.random.key(3))
    index = int(jax.random.randint(jax.random.key(3), (), 0, 10, jnp.int32))
    for got, wanted in zip(shown.inputs, jax.tree.map(lambda x: x[index], t.inputs), strict=True):
        np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(shown.action, t.action[index])


def test_histories_that_are_read_from_files_are_the_same(stored: Path) -> None:
    family, keys = dark_room.algorithm_distillation(0.2), jax.random.split(jax.random.key(1), 6)
    kept, read = (
        jax.jit(jax.vmap(histories.load(stored, on_device=on_device).demonstrations(family, 2)))(keys)
        for on_device in (True, False)
    )
    for got, wanted in zip(jax.tree.leaves(read), jax.tree.leaves(kept), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_stored_histories_train_a_learner_by_name(stored: Path) -> None:
    experiment = experiments.combination("algorithm_distillation", "dark-room-new-goals")
    sizes = {"hidden_size": 8, "embedding_size": 8, "episodes": 2, "trials": 4, "iterations": 2}
    problem = experiment.build(experiment.with_overrides({"histories": str(stored), **sizes}))
    run = training.train(jax.random.key(0), problem.algorithm)
    assert np.all(np.isfinite(run.metrics["loss"]))
    with pytest.raises(ValueError, match="have 2 episodes each: set episodes to it"):
        experiment.build(experiment.with_overrides({"histories": str(stored), **sizes, "episodes": 3}))


def test_bad_data_sets_are_refused(stored: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in stored.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    def with_header(name: str, **changes: Any) -> Path:
        folder = copy(name)
        header = json.loads((folder / "histories.json").read_text())
        (folder / "histories.json").write_text(json.dumps(header | changes))
        return folder

    with pytest.raises(ValueError, match="is not a data set of histories"):
        histories.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="schema 1"):
        histories.load(with_header("schema", schema=2))
    with pytest.raises(ValueError, match="positive whole number 'steps'"):
        histories.load(with_header("steps", steps=0))
    away = [{"file": "../x.safetensors", "histories": 4, "sha256": ""}]
    with pytest.raises(ValueError, match="must list shards"):
        histories.load(with_header("away", shards=away))
    damaged = copy("damaged") / "histories-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 differs"):
        histories.load(damaged.parent)
    missing = copy("missing") / "histories-00002.safetensors"
    missing.unlink()
    with pytest.raises(ValueError, match=r"histories-00002.safetensors cannot be read"):
        histories.load(missing.parent)
    with pytest.raises(ValueError, match=r"steps|must have a tensor 'observation' of shape \[4, 41"):
        histories.load(with_header("longer", steps=41))
    with pytest.raises(ValueError, match=r"an observation in .* has the shape \(18,\), but one of the family \(20,\)"):
        histories.load(stored).demonstrations(dark_room.decision_pretrained(), 2)
    with pytest.raises(ValueError, match="are from 0 to 4, but the family has 3"):
        smaller = dark_room.algorithm_distillation()._replace(action_space=Discrete(3))
        histories.load(stored).demonstrations(smaller, 2)
    shard = copy("tensors") / "histories-00000.safetensors"
    content = shard.read_bytes().replace(b'"data_offsets":[', b'"data_offsets":["', 1)
    shard.write_bytes(content)
    header = json.loads((shard.parent / "histories.json").read_text())
    header["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (shard.parent / "histories.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"histories-00000.safetensors (cannot be read|must have a tensor)"):
        histories.load(shard.parent)
    with pytest.raises(ValueError, match="exists already"):
        histories.write(
            stored, jax.random.key(0), lambda key, task: task, FAMILY, histories=1, learner="none", name="none"
        )


def test_an_error_of_the_source_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(key: Any, task: Any) -> Transition:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        histories.write(tmp_path / "new", jax.random.key(0), fail, FAMILY, histories=1, learner="none", name="none")
    assert not list(tmp_path.iterdir())


def test_a_trained_learner_needs_no_histories_to_act(tmp_path: Path) -> None:
    experiment = experiments.combination("algorithm_distillation", "navigation")
    settings = experiment.with_overrides({"histories": str(tmp_path / "nothing"), "episodes": 2, "hidden_size": 8})
    with pytest.raises(ValueError, match="is not a data set of histories"):
        experiment.build(settings)
    algorithm = experiment.build(settings, without_data=True).algorithm
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    with pytest.raises(ValueError, match="no demonstrations to learn from"):
        jax.eval_shape(algorithm.step, jax.random.key(0), state)
    assert algorithm.acting is not None


def counting(every: int, act: Any) -> Transition:
    """Return the history of a learner whose only parameter counts its iterations."""
    family = bandits.bernoulli(9)
    acting = Acting(lambda state: state, lambda key, params: (), act)

    def make(family: EnvFamily) -> Algorithm:
        del family
        return Algorithm(lambda key: jnp.int32(0), lambda key, n: (n + 1, {}), lambda *_: None, acting=acting)  # type: ignore[arg-type]

    source = histories.learning_history(family, make, episodes=3, every=every)
    return source(jax.random.key(0), family.tasks.sample(jax.random.key(1)))


def test_a_learning_history_has_an_episode_after_every_few_iterations() -> None:
    t = counting(2, lambda key, params, carry, inputs, final_obs: (carry, params, ()))
    np.testing.assert_array_equal(t.action, [2, 4, 6])
    np.testing.assert_array_equal(t.inputs.prev_action, [0, 2, 4])
    np.testing.assert_array_equal(t.episode, [0, 1, 2])


def test_what_cannot_be_imitated_is_refused() -> None:
    family = dark_room.algorithm_distillation()
    policy = small_policy(family)
    problem = problems.imitation(family, policy, known_task.optimal)
    with pytest.raises(ValueError, match=r"does not provide its trials \(Oracle.play\)"):
        algorithm_distillation.make(family, problem, algorithm_distillation.Config())
    with pytest.raises(ValueError, match="needs discrete actions, and the optimal action"):
        decision_pretrained.make(family._replace(privileged=None), policy, decision_pretrained.Config())
    with pytest.raises(ValueError, match="does not apply to navigation: the optimal action of the known task"):
        experiments.combination("decision_pretrained", "navigation")
    navigation = experiments.combination("algorithm_distillation", "navigation")
    with pytest.raises(ValueError, match="histories must be a folder"):
        navigation.build(navigation.with_overrides({}))
