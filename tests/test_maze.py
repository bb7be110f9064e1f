"""Mazes: frames against a slow march along every ray, collisions with walls, and the duration of random actions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits, maze
from metarl_jax.oracles import maze as oracles
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, Inputs, Key

SIZES = {"tiny": maze.TINY, "small": maze.SMALL, "large": maze.LARGE}


def between(walls: np.ndarray, axis: int, line: int, along: int) -> bool:
    """Return whether there is a wall on a line of constant x (axis 0) or y, at the cell ``along`` it."""
    return bool(walls[axis, line] >> along & 1)


def is_wall(walls: np.ndarray, cell: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether there is a wall between neighbouring cells."""
    axis = 0 if cell[0] != other[0] else 1
    return between(walls, axis, max(cell[axis], other[axis]), cell[1 - axis])


def march(walls: np.ndarray, position: np.ndarray, direction: np.ndarray, step: float = 1e-4) -> float:
    """Return the distance to the first wall, in lengths of the direction."""
    far = step * np.arange(1, int(2 * walls.shape[1] / step))
    cells = np.floor(position + far[:, None] * direction).astype(int)
    for i in np.flatnonzero(np.any(np.diff(cells, axis=0) != 0, axis=-1)):
        before, after = cells[i], cells[i + 1]
        for axis in (0, 1):
            other = before.copy()
            other[axis] = after[axis]
            if other[axis] != before[axis] and is_wall(walls, tuple(before), tuple(other)):
                return far[i + 1]
    raise AssertionError("mazes have outer walls")


@pytest.fixture(scope="module", params=sorted(SIZES))
def layouts(request: pytest.FixtureRequest) -> np.ndarray:
    """Return the walls of 100 mazes, ``[100, 2, n + 1]``."""
    keys = jax.random.split(jax.random.key(3), 100)
    return np.asarray(jax.jit(jax.vmap(lambda key: maze.layout(key, SIZES[request.param])))(keys))


def test_every_cell_can_be_reached(layouts: np.ndarray) -> None:
    size, extra = layouts.shape[-1] - 1, 0
    assert np.all(layouts[:, :, [0, -1]] == 2**size - 1)
    for walls in layouts:
        reached, todo, open_sides = {(0, 0)}, [(0, 0)], 0
        while todo:
            x, y = todo.pop()
            for other in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if not is_wall(walls, (x, y), other):
                    open_sides += 1
                    if other not in reached:
                        reached.add(other)
                        todo.append(other)
        assert len(reached) == size**2
        extra += open_sides // 2 - (size**2 - 1)
    # In addition to the spanning tree, a share of the (n - 1)^2 other walls is open, within four standard errors.
    trials = len(layouts) * (size - 1) ** 2
    assert abs(extra / trials - maze.LOOPS) < 4 * math.sqrt(maze.LOOPS * (1 - maze.LOOPS) / trials)


def test_held_out_mazes_differ_from_the_thousand_training_mazes() -> None:
    family = maze.small()
    keys = jax.random.split(jax.random.key(0), 5000)
    trained, held_out = (
        {walls.tobytes() for walls in np.asarray(jax.jit(jax.vmap(lambda key, of=sample: of(key).walls))(keys))}
        for sample in (family.tasks.sample, family.tasks.sample_heldout)
    )
    # With 5000 draws, each of 1000 mazes is missed with a probability of 0.7 %: the expected number drawn is 993.3.
    assert 980 < len(trained) <= maze.TRAINING_MAZES
    assert len(held_out) > 4990
    assert not trained & held_out


def test_start_and_target_lie_in_the_middle_of_different_cells() -> None:
    @jax.jit
    @jax.vmap
    def sample(key: Key) -> tuple[Array, Array, Array]:
        task = maze.small().tasks.sample(key)
        return task.start, task.target, task.heading

    start, target, heading = map(np.asarray, sample(jax.random.split(jax.random.key(1), 500)))
    for place in (start, target):
        assert set(np.unique(place).tolist()) == {0.5, 1.5, 2.5, 3.5, 4.5}
    assert np.all(np.any(start != target, axis=-1))
    assert set(np.unique(heading).tolist()) == set(range(maze.HEADINGS))


def test_rays_end_where_a_march_along_them_does(layouts: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    size = layouts.shape[-1] - 1
    for walls in layouts[:4]:
        position = rng.uniform(0, size, 2)
        directions = rng.normal(size=(6, 2))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        got = jnp.min(maze.distances(jnp.asarray(walls), jnp.asarray(position), jnp.asarray(directions)), axis=-1)
        expected = [march(walls, position, direction) for direction in directions]
        np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("heading", [0, 3, 6, 9])
def test_rays_along_lines_are_no_exception(heading: int) -> None:
    """A ray along an axis has the right length, even on the line between two cells."""
    walls = jnp.array([[3, 0, 3], [3, 0, 3]], jnp.int32)  # 2 by 2, all open
    rays = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[heading // 3][None]
    far = maze.distances(walls, jnp.array([1.0, 0.75]), rays)[0]
    expected = {0: (1.0, math.inf), 3: (math.inf, 1.25), 6: (1.0, math.inf), 9: (math.inf, 0.75)}[heading]
    np.testing.assert_allclose(far, expected)


CORRIDOR = np.array([[7, 0, 0, 7], [7, 7, 7, 7]], np.int32)
"""A maze of 3 by 3 cells with three parallel corridors from west to east."""


def looking_east(target: tuple[float, float]) -> np.ndarray:
    position, heading = jnp.array([0.5, 1.5]), jnp.int32(0)
    return np.asarray(maze.render(jnp.asarray(CORRIDOR), jnp.array(target), position, heading))


def test_the_view_of_a_corridor() -> None:
    seen = looking_east((0.5, 0.5))
    assert (seen.shape, seen.dtype) == ((30, 40, 3), np.uint8)
    # The end of the corridor is at a distance of 2.5 and one cell wide and high: 20 / 2.5 = 8 pixels.
    assert np.all(seen[11:19, 16:24] == seen[15, 16:24])
    sky, ground = seen[0, 19], seen[-1, 19]
    np.testing.assert_array_equal(seen[:11, 16:24], np.broadcast_to(sky, (11, 8, 3)))
    np.testing.assert_array_equal(seen[19:, 16:24], np.broadcast_to(ground, (11, 8, 3)))
    # The end is bluer than the walls along the corridor. The right wall, in the south, is less green than the left.
    assert seen[15, 20, 2] > seen[15, 4, 2]
    assert seen[15, 4, 1] > seen[15, 35, 1]
    np.testing.assert_array_equal(seen[15, 4, ::2], seen[15, 35, ::2])


def test_the_target_is_visible_unless_a_wall_hides_it() -> None:
    white = np.all(looking_east((2.5, 1.5)) == 255, axis=-1)
    # At a distance of 2, the target is 10 pixels high and 2 * 0.15 * 20 / 2 = 3 pixels wide. Since its middle is
    # between two columns, it has 2 or 4 columns.
    assert np.all(white[10:20, 19:21])
    assert white.sum() in (20, 40)
    for hidden in ((2.5, 0.5), (2.5, 2.5)):
        assert not np.any(np.all(looking_east(hidden) == 255, axis=-1))
    behind = maze.render(jnp.asarray(CORRIDOR), jnp.array([0.5, 1.5]), jnp.array([1.5, 1.5]), jnp.int32(0))
    assert not np.any(np.all(np.asarray(behind) == 255, axis=-1))


def test_turning_left_moves_the_view_to_the_right() -> None:
    target, position = jnp.array([2.5, 1.5]), jnp.array([0.5, 1.5])
    turned = maze.render(jnp.asarray(CORRIDOR), target, position, jnp.int32(1))
    columns = np.flatnonzero(np.any(np.all(np.asarray(turned) == 255, axis=-1), axis=0))
    # A turn of 30 degrees moves the target to tan(30) * 20 pixels from the middle.
    assert abs(columns.mean() + 0.5 - (20 + 20 * math.tan(math.pi / 6))) <= 1


def test_walls_are_never_passed_and_collisions_are_penalised() -> None:
    steps, family = 3000, maze.small()

    @jax.jit
    def walk(key: Key) -> tuple[Any, ...]:
        """Return a task, and a random walk in it that continues after the target is reached."""
        key_task, key_actions = jax.random.split(key)
        task = family.tasks.sample(key_task)
        actions = jax.random.categorical(key_actions, jnp.log(jnp.array([0.6, 0.2, 0.2])), shape=(steps,))
        _, start = family.env.reset(key_task, task)

        def step(state: Any, action: Array) -> tuple[Any, Any]:
            _, after, reward, terminated, _ = family.env.step_env(key_task, state, action, task)  # pyright: ignore
            return after, (state.position, after.position, after.heading, reward, terminated)

        return task.walls, task.target, actions, *jax.lax.scan(step, start, actions)[1]

    for seed in range(3):
        walls, target, actions, starts, ends, headings, rewards, arrived = map(np.asarray, walk(jax.random.key(seed)))
        cells, next_cells = (np.floor(x).astype(int) for x in (starts, ends))
        for before, after in zip(cells, next_cells, strict=True):
            # A move goes first along x and then along y, by at most one cell.
            corner = (after[0], before[1])
            assert abs(after - before).max() <= 1
            assert after[0] == before[0] or not is_wall(walls, tuple(before), corner)
            assert after[1] == before[1] or not is_wall(walls, corner, tuple(after))
        for position, cell in zip(ends, next_cells, strict=True):
            for axis in (0, 1):
                for side in (0, 1):
                    if between(walls, axis, cell[axis] + side, cell[1 - axis]):
                        assert abs(position[axis] - (cell[axis] + side)) > maze.CLEARANCE - 1e-5
        np.testing.assert_array_equal(arrived, np.linalg.norm(ends - target, axis=-1) < maze.REACH)
        hit = np.round((arrived - 0.01 - rewards) / 0.001).astype(int)
        np.testing.assert_allclose(rewards, arrived - 0.01 - 0.001 * hit, atol=1e-6)
        assert set(hit.tolist()) == {0, 1}
        turned = actions != maze.FORWARD
        assert not np.any(hit[turned])
        np.testing.assert_array_equal(starts[turned], ends[turned])
        # A step to a place without near walls is not stopped. A step to a wall of the same cell is stopped by it.
        angle = 2 * np.pi * headings / maze.HEADINGS
        wanted = starts + maze.STRIDE * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        inside = np.all(np.abs(wanted - cells - 0.5) < 0.5 - maze.CLEARANCE, axis=-1) & ~turned
        np.testing.assert_allclose(ends[inside], wanted[inside], atol=1e-5)
        assert np.any(inside)
        assert not np.any(hit[inside])
        low, high = ([between(walls, 0, cell[0] + side, cell[1]) for cell in cells] for side in (0, 1))
        into = np.where(low, wanted[:, 0] < cells[:, 0] + maze.CLEARANCE - 1e-3, False)
        into |= np.where(high, wanted[:, 0] > cells[:, 0] + 1 - maze.CLEARANCE + 1e-3, False)
        assert np.any(into & ~turned)
        assert np.all(hit[into & ~turned])


def test_straight_into_a_wall() -> None:
    walls = jnp.asarray(CORRIDOR)
    position, hit = maze.move(walls, jnp.array([2.5, 1.5]), jnp.array([0.6, 0.0]))
    np.testing.assert_allclose(position, [3 - maze.CLEARANCE, 1.5], rtol=1e-6)
    assert bool(hit)
    # A diagonal move slides along the wall.
    position, hit = maze.move(walls, jnp.array([0.5, 1.5]), jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(position, [1.0, 2 - maze.CLEARANCE], rtol=1e-6)
    assert bool(hit)
    position, hit = maze.move(walls, jnp.array([0.5, 1.5]), jnp.array([0.6, 0.1]))
    np.testing.assert_allclose(position, [1.1, 1.6], rtol=1e-6)
    assert not bool(hit)


def test_acting_at_random_takes_as_long_as_published() -> None:
    """The published number is 188.6 steps, +-3.5, in both episodes. The mean here has a standard error of 1.3."""
    family = maze.small()

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, maze.ACTIONS), ()

    @jax.jit
    @jax.vmap
    def steps(key: Key) -> Array:
        key_task, key_trial = jax.random.split(key)
        task = family.tasks.sample_heldout(key_task)
        _, transitions = trial(key_trial, act, (), family, task, 2)
        return jax.ops.segment_sum(transitions.valid.astype(jnp.float32), transitions.episode, num_segments=2)

    taken = np.asarray(steps(jax.random.split(jax.random.key(0), 3000)))
    # The tolerance is twice the published error: once for the published mean, and once for ours.
    assert np.all(np.abs(taken.mean(axis=0) - 188.6) < 7)


def test_the_first_frame_is_that_of_the_start() -> None:
    task = jax.jit(maze.small().tasks.sample)(jax.random.key(4))
    seen = jax.jit(maze.render)(task.walls, task.target, task.start, task.heading)
    np.testing.assert_array_equal(task.first_view, seen)


def test_the_guide_knows_how_far_it_is(layouts: np.ndarray) -> None:
    size, target = layouts.shape[-1] - 1, (2, 1)
    got = jax.jit(jax.vmap(lambda walls: oracles.cells_to_target(walls, jnp.array(target) + 0.5)))(layouts[:5])
    for walls, distances in zip(layouts[:5], np.asarray(got), strict=True):
        expected, border = {target: 0}, [target]
        while border:
            x, y = border.pop(0)
            for other in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if other not in expected and not is_wall(walls, (x, y), other):
                    expected[other] = expected[x, y] + 1
                    border.append(other)
        np.testing.assert_array_equal(distances, [[expected[x, y] for y in range(size)] for x in range(size)])


def test_the_guide_finds_every_target() -> None:
    """Scores of both episodes are equal, and not higher than those of a straight path through all walls."""
    family = maze.small()
    guide = oracles.guide(family, 2)

    @jax.jit
    @jax.vmap
    def one(key: Key) -> tuple[Array, Array]:
        task = family.tasks.sample_heldout(key)
        return guide.adapt(key, (), task).score, jnp.linalg.norm(task.target - task.start)

    score, distance = map(np.asarray, one(jax.random.split(jax.random.key(0), 200)))
    np.testing.assert_array_equal(score[:, 0], score[:, 1])
    # An arrival after fewer than a hundred steps has a positive return.
    assert np.all(score > 0)
    fewest = np.ceil((distance - maze.REACH) / maze.STRIDE)
    assert np.all(score[:, 0] <= 1 - 0.01 * fewest + 1e-6)


def test_oracles_are_of_mazes() -> None:
    with pytest.raises(ValueError, match=r"environments\.maze, not one of Bandit"):
        oracles.random(bandits.bernoulli(2), 2)


@pytest.mark.parametrize("make", [maze.tiny, maze.small, maze.large])
@pytest.mark.parametrize("horizon", [0, 2.5])
def test_horizons_are_positive_whole_numbers(make: Any, horizon: Any) -> None:
    with pytest.raises(ValueError, match="horizon must be a positive whole number"):
        make(horizon)
