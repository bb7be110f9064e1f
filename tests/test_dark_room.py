"""Dark rooms: the rewards, the held-out goals, and the optimal return of a known goal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import dark_room
from metarl_jax.types import EnvFamily

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def play(family: EnvFamily, goals: list[tuple[int, int]], actions: list[int]) -> tuple[list[int], list[float]]:
    """Return the cells and the rewards of a sequence of actions."""
    task = dark_room.RoomParams(jnp.array(goals), family.horizon)
    _, state = family.env.reset(jax.random.key(0), task)
    cells, rewards = [], []
    for action in actions:
        obs, state, reward, *_ = family.env.step(jax.random.key(0), state, jnp.int32(action), task)
        column, row = np.asarray(obs).reshape(2, -1)
        assert column.sum() == row.sum() == 1
        cells.append(int(column.argmax() * len(row) + row.argmax()))
        rewards.append(float(reward))
    return cells, rewards


def test_walls_stop_the_agent_and_every_step_on_the_goal_is_rewarded() -> None:
    family = dark_room.decision_pretrained()
    cells, rewards = play(family, [(1, 1)], [LEFT, DOWN, UP, RIGHT, STAY, UP, DOWN])
    assert cells == [0, 0, 1, 11, 11, 12, 11]
    assert rewards == [0, 0, 0, 1, 1, 0, 1]
    at_once = play(family, [(0, 0)], [STAY, LEFT, RIGHT])
    assert at_once == ([0, 0, 10], [1, 1, 0])


def test_the_door_pays_once_and_only_with_the_key() -> None:
    family = dark_room.key_to_door()
    key, door = (4, 5), (5, 4)
    _, rewards = play(family, [key, door], [RIGHT, LEFT, UP, STAY, RIGHT, DOWN, STAY, LEFT, UP])
    assert rewards == [0, 0, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("family", "tasks"),
    [(dark_room.decision_pretrained(), 100), (dark_room.algorithm_distillation(), 81), (dark_room.key_to_door(3), 72)],
)
def test_a_fifth_of_the_goals_is_held_out(family: EnvFamily, tasks: int) -> None:
    train, heldout = (
        {str(goals) for goals in np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 4000)).goals).tolist()}
        for sample in (family.tasks.sample, family.tasks.sample_heldout)
    )
    assert (len(train), len(heldout)) == (round(0.8 * tasks), tasks - round(0.8 * tasks))
    assert not train & heldout


def test_without_held_out_goals_all_goals_are_met() -> None:
    family = dark_room.key_to_door(3, heldout_share=0.0)
    for sample in (family.tasks.sample, family.tasks.sample_heldout):
        goals = np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 2000)).goals)
        assert len({str(pair) for pair in goals.tolist()}) == 72
    with pytest.raises(ValueError, match="heldout_share"):
        dark_room.decision_pretrained(1.0)


def best_return(family: EnvFamily, task: dark_room.RoomParams) -> float:
    """Compute the optimum by dynamic programming over cells and reached goals, with the environment's own steps."""
    env, goals = family.env, task.goals.shape[0]
    assert isinstance(env, dark_room.DarkRoom)
    cells = np.stack(np.meshgrid(*[np.arange(env.size)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)

    @jax.jit
    def outcomes(position: jax.Array, reached: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def one(position: jax.Array, reached: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            state = dark_room.RoomState(position, reached, jnp.int32(0))
            _, after, reward, *_ = env.step_env(jax.random.key(0), state, action, task)
            return after.position[0] * env.size + after.position[1], after.reached, reward

        over_actions = jax.vmap(one, in_axes=(None, None, 0))
        over_reached = jax.vmap(over_actions, in_axes=(None, 0, None))
        return jax.vmap(over_reached, in_axes=(0, None, None))(position, reached, jnp.arange(5))

    cell, reached, reward = (np.asarray(x) for x in outcomes(jnp.asarray(cells), jnp.arange(goals + 1)))
    value = np.zeros((len(cells), goals + 1))
    for _ in range(family.horizon):
        value = (reward + value[cell, reached]).max(axis=-1)
    return float(value[env.start[0] * env.size + env.start[1], 0])


@pytest.mark.parametrize(
    "family",
    [
        dark_room.decision_pretrained(),
        dark_room.algorithm_distillation(),
        dark_room.key_to_door(),
        dark_room.key_to_door(5, horizon=6),
    ],
)
def test_the_optimal_return_is_that_of_dynamic_programming(family: EnvFamily) -> None:
    assert family.optimal_return is not None
    tasks = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(1), 12))
    for i in range(12):
        task = jax.tree.map(lambda x, i=i: x[i], tasks)
        assert float(family.optimal_return(task)) == best_return(family, task)


@pytest.mark.parametrize(
    ("family", "mean"), [(dark_room.decision_pretrained(), 91.99), (dark_room.algorithm_distillation(), 16.54)]
)
def test_the_optimal_return_has_the_expected_mean(family: EnvFamily, mean: float) -> None:
    """The optimal return has the expected mean over all goals, training and held-out goals (PAPERS, 11)."""
    assert family.optimal_return is not None
    seen = {}
    for sample in (family.tasks.sample, family.tasks.sample_heldout):
        tasks = jax.vmap(sample)(jax.random.split(jax.random.key(0), 4000))
        returns = np.asarray(jax.vmap(family.optimal_return)(tasks))
        seen |= {
            tuple(goal): value for goal, value in zip(np.asarray(tasks.goals)[:, 0].tolist(), returns, strict=True)
        }
    assert np.mean(list(seen.values())) == pytest.approx(mean, abs=0.005)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="size must be at least 2, not 1"):
        dark_room.key_to_door(1)
    with pytest.raises(ValueError, match="horizon must be a positive whole number, not 0"):
        dark_room.key_to_door(3, 0)
