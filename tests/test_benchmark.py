"""The frozen benchmark: tasks and digests, the score, playing, and files that are checked."""

from __future__ import annotations

import copy
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import cli, oracles, references, rollout
from metarl_jax.agents import Agent
from metarl_jax.benchmark import commands, entry, families, package_learners, playing, score, tasks
from metarl_jax.benchmark.families import Split
from metarl_jax.benchmark.run import external, measure, replay, train_external
from metarl_jax.ops.statistics import interquartile_mean, mean_with_interval
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.pretrained_learners import pretrained
from metarl_jax.types import Discrete, Inputs

DATA = Path(__file__).parent / "data"
FAST: list[tuple[str, Split]] = [("bandit", "heldout"), ("gridnavi", "shifted"), ("t-maze", "heldout")]
NO_PACKAGE = [one for one in families.ENTRIES if one.tier < 3]

# ------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize(("name", "split"), FAST)
def test_tasks_are_those_of_the_stored_digest(name: str, split: Split) -> None:
    assert tasks.digest(name, split, tasks.draw(name, split)) == tasks.stored_sha256(name, split)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), [(one.name, split) for one in NO_PACKAGE for split in one.splits])
def test_all_tasks_are_those_of_the_stored_digest(name: str, split: Split) -> None:
    assert tasks.digest(name, split, tasks.draw(name, split)) == tasks.stored_sha256(name, split)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flag is for x86-64")
def test_another_instruction_set_makes_the_same_tasks() -> None:
    code = (
        "from metarl_jax.benchmark import tasks\n"
        "print(tasks.digest('cold-start', 'heldout', tasks.draw('cold-start', 'heldout')))"
    )
    found = []
    for flags in ("", "--xla_cpu_max_isa=SSE4_2"):
        environment = {**os.environ, "XLA_FLAGS": flags}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.strip())
    assert found == [tasks.stored_sha256("cold-start", "heldout")] * 2


def test_digest_ignores_rounding_but_nothing_else() -> None:
    drawn = jax.tree.map(np.asarray, tasks.draw("tabular-mdp-10", "heldout"))
    right = tasks.stored_sha256("tabular-mdp-10", "heldout")
    for direction in (-np.inf, np.inf):
        rounded = drawn.reward_mean
        for _ in range(4):
            rounded = np.nextafter(rounded, np.float32(direction))
        assert np.any(rounded != drawn.reward_mean)
        assert tasks.digest("tabular-mdp-10", "heldout", drawn.replace(reward_mean=rounded)) == right
    changed = drawn.reward_mean.copy()
    changed[255, 9, 4] += 0.2
    assert tasks.digest("tabular-mdp-10", "heldout", drawn.replace(reward_mean=changed)) != right
    swapped = jax.tree.map(lambda x: x[::-1], drawn)
    assert tasks.digest("tabular-mdp-10", "heldout", swapped) != right


def test_a_new_digest_equals_the_stored_one() -> None:
    made = tasks.make_digest("navigation", "heldout", tasks.draw("navigation", "heldout"))
    assert made == tasks.stored("navigation", "heldout")


def test_fewer_tasks_are_the_first_ones() -> None:
    few, all_of_them = tasks.draw("bandit", "heldout", 3), tasks.draw("bandit", "heldout")
    np.testing.assert_array_equal(few.means, all_of_them.means[:3])


@pytest.mark.parametrize("name", [one.name for one in NO_PACKAGE])
def test_entries_agree_with_their_families(name: str) -> None:
    chosen = families.get(name)
    heldout = families.make(name)
    for split in chosen.splits:
        family = families.make(name, split)
        assert family.horizon == chosen.horizon_of(split)
        assert jax.tree.map(str, family.action_space) == jax.tree.map(str, heldout.action_space)
        assert getattr(family.observation_space, "shape", family.observation_space) == getattr(
            heldout.observation_space, "shape", heldout.observation_space
        )
    assert {chosen.tier} <= set(families.TIERS)
    assert chosen.has_success == (heldout.success is not None)


def test_seeds_of_tasks_differ() -> None:
    seeds = [one.seed + shifted for one in families.ENTRIES for shifted in (0, 1)]
    assert len(set(seeds)) == len(seeds)


def test_shifted_tasks_lie_outside_of_the_training_distribution() -> None:
    far = np.abs(np.asarray(tasks.draw("navigation", "shifted").goal)).max(axis=1)
    assert far.min() >= 0.5 and far.max() <= 1
    # Goals are uniform on the ring, so the share within 0.75 is a ratio of areas.
    share = (0.75**2 - 0.5**2) / (1 - 0.5**2)
    assert abs((far < 0.75).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(far))
    assert np.asarray(tasks.draw("half-circle", "shifted").goal)[:, 1].max() <= 1e-6
    assert np.asarray(tasks.draw("gridnavi", "shifted").goals).sum(axis=-1).min() >= 5
    assert np.asarray(tasks.draw("gaussian-bandit", "shifted").means).min() >= 1
    corners = np.asarray(tasks.draw("key-to-door", "shifted").goals)
    assert set(np.unique(corners)) == {0, 8} and np.any(corners[:, 0] != corners[:, 1], axis=-1).all()
    sharp = np.asarray(tasks.draw("tabular-mdp-10", "shifted").transition)
    assert sharp.max(axis=-1).mean() > 0.6
    np.testing.assert_allclose(sharp.sum(axis=-1), 1, rtol=1e-5)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no family 'bandits' \(did you mean"):
        families.get("bandits")
    with pytest.raises(ValueError, match="tier must be one of 1, 2, 3, not 4"):
        families.of_tier(4)
    with pytest.raises(ValueError, match="xland has no shifted tasks"):
        families.make("xland", "shifted")
    with pytest.raises(ValueError, match="xland has no shifted tasks"):
        score.scale("xland", "shifted")
    with pytest.raises(ValueError, match=r"no family 'bandits' \(did you mean"):
        score.scale("bandits")
    wrong: Any = "held-out"
    for refused in (lambda: families.make("bandit", wrong), lambda: score.scale("bandit", wrong)):
        with pytest.raises(ValueError, match="split must be one of heldout, shifted, not 'held-out'"):
            refused()
    with pytest.raises(ValueError, match="role must be one of random, fixed, posterior, optimum, not 'best'"):
        score.reference("bandit", "heldout", "best")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------------------- score


def exactly(value: float, error: float = 0.0) -> score.Reference:
    return score.Reference(value, error, "exact", "")


@pytest.mark.parametrize("name", [one.name for one in families.ENTRIES])
def test_every_family_has_references(name: str) -> None:
    for split in families.get(name).splits:
        found = {role: score.reference(name, split, role) for role in score.ROLES}
        assert found["random"] is not None
        fixed, optimum = score.scale(name, split)
        assert optimum.value > fixed.value
        for one in found.values():
            if one is not None:
                assert one.what and one.standard_error >= 0
                assert one.kind == "bound" or (one.standard_error == 0) == (one.kind == "exact")
                # No learner is better than the optimum, except by chance.
                assert one.value <= optimum.value + 4 * (one.standard_error + optimum.standard_error) + 1e-3


def test_references_agree_with_closed_forms() -> None:
    means = np.asarray(tasks.draw("bandit", "heldout").means, np.float64)
    fixed = score.scale("bandit")[0]
    assert fixed.value == pytest.approx(means.mean(), rel=1e-6)
    # The mean over all possible goals does not depend on the order in which the learner visits cells.
    family = families.make("gridnavi")
    goals = np.array([[cell] for cell in itertools.product(range(5), repeat=2) if max(cell) > 1], np.int32)
    task = family.tasks.sample(jax.random.key(0))
    oracle = oracles.gridnavi.bayes_optimal(family, 4)
    play = jax.jit(jax.vmap(lambda goal: oracle.adapt(jax.random.key(0), (), task.replace(goals=goal)).score))
    assert score.scale("gridnavi")[1].value == pytest.approx(float(play(goals).mean()), rel=1e-5)
    best = np.asarray(tasks.draw("gaussian-bandit", "heldout").means, np.float64).max(axis=1)
    assert score.scale("gaussian-bandit")[1].value == pytest.approx(best.mean(), rel=1e-6)


def spiral(steps: int) -> list[int]:
    """Return actions of a walk on a grid that visits another cell at each step."""
    found: list[int] = []
    for turn in itertools.count():
        found += [1 + turn % 4] * (1 + turn // 2)
        if len(found) >= steps:
            return found[:steps]
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "actions"),
    [("gridnavi", [1, 1] + [0] * 13), ("dark-room", [0] * 20), ("key-to-door", spiral(50))],
)
def test_the_best_walk_has_the_stored_return_over_all_goals(name: str, actions: list[int]) -> None:
    family, size = families.make(name), {"gridnavi": 5}.get(name, 9)
    cells = list(itertools.product(range(size), repeat=2))
    goals: list[Any] = [[cell] for cell in cells if name != "gridnavi" or max(cell) > 1]
    if name == "key-to-door":
        goals = list(itertools.permutations(cells, 2))
    task = family.tasks.sample(jax.random.key(0))

    def act(key: Any, time: Any, inputs: Inputs) -> tuple[Any, Any, Any]:
        return time + 1, jnp.asarray(actions, jnp.int32)[time], ()

    def one(goal: Any) -> Any:
        played = rollout.episode(jax.random.key(0), act, jnp.int32(0), family, task.replace(goals=goal))[1]
        return rollout.episode_returns(played, 1)[0]

    returns = jax.jit(jax.vmap(one))(jnp.array(goals, jnp.int32))
    assert float(returns.mean()) == pytest.approx(score.scale(name)[0].value, rel=1e-4)


def test_fixed_policies_that_are_equally_good_agree_with_random_actions() -> None:
    for name in ("bandit", "gaussian-bandit", "tabular-mdp-10", "t-maze"):
        for split in families.get(name).splits:
            at_random, (fixed, _) = score.reference(name, split, "random"), score.scale(name, split)
            assert at_random is not None
            assert abs(at_random.value - fixed.value) < 4 * at_random.standard_error


def test_the_score_of_the_best_fixed_policy_is_0_and_that_of_the_optimum_is_1() -> None:
    fixed, optimum = exactly(-3.0), exactly(5.0)
    for value, right in ((-3.0, 0.0), (5.0, 1.0), (1.0, 0.5), (13.0, 2.0), (-11.0, -1.0)):
        found = score.of_family(np.full((2, 4, 3), value), None, fixed, optimum)
        assert found.mean == pytest.approx(right) and found.by_seed == pytest.approx([right] * 2)
        assert found.by_episode == pytest.approx([right] * 3)
        assert found.interval == pytest.approx((right, right))
    with pytest.raises(ValueError, match="must be larger than"):
        score.normalised(0.0, 1.0, 1.0)


def test_the_score_is_monotone_and_does_not_depend_on_the_unit_of_rewards() -> None:
    random = np.random.default_rng(0)
    returns = random.normal(size=(3, 8, 5))
    base = score.of_family(returns, None, exactly(0.0), exactly(2.0))
    better = returns.copy()
    better[1, 2, 3] += 0.1
    assert score.of_family(better, None, exactly(0.0), exactly(2.0)).mean > base.mean
    other = score.of_family(10 * returns + 7, None, exactly(7.0), exactly(27.0))
    assert other.mean == pytest.approx(base.mean) and other.interval == pytest.approx(base.interval)
    assert np.mean(base.by_episode) == pytest.approx(base.mean) == pytest.approx(np.mean(base.by_seed))


def test_the_interval_contains_the_error_of_references() -> None:
    """The delta method agrees with references that are drawn many times."""
    returns = np.full((1, 2, 1), 3.0)
    found = score.of_family(returns, None, exactly(1.0, 0.05), exactly(5.0, 0.08))
    random = np.random.default_rng(0)
    fixed, optimum = random.normal(1.0, 0.05, 100_000), random.normal(5.0, 0.08, 100_000)
    spread = ((3.0 - fixed) / (optimum - fixed)).std()
    assert (found.interval[1] - found.mean) / 1.96 == pytest.approx(spread, rel=0.02)


def test_success_is_the_share_of_episodes_on_each_goal() -> None:
    success = np.zeros((2, 4, 3))
    success[0, :2, 1] = success[1, 0, 2] = 1
    found = score.of_family(np.zeros((2, 4, 3)), success, exactly(0.0), exactly(1.0))
    assert found.success == pytest.approx([0.0, 0.25, 0.125])


def test_the_aggregate_agrees_with_the_enumeration_of_all_resamples() -> None:
    scores = np.array([[0.1, 0.9], [0.4, 0.5], [0.8, 0.6]])
    every = list(itertools.product(range(3), repeat=3))
    values = np.array(
        [interquartile_mean(np.stack([scores[list(a), 0], scores[list(b), 1]], axis=1)) for a in every for b in every]
    )
    found = score.aggregate(scores)
    # One of six values is dropped at each end.
    assert found.mean == pytest.approx(np.sort(scores.ravel())[1:-1].mean())
    assert found.standard_error == pytest.approx(values.std(), rel=0.05)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        assert np.quantile(values, share - 0.01) - 1e-9 <= end <= np.quantile(values, share + 0.01) + 1e-9


# ----------------------------------------------------------------------------------------------------------- playing


class Recorder:
    """A learner that takes one action, and records its inputs."""

    final_observation = True

    def __init__(self, batched: bool, action: Any) -> None:
        self.batched, self.action = batched, action
        self.resets: list[playing.Interface] = []
        self.inputs: list[tuple[Any, ...]] = []

    def reset(self, interface: playing.Interface) -> None:
        self.resets.append(interface)

    def act(self, observation: Any, reward: Any, done: Any, *, final_observation: Any = None) -> Any:
        self.inputs.append((observation, reward, done, final_observation))
        return np.tile(self.action, (len(reward), *[1] * np.ndim(self.action))) if self.batched else self.action


@pytest.mark.parametrize(("name", "action"), [("bandit", 2), ("tabular-mdp-10", 1), ("navigation", np.ones(2))])
def test_a_batched_learner_has_the_returns_of_one_that_is_not(name: str, action: Any) -> None:
    family, drawn = families.make(name), tasks.draw(name, "heldout", 3)
    found = [playing.Player(name, family, 2).play(Recorder(batched, action), drawn, 5) for batched in (True, False)]
    np.testing.assert_allclose(found[0].returns, found[1].returns, rtol=1e-5)
    assert found[0].steps == found[1].steps
    other = playing.Player(name, family, 2).play(Recorder(True, action), drawn, 6)
    if name != "navigation":
        assert np.any(other.returns != found[0].returns)


def test_a_learner_observes_what_the_rollout_shows() -> None:
    """Goals of point navigation are met early, so that episodes of one batch end at different times."""
    family, drawn = families.make("navigation"), tasks.draw("navigation", "heldout", 6)
    drawn = drawn.replace(goal=jnp.array([[0.1, 0.1], [0.3, 0.3], [0.5, 0.5], [0.2, 0.2], [-0.4, 0.1], [0.1, -0.1]]))
    recorder = Recorder(True, np.ones(2, np.float32))
    played = playing.Player("navigation", family, 2).play(recorder, drawn, 0)

    def act(key: Any, carry: Any, inputs: Inputs) -> tuple[Any, Any, Any]:
        return carry, jnp.ones(2), ()

    run = jax.jit(jax.vmap(lambda task: rollout.trial(jax.random.key(0), act, (), family, task, 2)[1]))
    steps = run(drawn)
    right = jax.vmap(lambda one: rollout.episode_returns(one, 2))(steps)
    np.testing.assert_allclose(played.returns, right, rtol=1e-5)
    assert played.steps == int(np.sum(steps.valid))
    valid = np.asarray(steps.valid)
    assert len({int(row.sum()) for row in valid}) > 2
    for row in range(6):
        for time in np.flatnonzero(valid[row]):
            obs, reward, done, _ = (x[row] for x in recorder.inputs[time])
            np.testing.assert_allclose(obs, steps.inputs.obs[row, time], atol=1e-6)
            np.testing.assert_allclose(reward, steps.inputs.prev_reward[row, time], atol=1e-6)
            assert done == bool(steps.inputs.prev_done[row, time])
            if time:
                np.testing.assert_allclose(recorder.inputs[time][3][row], steps.final_obs[row, time - 1], atol=1e-6)


def test_a_learner_is_reset_for_each_task_with_its_own_seed() -> None:
    family, drawn = families.make("bandit"), tasks.draw("bandit", "heldout", 3)
    recorder = Recorder(False, 0)
    playing.Player("bandit", family, 4).play(recorder, drawn, 1)
    assert len(recorder.resets) == 3 and len({one.seed for one in recorder.resets}) == 3
    first = recorder.resets[0]
    assert (first.family, first.action_space, first.horizon, first.episodes) == ("bandit", Discrete(5), 1, 4)
    assert first.tasks is None and len(recorder.inputs) == 12
    assert [bool(done) for _, _, done, _ in recorder.inputs[:4]] == [False, True, True, True]
    assert recorder.inputs[0][1] == 0


class Walk:
    """The Bayes-optimal learner of GridNavi in NumPy, from the walk that the package's search finds."""

    def __init__(self) -> None:
        self.walk = oracles.gridnavi.best_walk(5, 15, 4).actions

    def reset(self, interface: playing.Interface) -> None:
        self.time, self.goal, self.before = 0, None, 0

    def act(self, observation: Any, reward: Any, done: Any) -> int:
        if self.time and reward > 0 and self.goal is None:
            move = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)][self.action]
            self.goal = tuple(np.clip(np.array(divmod(self.before, 5)) + move, 0, 4))
        here = divmod(int(observation), 5)
        self.action = int(self.walk[self.time])
        if self.goal is not None:
            x, y = self.goal[0] - here[0], self.goal[1] - here[1]
            self.action = 2 if x > 0 else 4 if x < 0 else 1 if y > 0 else 3 if y < 0 else 0
        self.time, self.before = self.time + 1, int(observation)
        return self.action


def test_an_oracle_through_the_door_has_its_direct_returns() -> None:
    family, drawn = families.make("gridnavi"), tasks.draw("gridnavi", "heldout", 24)
    played = playing.Player("gridnavi", family, 4).play(Walk(), drawn, 0)
    oracle = oracles.gridnavi.bayes_optimal(family, 4)
    direct = jax.jit(jax.vmap(lambda task: oracle.adapt(jax.random.key(0), (), task).score))(drawn)
    np.testing.assert_allclose(played.returns, direct, atol=1e-4)


class Thompson:
    """Thompson sampling of Bernoulli bandits in NumPy, for all tasks at the same time."""

    batched = True

    def reset(self, interface: playing.Interface) -> None:
        assert interface.tasks is not None and isinstance(interface.action_space, Discrete)
        self.random, self.first = np.random.default_rng(interface.seed), True
        self.counts = np.ones((2, interface.tasks, interface.action_space.n))

    def act(self, observation: Any, reward: Any, done: Any) -> Any:
        rows = np.arange(len(reward))
        if not self.first:
            self.counts[(1 - reward).astype(int), rows, self.action] += 1
        self.first = False
        self.action = self.random.beta(self.counts[0], self.counts[1]).argmax(axis=1)
        return self.action


def test_a_random_oracle_through_the_door_agrees_within_the_interval() -> None:
    family, drawn = families.make("bandit"), tasks.draw("bandit", "heldout")
    played = playing.Player("bandit", family, 100).play(Thompson(), drawn, 0)
    oracle = oracles.bandits.thompson_sampling(family, 100)
    keys = jax.random.split(jax.random.key(0), 256)
    direct = np.asarray(jax.jit(jax.vmap(lambda key, task: oracle.adapt(key, (), task).score))(keys, drawn))
    # Both play the same tasks, so that differences are paired.
    difference = mean_with_interval(played.returns.mean(axis=1) - direct.mean(axis=1))
    assert abs(difference.mean) < 4 * difference.standard_error
    posterior = score.reference("bandit", "heldout", "posterior")
    assert posterior is not None
    assert abs(played.returns.mean() - posterior.value) < 4 * difference.standard_error + 4 * posterior.standard_error


def test_a_trained_learner_of_the_package_has_its_known_score() -> None:
    agent = pretrained("rl2-bandit-100x5")
    assert isinstance(agent, Agent)
    drawn = tasks.draw("bandit", "heldout")
    player = playing.Player("bandit", families.make("bandit"), 100)
    played = player.play(package_learners.AgentLearner(agent), drawn, 0)
    found = score.of_family(played.returns[None], None, *score.scale("bandit"))
    # On other tasks its return of a trial is that of the Gittins index within 1 % (its card).
    assert found.mean == pytest.approx(1, abs=0.05)
    # The first pull knows nothing, and the last ones are nearly optimal.
    assert found.by_episode[0] < 0.3 and np.mean(found.by_episode[-20:]) > 1


@pytest.mark.parametrize(
    ("action", "message"),
    [(5, "from 0 to 4"), (-1, "from 0 to 4"), (0.5, "whole numbers"), ("a", "numeric"), ([1, 2], r"shape \[\]")],
)
def test_wrong_actions_are_refused(action: Any, message: str) -> None:
    family, drawn = families.make("bandit"), tasks.draw("bandit", "heldout", 2)
    with pytest.raises(UserError, match=message):
        playing.Player("bandit", family, 2).play(Recorder(False, action), drawn, 0)


def test_actions_that_are_not_finite_are_refused() -> None:
    family, drawn = families.make("navigation"), tasks.draw("navigation", "heldout", 2)
    with pytest.raises(UserError, match="navigation: action must be finite"):
        playing.Player("navigation", family, 2).play(Recorder(True, np.full(2, np.nan)), drawn, 0)


def test_learners_are_objects_or_made_from_a_seed() -> None:
    made: list[int] = []

    class Mine(Walk):
        def __init__(self, seed: int) -> None:
            made.append(seed)

    assert isinstance(external(Mine, 3, "x"), Mine) and isinstance(external(lambda seed: Mine(seed), 4, "x"), Mine)
    assert made == [3, 4]
    with pytest.raises(UserError, match=r"x must be an object with reset\(interface\)"):
        external(42, 0, "x")


def test_an_object_is_copied_for_each_family_and_seed() -> None:
    class Counting(Walk):
        def __init__(self) -> None:
            self.calls: list[int] = []

        def train(self, family: Any, steps: int) -> None:
            self.calls.append(steps)

    shared: Any = Counting()
    first, second = external(shared, 0, "x"), external(shared, 1, "x")
    train_external(first, families.get("bandit"))
    assert (len(first.calls), second.calls, shared.calls) == (1, [], [])  # pyright: ignore[reportAttributeAccessIssue]
    shared.lock = threading.Lock()
    with pytest.raises(UserError, match=r"x must be a class or a function .* cannot be copied .* TypeError"):
        external(shared, 0, "x")


def test_a_family_without_its_package_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, split: str = "heldout") -> Any:
        raise ImportError(f"{name} needs another package")

    monkeypatch.setattr(families, "make", missing)
    chosen = families.get("xland")
    with pytest.raises(UserError, match=r"^xland: xland needs another package$"):
        measure(chosen, [Walk()], chosen.splits, print)
    with pytest.raises(UserError, match=r"^xland: xland needs another package$"):
        train_external(Trainable(), chosen)
    content = {"learner": {"kind": "external"}, "seeds": 1, "families": {"xland": {"heldout": {}}}}
    with pytest.raises(UserError, match=r"^xland: xland needs another package$"):
        replay(content, f"{DATA / 'discounted_thompson.py'}:DiscountedThompson", 2, 0, lambda text: None)


class Trainable(Walk):
    """A learner that offers training, and remembers nothing."""

    def train(self, family: Any, steps: int) -> None:
        pass


def test_chosen_tasks_are_played_with_their_own_random_numbers() -> None:
    family, drawn = families.make("gaussian-bandit"), tasks.draw("gaussian-bandit", "heldout", 6)
    player, which = playing.Player("gaussian-bandit", family, 3), np.array([1, 4, 5])
    some = jax.tree.map(lambda x: x[which], drawn)
    for batched in (True, False):
        recorders = [Recorder(batched, 2) for _ in range(2)]
        played, chosen = player.play(recorders[0], drawn, 3), player.play(recorders[1], some, 3, which)
        np.testing.assert_array_equal(played.returns[which], chosen.returns)
        if not batched:
            seeds = [[one.seed for one in recorder.resets] for recorder in recorders]
            assert [seeds[0][index] for index in which] == seeds[1]


def test_a_learner_is_trained_within_the_budget_without_held_out_tasks() -> None:
    chosen = families.get("navigation")

    class Trained(Walk):
        training_steps: Any = chosen.budget

        def train(self, family: Any, steps: int) -> None:
            self.family, self.budget = family, steps

    learner = Trained()
    assert train_external(learner, chosen) == chosen.budget == learner.budget
    goals = jax.vmap(learner.family.tasks.sample_heldout)(jax.random.split(jax.random.key(0), 100)).goal
    training = jax.vmap(families.make("navigation").tasks.sample)(jax.random.split(jax.random.key(0), 100)).goal
    np.testing.assert_array_equal(goals, training)
    for claimed in (17, np.int64(17)):
        learner.training_steps = claimed
        assert train_external(learner, chosen) == 17
    for wrong in (chosen.budget + 1, -1, 1.5, True, "many"):
        learner.training_steps = wrong
        with pytest.raises(UserError, match="training_steps of the learner must be from 0 to 65,000,000"):
            train_external(learner, chosen)
    assert train_external(Walk(), chosen) == 0


# ------------------------------------------------------------------------------------------------------------- files


def made_up(tier: int = 1, seeds: int = 2) -> dict[str, Any]:
    """Make the content of a valid file with returns that nobody played."""
    random = np.random.default_rng(0)
    parts = {}
    for one in families.of_tier(tier):
        splits = {}
        for split in one.splits:
            fixed, optimum = score.scale(one.name, split)
            share = random.uniform(0.2, 0.8, (seeds, one.tasks, one.episodes))
            horizon = one.horizon_of(split)
            returns = fixed.value + share * (optimum.value - fixed.value)
            if one.whole_returns:
                returns = np.floor(returns + random.uniform(size=returns.shape))
            outcome = entry.Measured(
                tasks.stored_sha256(one.name, split),
                returns,
                returns > 0 if one.has_success else None,
                [one.tasks * one.episodes * horizon] * seeds,
            )
            splits[split] = entry.measured(one.name, split, outcome)
        parts[one.name] = {"training_steps": [10] * seeds, "training_steps_are": "claimed", **splits}
    about = {"name": "mine", "kind": "external", "reference": "mine.py:mine", "sha256": "0" * 64}
    return json.loads(json.dumps(entry.assemble(tier, seeds, about, parts)))


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    return made_up()


def test_a_valid_file_has_no_problems(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entry.write(path, valid)
    assert entry.problems(entry.read(path)) == []
    assert 0.3 < valid["score"]["interquartile_mean"] < 0.7


def changed(content: dict[str, Any], place: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a copy with another value at a place such as "families/bandit/heldout/tasks"."""
    copied = copy.deepcopy(content)
    *path, last = [int(word) if word.isdigit() else word for word in place.split("/")]
    inner: Any = copied
    for name in path:
        inner = inner[name]
    inner[last] = change(inner[last])
    return copied


def filled(seed: Any, value: float) -> Any:
    """Return the returns of a seed with the same value everywhere."""
    return np.full(np.shape(seed), value).tolist()


TAMPERED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("families/bandit/heldout/digest", lambda x: "0" * 64, "digest"),
    ("families/bandit/shifted/digest", lambda x: x[::-1], "digest"),
    ("families/bandit/heldout/tasks", lambda x: 128, "tasks must be 256"),
    ("families/bandit/heldout/episodes", lambda x: 99, "episodes must be 100"),
    ("families/bandit/training_steps/0", lambda x: 10**12, "budget"),
    ("families/bandit/training_steps/0", lambda x: -1, "budget"),
    ("families/bandit/training_steps", lambda x: x[:1], "2 seeds"),
    ("families/bandit/training_steps_are", lambda x: "few", "training_steps_are"),
    ("families/bandit/training_steps_are", lambda x: "counted", 'must be "claimed" for a learner of the kind'),
    ("learner/kind", lambda x: "package", 'must be "counted" for a learner of the kind'),
    ("families/bandit/heldout/steps/0", lambda x: x + 1, "steps"),
    ("families/navigation/heldout/steps/1", lambda x: 10**9, "steps"),
    ("families/bandit/heldout/steps", lambda x: [*x, x[0]], "2 seeds"),
    ("families/cold-start/heldout/returns/1/255/19", lambda x: x + 0.01, "scores are not those"),
    ("families/bandit/heldout/returns/0/0/0", lambda x: 3.0, "a return is not from"),
    ("families/bandit/heldout/returns/0/0/0", lambda x: 0.5, "not a whole number"),
    ("families/dark-room/shifted/returns/0/0/0", lambda x: x + 0.5, "not a whole number"),
    ("families/t-maze/heldout/returns/0/0/0", lambda x: 0.5, "not a whole number"),
    ("families/t-maze/heldout/returns/0/0/0", lambda x: 1 - x, "success contradicts"),
    ("families/t-maze/heldout/success/0/0/0", lambda x: 1 - x, "success contradicts"),
    ("families/gaussian-bandit/heldout/returns/0/0/0", lambda x: 1e6, "a return is not from"),
    ("families/gaussian-bandit/heldout/returns/0", lambda x: filled(x, 0.85), "above that of the optimal policy"),
    ("families/tabular-mdp-10/heldout/returns/0/0/0", lambda x: -1e6, "a return is not from"),
    ("families/tabular-mdp-10/shifted/returns/1", lambda x: filled(x, 26.0), "above that of the optimal policy"),
    ("families/navigation/heldout/returns/0/0/0", lambda x: -900.0, "a return is not from"),
    ("families/navigation/heldout/returns/0", lambda x: filled(x, -0.1), "above that of the optimal policy"),
    ("families/cold-start/shifted/returns/0/0/0", lambda x: 1e308, "a return is not from"),
    ("families/cold-start/heldout/returns/0", lambda x: filled(x, 1.0), "above that of the optimal policy"),
    ("families/bandit/heldout/scores/mean", lambda x: 10**400, "scores are not those"),
    ("families/bandit/heldout/scores/mean", lambda x: float("inf"), "scores are not those"),
    ("score/interquartile_mean", lambda x: -(10**400), "aggregate"),
    ("families/bandit/heldout/scores/mean", lambda x: x + 0.001, "scores are not those"),
    ("families/bandit/heldout/scores/ci95/0", lambda x: x + 0.001, "scores are not those"),
    ("families/bandit/heldout/scores/by_seed/1", lambda x: x + 0.001, "scores are not those"),
    ("families/bandit/shifted/scores/by_episode/7", lambda x: x + 0.001, "scores are not those"),
    ("families/t-maze/heldout/scores/success_by_episode/0", lambda x: 1.0, "scores are not those"),
    ("families/bandit/heldout/scores", lambda x: {**x, "best": 1.0}, "scores are not those"),
    ("score/interquartile_mean", lambda x: x + 0.001, "aggregate"),
    ("score/ci95/1", lambda x: x + 0.001, "aggregate"),
    ("score", lambda x: None, "aggregate"),
    ("families", lambda x: {name: part for name, part in x.items() if name != "bandit"}, "aggregate"),
]


@pytest.mark.parametrize(("place", "change", "message"), TAMPERED, ids=[f"{i}-{x[0]}" for i, x in enumerate(TAMPERED)])
def test_tampering_is_noticed(valid: dict[str, Any], place: str, change: Any, message: str) -> None:
    found = entry.problems(changed(valid, place, change))
    assert found and any(message in text for text in found)


def test_an_installation_with_other_tasks_is_noticed(valid: dict[str, Any]) -> None:
    found = entry.problems(valid, {("bandit", "heldout"): "1" * 64})
    assert found == ["bandit, heldout: this installation makes other tasks than those of the benchmark"]


DAMAGED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("schema", lambda x: 2, "schema 2"),
    ("benchmark", lambda x: 2, "version 2"),
    ("tier", lambda x: 9, "tier must be one of"),
    ("seeds", lambda x: 10**9, "seeds must be from 1 to 100"),
    ("seeds", lambda x: 3, "3, 256, 100"),
    ("seeds", lambda x: True, "another type"),
    ("learner", lambda x: "mine", "learner is not a dictionary"),
    ("learner/name", lambda x: "x" * 1000, "at most 200 characters"),
    ("learner/sha256", lambda x: [1], "printable"),
    ("learner/kind", lambda x: "mine", "learner.kind must be"),
    ("learner/kind", lambda x: "package", r"learner.reference of a learner of the package: there is no algorithm"),
    ("learner/reference", lambda x: "rl2", "learner.reference of an external learner"),
    ("learner", lambda x: {**x, "prize": 1}, "learner has an unknown entry 'prize'"),
    ("versions", lambda x: {str(i): "" for i in range(51)}, "versions must be at most 50"),
    ("families", lambda x: {}, "at least one family"),
    ("families/bandit", lambda x: {**x, "other": 1}, "families.bandit has an unknown entry 'other'"),
    ("families/bandit/heldout", lambda x: {**x, "other": 1}, "families.bandit.heldout has an unknown entry"),
    ("families", lambda x: {**x, "xland": x["bandit"]}, "not a family of tier 1"),
    ("families/bandit/heldout", lambda x: None, "not a dictionary"),
    ("families/bandit/shifted", lambda x: 7, "not a dictionary"),
    ("families/bandit/heldout/returns", lambda x: x[:1], "256, 100"),
    ("families/bandit/heldout/returns/0", lambda x: x[:9], "must be numbers of"),
    ("families/bandit/heldout/returns/0/0/0", lambda x: None, "finite"),
    ("families/bandit/heldout/returns/0/0/0", lambda x: "1", "not a number"),
    ("families/bandit/heldout/returns/0/0/0", lambda x: 10**400, "not finite as a float"),
    ("families/bandit/shifted/returns/0/0/0", lambda x: -(10**400), "not finite as a float"),
    ("families/bandit/heldout/success", lambda x: [[[0] * 100] * 256] * 2, "must be null"),
    ("families/t-maze/heldout/success/0/0/0", lambda x: 0.5, "another type than int"),
    ("families/t-maze/heldout/success/0/0/0", lambda x: "1", "another type than int"),
    ("families/t-maze/heldout/success/0/0/0", lambda x: 2, "0 or 1"),
    ("families/t-maze/heldout/success/0/0/0", lambda x: 10**400, "must be numbers of"),
    ("families/t-maze/heldout/success/0", lambda x: x[:9], "must be numbers of"),
    ("families/t-maze/heldout/success", lambda x: {}, "success is not a list"),
    ("families/t-maze/shifted/success", lambda x: None, "success is not a list"),
    ("families/bandit/heldout/steps", lambda x: 7, "steps is not a list"),
]


@pytest.mark.parametrize(("place", "change", "message"), DAMAGED, ids=[f"{i}-{x[0]}" for i, x in enumerate(DAMAGED)])
def test_damaged_files_are_refused_in_one_line(
    valid: dict[str, Any], tmp_path: Path, place: str, change: Any, message: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(valid, place, change)))
    with pytest.raises(UserError, match=message) as caught:
        entry.read(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_entry_of_a_file_is_refused(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**valid, "award": "first"}))
    with pytest.raises(UserError, match="it has an unknown entry 'award'"):
        entry.read(path)


def test_a_file_of_the_package_names_its_algorithm(valid: dict[str, Any], tmp_path: Path) -> None:
    about = {"name": "rl2", "kind": "package", "reference": "rl2", "sha256": None}
    content = changed(valid, "learner", lambda x: about)
    for part in content["families"].values():
        part["training_steps_are"] = "counted"
    entry.write(tmp_path / "mine.json", content)
    assert entry.problems(entry.read(tmp_path / "mine.json")) == []


def test_links_and_control_characters_are_refused(valid: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(valid, "learner/name", lambda x: "a\x1b[31m")))
    with pytest.raises(UserError, match="control characters"):
        entry.read(path)
    os.symlink(path, tmp_path / "link.json")
    with pytest.raises(UserError, match="symbolic link"):
        entry.read(tmp_path / "link.json")


def test_a_table_compares_files_of_a_tier(valid: dict[str, Any]) -> None:
    other = changed(valid, "learner/name", lambda x: "a|b")
    lines = entry.table([valid, other]).splitlines()
    assert lines[0] == "| family | mine (external) | a\\|b (external) |"
    assert lines[2].startswith("| bandit | 0.") and lines[3].startswith("| bandit, shifted | 0.")
    assert lines[-1].startswith("| interquartile mean | 0.")
    assert len(lines) == 3 + sum(len(one.splits) for one in families.of_tier(1))
    with pytest.raises(UserError, match="tiers 1 and 2"):
        entry.table([valid, changed(valid, "tier", lambda x: 2)])


# ---------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use a folder that contains only the example learners as the working directory; unload them at the end."""
    for name in ("discounted_thompson.py", "torch_learner.py"):
        shutil.copy(DATA / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, path in references.loaded_files().items():
        if Path(path).is_relative_to(tmp_path.resolve()):
            del sys.modules[name]


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return its error message of one line."""
    capsys.readouterr()
    assert cli.main(["benchmark", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("metarl-jax: error: ") and text.count("\n") == 1
    return text


THOMPSON = "discounted_thompson.py:DiscountedThompson"


def test_a_numpy_learner_enters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", THOMPSON, "--families", "cold-start", "--seeds", "1", "--no-shifted", "-o", "mine.json"]
    assert cli.main(["benchmark", *words]) == 0
    content = entry.read(here / "mine.json")
    assert content["learner"]["reference"] == THOMPSON and content["score"] is None
    # With 50 items and 20 interactions it is far below the recommendation of popular items.
    assert content["families"]["cold-start"]["heldout"]["scores"]["mean"] < 0
    assert cli.main(["benchmark", "check", "mine.json", "--replay", "8", "--learner", THOMPSON]) == 0
    assert "mine.json: right (1 family of tier 1)" in capsys.readouterr().out
    assert cli.main(["benchmark", "table", "mine.json"]) == 0
    assert capsys.readouterr().out.startswith("| family | DiscountedThompson (external) |")
    assert "mine.json exists" in failure(capsys, *words)

    # A file that does not say which code was played is replayed with a warning.
    (here / "other.json").write_text(json.dumps(changed(content, "learner/sha256", lambda x: None)))
    check = ["check", "--no-remake", "--replay", "2", "--replay-seed", "5", "--learner", THOMPSON]
    capsys.readouterr()
    assert cli.main(["benchmark", *check[:1], "other.json", *check[1:]]) == 0
    assert capsys.readouterr().out.startswith("warning: the file has no SHA-256 of the learner")

    # A learner that plays otherwise is noticed, and so is another file.
    text = Path("discounted_thompson.py").read_text()
    Path("discounted_thompson.py").write_text(text.replace("np.argmax(", "0 * np.argmax("))
    assert cli.main(["benchmark", "check", "mine.json", "--replay", "32", "--learner", THOMPSON]) == 2
    out = capsys.readouterr().out
    assert "its SHA-256 differs" in out and "cold-start, heldout: the replayed returns of seed 0 differ" in out


@pytest.mark.slow
def test_a_replay_covers_all_seeds_and_splits(here: Path) -> None:
    words = ["run", THOMPSON, "--families", "cold-start", "--seeds", "2", "-o", "mine.json"]
    assert cli.main(["benchmark", *words]) == 0
    content = entry.read(here / "mine.json")
    said: list[str] = []
    assert replay(content, THOMPSON, 8, 0, said.append) == [] == said
    for split, seed in (("heldout", 1), ("shifted", 0)):
        place = f"families/cold-start/{split}/returns/{seed}"
        found = replay(changed(content, place, lambda x: filled(x, 0.0)), THOMPSON, 8, 1, said.append)
        assert len(found) == 1 and f"cold-start, {split}: the replayed returns of seed {seed} differ" in found[0]


@pytest.mark.slow
def test_discounted_thompson_sampling_is_between_a_fixed_arm_and_thompson_sampling(here: Path) -> None:
    words = ["run", THOMPSON, "--families", "bandit", "--seeds", "1", "--no-shifted", "-o", "mine.json"]
    assert cli.main(["benchmark", *words]) == 0
    found = entry.read(here / "mine.json")["families"]["bandit"]["heldout"]["scores"]
    posterior, (fixed, optimum) = score.reference("bandit", "heldout", "posterior"), score.scale("bandit")
    assert posterior is not None
    assert 0.2 < found["mean"] < score.normalised(posterior.value, fixed.value, optimum.value)


def test_a_pytorch_learner_enters(here: Path) -> None:
    pytest.importorskip("torch")
    words = ["run", "torch_learner.py:GRUPolicy", "--families", "gridnavi", "--seeds", "2", "--no-shifted"]
    assert cli.main(["benchmark", *words]) == 0
    content = entry.read(here / "GRUPolicy-tier-1.json")
    assert entry.problems(content) == []
    # Its weights are random, so it is worse than a walk to a fixed place.
    assert content["families"]["gridnavi"]["heldout"]["scores"]["mean"] < 0


def test_check_executes_no_code_of_a_file(
    valid: dict[str, Any], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "evil.py").write_text("from pathlib import Path\nPath('executed').touch()\nlearner = None\n")
    content = changed(valid, "learner/reference", lambda x: "evil.py:learner")
    (here / "mine.json").write_text(json.dumps(content))
    assert cli.main(["benchmark", "check", "mine.json", "--no-remake"]) == 0
    assert cli.main(["benchmark", "table", "mine.json"]) == 0
    assert not (here / "executed").exists()
    (here / "mine.json").write_text(json.dumps(changed(content, "score/ci95/0", lambda x: 0.9)))
    capsys.readouterr()
    assert cli.main(["benchmark", "check", "mine.json", "--no-remake"]) == 2
    assert capsys.readouterr().out == "mine.json: the aggregate score is not that of the returns\n"
    assert "mine.json is not right: the aggregate" in failure(capsys, "table", "mine.json")


def test_wrong_command_lines_are_refused_in_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no command benchmark 'chek' (did you mean" in failure(capsys, "chek")
    assert "needs one learner" in failure(capsys, "run")
    assert "no algorithm 'rl3x'" in failure(capsys, "run", "rl3x")
    assert "is of tier 2, not 1" in failure(capsys, "run", "rl2", "--families", "maze")
    assert "no family 'band'" in failure(capsys, "run", "rl2", "--families", "band")
    assert "has no 'nothing'" in failure(capsys, "run", "discounted_thompson.py:nothing")
    assert "there is no folder" in failure(capsys, "run", "rl2", "--output", "no/where.json")
    assert "needs the path" in failure(capsys, "check")
    assert "must be given together" in failure(capsys, "check", "x.json", "--replay", "4")
    assert "x.json cannot be read" in failure(capsys, "check", "x.json")
    assert "needs the path" in failure(capsys, "table")
    assert "unexpected argument" in failure(capsys, "list", "bandit")


def test_usage_and_list_name_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in commands.COMMANDS)
    assert cli.main(["benchmark"]) == 2
    capsys.readouterr()
    assert cli.main(["benchmark", "list"]) == 0
    out = capsys.readouterr().out
    assert all(one.name in out for one in families.ENTRIES)


# ------------------------------------------------------------------------------------------- algorithms of the package


def test_a_plan_stays_within_the_budget() -> None:
    chosen = families.get("dark-room")
    found = package_learners.plan("rl2", chosen)
    assert found.experiment.name == "rl2-dark-room-new-goals" and found.settings["episodes"] == 10
    # The preset has 89.6 million steps, which is more than the budget.
    assert found.steps <= chosen.budget < found.steps + 12_800
    assert package_learners.plan("rl2", chosen, iterations=3).steps == 3 * 12_800
    gradient = package_learners.plan("maml", families.get("navigation"))
    assert (gradient.settings["episodes"], gradient.settings["adaptation_steps"], gradient.adapt_every) == (2, 1, 2)
    with pytest.raises(UserError, match="rl3 on dark-room: "):
        package_learners.plan("rl3", chosen)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rl2", "maml"])
def test_an_algorithm_of_the_package_enters(algorithm: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", algorithm, "--families", "gridnavi", "--seeds", "2", "--iterations", "2", "-o", "mine.json"]
    assert cli.main(["benchmark", *words]) == 0
    content = entry.read(here / "mine.json")
    assert entry.problems(content) == [] and content["learner"]["kind"] == "package"
    assert content["families"]["gridnavi"]["training_steps_are"] == "counted"
    assert (here / "runs" / f"benchmark-{algorithm}-gridnavi" / "config.json").exists()
    assert "not an algorithm of the package" in failure(
        capsys, "check", "mine.json", "--no-remake", "--replay", "2", "--learner", "discounted_thompson.py:x"
    )
