"""T-mazes: observations, the reward of the turn, and the noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import t_maze


@pytest.mark.parametrize("way", [0, 1])
def test_the_cue_is_shown_at_the_start_and_the_turn_ends_the_episode(way: int) -> None:
    family = t_maze.make(5, 2)
    task = t_maze.MazeParams(jnp.int32(way), family.horizon)
    step = jax.jit(family.env.step)
    for turn in (0, 1):
        obs, state = family.env.reset(jax.random.key(0), task)
        shown, noise = [np.asarray(obs)[:3]], [np.asarray(obs)[3:]]
        for t in range(5):
            # Before the junction, both actions lead forward.
            action = jnp.int32(turn if t == 4 else t % 2)
            obs, state, reward, terminated, truncated, _ = step(jax.random.key(t), state, action, task)
            shown.append(np.asarray(obs)[:3])
            noise.append(np.asarray(obs)[3:])
            assert bool(terminated) == bool(truncated) == (t == 4)
            assert float(reward) == (t == 4 and turn == way)
        cue = 2 * way - 1
        # The last observation is the first one of the next episode.
        expected = [[1, cue, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [1, cue, 0]]
        np.testing.assert_array_equal(shown, expected)
        assert {abs(x) for x in np.ravel(noise)} == {1.0}
        assert len({tuple(x) for x in noise}) > 1


def test_mazes_that_have_no_corridor_are_refused() -> None:
    with pytest.raises(ValueError, match="length must be a whole number above 1, not 1"):
        t_maze.make(1)
    with pytest.raises(ValueError, match="noise_features must be a whole number"):
        t_maze.make(5, -1)
