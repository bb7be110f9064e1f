"""Motion planning: collisions, sensors, maps, shortest paths, and planners without meta-learning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csgraph

from metarl_jax.environments import bandits, motion_planning
from metarl_jax.environments.drawing import Frame
from metarl_jax.environments.motion_planning import ARRIVAL, DIRECTIONS, REACH, START, HiddenMap, Map
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import motion_planning as oracles
from metarl_jax.rollout import episode_successes, trial
from metarl_jax.types import EnvFamily, Inputs, Oracle, Transition

FINE_STEPS = 4000


def maps(number: int, *, heldout: bool = False, **settings: Any) -> Map:
    tasks = motion_planning.rooms(**settings).tasks
    sample = tasks.sample_heldout if heldout else tasks.sample
    return jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), number))


def one(tasks: Map, index: int) -> Map:
    return jax.tree.map(lambda x: x[index], tasks)


def environment(family: EnvFamily) -> HiddenMap:
    assert isinstance(family.env, HiddenMap)
    return family.env


def covered(places: np.ndarray, boxes: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Return which places ``[..., 2]`` are inside a box that is smaller by a margin on each side."""
    inside = (places[..., None, :] > boxes[:, :2] + margin) & (places[..., None, :] < boxes[:, 2:] - margin)
    return np.asarray(inside.all(axis=-1).any(axis=-1))


def free_share(start: np.ndarray, move: np.ndarray, boxes: np.ndarray) -> float:
    """Return the share of a move before it enters a box, by looking at many places along it."""
    shares = np.linspace(0, 1, FINE_STEPS + 1)
    blocked = covered(start + shares[:, None] * move, boxes)
    return float(shares[np.argmax(blocked)]) if blocked.any() else 1.0


def places_outside(boxes: np.ndarray, number: int, seed: int) -> np.ndarray:
    places = np.random.default_rng(seed).uniform(0.001, 0.999, (10 * number, 2))
    return places[~covered(places, boxes, -0.002)][:number]


@pytest.mark.parametrize("index", range(4))
def test_contacts_are_those_of_a_search_along_the_move(index: int) -> None:
    boxes = np.asarray(maps(4).boxes[index], np.float64)
    starts = places_outside(boxes, 200, index)
    random = np.random.default_rng(index)
    moves = random.uniform(-0.5, 0.5, starts.shape) * random.choice([0.0, 1.0], starts.shape, p=[0.15, 0.85])
    found, axis = jax.vmap(motion_planning.first_contact, (0, 0, None))(
        jnp.asarray(starts, jnp.float32), jnp.asarray(moves, jnp.float32), jnp.asarray(boxes, jnp.float32)
    )
    shares = np.array([free_share(start, move, boxes) for start, move in zip(starts, moves, strict=True)])
    # A move may graze a corner for less than the distance of two places.
    differs = np.abs(np.asarray(found) - shares) > 2 / FINE_STEPS
    assert differs.mean() <= 0.01
    met = (np.asarray(found) < 1) & ~differs
    assert met.sum() > 30
    # The robot touches a side of a box that is perpendicular to the axis.
    ends = starts + np.asarray(found)[:, None] * moves
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:]])
    for end, along in zip(ends[met], np.asarray(axis)[met], strict=True):
        assert np.abs(sides[:, along] - end[along]).min() < 1e-4


def test_a_robot_slides_along_obstacles_and_never_enters_them() -> None:
    box = jnp.array([*motion_planning._EDGES, (0.5, 0.2, 0.6, 0.8)], jnp.float32)
    start = jnp.array([0.45, 0.5], jnp.float32)
    # The right half of the move is blocked; the upward part is not.
    after = motion_planning.moved(start, jnp.array([0.1, 0.1], jnp.float32), box)
    np.testing.assert_allclose(after, [0.5, 0.6], atol=3e-4)
    corner = motion_planning.moved(jnp.array([0.45, 0.95], jnp.float32), jnp.array([-0.9, 0.2], jnp.float32), box)
    np.testing.assert_allclose(corner, [0.0, 1.0], atol=2e-3)

    family = motion_planning.rooms()
    tasks = maps(50)

    def act(key: jax.Array, way: jax.Array, inputs: Inputs) -> tuple[jax.Array, jax.Array, tuple[()]]:
        del inputs
        way = jnp.where(jax.random.uniform(key) < 0.2, jax.random.uniform(key, (2,), jnp.float32, -2, 2), way)
        return way, way, ()

    played = jax.jit(jax.vmap(lambda key, task: trial(key, act, jnp.ones(2), family, task, 1)[1]))(
        jax.random.split(jax.random.key(0), 50), tasks
    )
    path = np.asarray(environment(family).position(played.final_obs))
    before = np.asarray(environment(family).position(played.inputs.obs))
    assert np.abs(path - before).max() <= REACH + 1e-6
    for i in range(50):
        assert not covered(path[i], np.asarray(tasks.boxes[i])).any()
        between = before[i, :, None] + np.linspace(0, 1, 20)[:, None] * (path[i] - before[i])[:, None]
        # A step that slides has a corner, so the straight line between its ends may cut the corner of a box.
        assert covered(between, np.asarray(tasks.boxes[i]), 0.0).any(axis=1).mean() < 0.1


def test_the_robot_observes_positions_distances_and_free_rays() -> None:
    family, tasks = motion_planning.rooms(sensor_range=0.3, horizon=10), maps(3, horizon=10)
    env = environment(family)
    for index in range(3):
        task = one(tasks, index)
        boxes = np.asarray(task.boxes, np.float64)
        for place in places_outside(boxes, 4, 7):
            state = motion_planning.RobotState(jnp.asarray(place, jnp.float32), jnp.int32(5))
            obs = env._observe(state, task)
            np.testing.assert_allclose(env.position(obs), place, atol=1e-6)
            assert float(env.distance(obs)) == pytest.approx(np.linalg.norm(place - np.asarray(task.goal)), abs=1e-6)
            shares = [free_share(place, 0.3 * np.array(direction), boxes) for direction in DIRECTIONS]
            np.testing.assert_allclose(env.free(obs), shares, atol=2 / FINE_STEPS)
            assert float(obs[3]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("walls", "shifted"), [(1, False), (2, False), (2, True)])
def test_every_map_has_a_path_to_the_goal_and_doors_in_range(walls: int, shifted: bool) -> None:
    tasks = maps(200, walls=walls, shifted=shifted, heldout=True)
    boxes, goals = np.asarray(tasks.boxes), np.asarray(tasks.goal)
    below, above, room = np.split(boxes[:, 4:], [walls, 2 * walls], axis=1)
    door, width = (below[..., 3] + above[..., 1]) / 2, above[..., 1] - below[..., 3]
    if shifted:
        assert np.abs(door - 0.5).min() >= 0.3 - 1e-5
        assert width.min() >= 0.07 - 1e-5
        assert width.max() <= 0.1 + 1e-5
    else:
        assert np.abs(door - 0.5).max() <= 0.3 + 1e-5
        assert width.min() >= 0.14 - 1e-5
        assert width.max() <= 0.2 + 1e-5
    assert (door - width / 2).min() > 0
    assert (door + width / 2).max() < 1
    # A box has free space on all sides.
    assert room[..., 1].min() >= 0.07 - 1e-5
    assert room[..., 3].max() <= 0.93 + 1e-5
    assert (room[:, 1:, 0] - below[..., 2]).min() >= 0.07 - 1e-5
    assert (below[..., 0] - room[:, :-1, 2]).min() >= 0.07 - 1e-5
    assert (room[..., 2] - room[..., 0]).min() > 0.01
    for i in range(200):
        assert not covered(np.array([START, goals[i]]), boxes[i], -0.005).any()
    goal = np.floor(goals * 48).astype(int)
    for i in range(0, 200, 10):
        free = np.asarray(motion_planning.free_cells(tasks.boxes[i], 48))
        steps = shortest_by_scipy(free, tuple(goal[i]))
        assert np.isfinite(steps[int(START[0] * 48), int(START[1] * 48)])


def shortest_by_scipy(free: np.ndarray, goal: tuple[int, ...]) -> np.ndarray:
    """Return the number of moves to the goal from each cell, by a breadth-first search of a sparse graph."""
    size = free.shape[0]
    free = free.copy()
    free[goal] = True
    rows, columns = [], []
    for x, y in np.argwhere(free):
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                u, v = x + dx, y + dy
                within = 0 <= u < size and 0 <= v < size and (dx, dy) != (0, 0)
                if within and free[u, v] and free[x, v] and free[u, y]:
                    rows.append(x * size + y)
                    columns.append(u * size + v)
    graph = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (size**2, size**2))
    found = csgraph.dijkstra(graph, indices=goal[0] * size + goal[1], unweighted=True)
    return np.asarray(found).reshape(size, size)


@pytest.mark.parametrize("size", [13, 24, 48])
def test_shortest_paths_are_those_of_scipy(size: int) -> None:
    tasks = maps(4)
    for index in range(4):
        free = motion_planning.free_cells(tasks.boxes[index], size)
        middle = (np.stack(np.meshgrid(*[np.arange(size)] * 2, indexing="ij"), axis=-1) + 0.5) / size
        np.testing.assert_array_equal(free, ~covered(middle, np.asarray(tasks.boxes[index])))
        goal = tuple(np.floor(np.asarray(tasks.goal[index]) * size).astype(int))
        goals = jnp.zeros((size, size), bool).at[goal].set(True)
        found = motion_planning.distances(free | goals, goals)
        np.testing.assert_array_equal(found, shortest_by_scipy(np.asarray(free), goal))


def played(oracle: Oracle, tasks: Map, number: int) -> Transition:
    assert oracle.play is not None
    return jax.jit(jax.vmap(oracle.play))(jax.random.split(jax.random.key(1), number), tasks)


def test_the_shortest_path_takes_as_many_steps_as_the_grid_says() -> None:
    family, tasks = motion_planning.rooms(), maps(50)
    steps = played(oracles.shortest_path(family, 1), tasks, 50)
    assert bool(jnp.all(jnp.any(steps.terminated & steps.valid, axis=1)))
    taken = np.asarray(jnp.sum(steps.valid, axis=1))
    for i in range(12):
        goal = tuple(np.floor(np.asarray(tasks.goal[i]) * 48).astype(int))
        moves = shortest_by_scipy(np.asarray(motion_planning.free_cells(tasks.boxes[i], 48)), goal)
        least = moves[int(START[0] * 48), int(START[1] * 48)]
        # A step is up to four moves. The robot arrives up to 0.08, which is about four moves, before the goal. It may
        # lose a part of a step where it turns, because it moves to centres of cells.
        assert least / 4 - 1.5 <= taken[i] <= 1.25 * least / 4 + 1


def test_rewards_are_progress_minus_time_plus_arrival() -> None:
    family, tasks = motion_planning.rooms(), maps(30)
    env = environment(family)
    steps = played(oracles.shortest_path(family, 2), tasks, 30)
    for i in range(30):
        trajectory = jax.tree.map(lambda x, i=i: x[i], steps)
        first = np.asarray(trajectory.valid & (trajectory.episode == 0))
        returned = float(np.asarray(trajectory.reward, np.float64)[first].sum())
        end = np.asarray(env.position(trajectory.final_obs))[first][-1]
        goal = np.asarray(tasks.goal[i])
        left = np.linalg.norm(end - goal)
        assert left <= ARRIVAL
        expected = np.linalg.norm(np.array(START) - goal) - left - first.sum() / 30 + 1
        assert returned == pytest.approx(expected, abs=1e-5)
        success = episode_successes(trajectory, family, one(tasks, i), 2)
        np.testing.assert_array_equal(success, [1, 1])


def test_training_rewards_are_progress_on_the_shortest_path() -> None:
    family, tasks = motion_planning.rooms(), maps(10)
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    reward = family.privileged.training_reward
    steps = played(oracles.shortest_path(family, 1), tasks, 10)
    rewards = np.asarray(jax.vmap(lambda task, t: reward(task, t, 1.0))(tasks, steps), np.float64)
    size = motion_planning.CELLS
    for i in range(10):
        moves = shortest_by_scipy(
            np.asarray(motion_planning.free_cells(tasks.boxes[i], size)),
            tuple(np.floor(np.asarray(tasks.goal[i]) * size).astype(int)),
        )
        number = int(jnp.sum(steps.valid[i]))
        end = np.asarray(environment(family).position(steps.final_obs[i, number - 1]))
        cell = np.floor(end * size).astype(int)
        left = moves[cell[0], cell[1]]
        if np.isfinite(left):
            begin = moves[int(START[0] * size), int(START[1] * size)]
            assert rewards[i, :number].sum() == pytest.approx((begin - left) / size - number / 30 + 1, abs=1e-4)
        # A robot on the shortest path never loses more than the width of a cell.
        assert rewards[i, :number].min() > -1.5 / size - 1 / 30


def test_the_path_of_a_robot_that_touches_a_wall_does_not_lead_through_it() -> None:
    tasks, cell = maps(20), 1 / motion_planning.CELLS
    y = np.linspace(0.02, 0.98, 49)

    def lengths(task: Map, distance: float) -> jax.Array:
        # Box 4 is the lower part of the first wall, whose upper part has the same left side.
        places = jnp.stack([jnp.full(len(y), task.boxes[4, 0] - distance), jnp.asarray(y, jnp.float32)], axis=1)
        return motion_planning._path_lengths(task, places)

    at_wall, before = (jax.jit(jax.vmap(lengths, (0, None)))(tasks, distance) for distance in (1e-4, cell))
    assert float(jnp.max(jnp.abs(at_wall - before))) < 2.5 * cell
    assert bool(jnp.all(before > 0))


def test_cells_of_the_goal_are_never_excluded_and_become_few() -> None:
    family, tasks = motion_planning.rooms(), maps(8)
    env = environment(family)
    steps = played(oracles.greedy(family, 1), tasks, 8)
    for i in range(8):
        possible = jnp.ones((oracles.COARSE, oracles.COARSE), bool)
        for t in range(int(jnp.sum(steps.valid[i]))):
            obs = steps.inputs.obs[i, t]
            seen = oracles._Seen(
                env.position(obs), env.distance(obs), env.free(obs), jnp.bool_(False), jnp.bool_(False)
            )
            possible = oracles._where_the_goal_may_be(possible, seen)
            cell = np.floor(np.asarray(tasks.goal[i]) * oracles.COARSE).astype(int)
            assert bool(possible[cell[0], cell[1]])
        assert int(jnp.sum(possible)) < 30


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 0),
        ("walls", 0),
        ("walls", 3),
        ("narrowest_door", 0.01),
        ("widest_door", 0.1),
        ("sensor_range", 0.0),
        ("shifted", "yes"),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        motion_planning.rooms(**{field: value})


def test_oracles_of_other_families_are_refused() -> None:
    for make in (oracles.shortest_path, oracles.greedy, oracles.optimistic):
        with pytest.raises(ValueError, match=r"environments\.motion_planning, not one of Bandit"):
            make(bandits.bernoulli(3), 4)
        with pytest.raises(ValueError, match="episodes"):
            make(motion_planning.rooms(), 0)


def test_a_map_is_drawn_with_the_path() -> None:
    family, task = motion_planning.rooms(), one(maps(1), 0)
    obs, _ = family.env.reset(jax.random.key(0), task)
    first = Frame(np.asarray(obs), (), None, 0, 0, 0.0, False)
    moved = np.asarray(obs).copy()
    moved[1] += 0.5
    second = Frame(moved, (), np.zeros(2), 0, 1, 0.0, False)
    env = environment(family)
    pictures = [env.draw(frames, task) for frames in ([first], [first, second])]
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() != pictures[1].tobytes()


@pytest.mark.slow
def test_planners_are_ordered_by_what_they_know() -> None:
    family = motion_planning.rooms()

    def score(oracle: Oracle) -> np.ndarray:
        tested = jax.jit(lambda key: meta_test(key, oracle.adapt, jnp.zeros(1), family.tasks, num_tasks=150))
        result = tested(jax.random.key(5))
        # Without an arrival, an episode gains at most the straight distance, which is below 1.2, and loses 1.
        score = np.asarray(result.score[0])
        assert result.success is not None
        assert np.all(np.asarray(result.success[0])[score > 0.5] == 1)
        return score.mean(axis=0)

    greedy, optimistic, known = (
        score(make(family, 3)) for make in (oracles.greedy, oracles.optimistic, oracles.shortest_path)
    )
    assert optimistic.sum() > greedy.sum() + 1
    assert known.sum() > optimistic.sum() + 0.5
    # The map is learned during the trial, and the greedy robot learns none.
    assert optimistic[2] > optimistic[0] + 0.2
    assert abs(greedy[2] - greedy[1]) < 0.3
