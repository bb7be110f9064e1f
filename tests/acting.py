"""Agents in a plain loop over held-out tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.agents import Agent
from metarl_jax.types import EnvFamily


class Tasks:
    """N tasks of a family as an environment in the style of Gymnasium, with NumPy arrays, that resets itself."""

    def __init__(self, family: EnvFamily, key: Any, number: int) -> None:
        key_tasks, self._key = jax.random.split(key)
        self.number = number
        self.tasks = jax.vmap(family.tasks.sample_heldout)(jax.random.split(key_tasks, number))
        self._reset = jax.jit(jax.vmap(family.env.reset))
        self._step = jax.jit(jax.vmap(family.env.step))

    def _keys(self) -> Any:
        self._key, key = jax.random.split(self._key)
        return jax.random.split(key, self.number)

    def reset(self) -> np.ndarray:
        obs, self._state = self._reset(self._keys(), self.tasks)
        return np.asarray(obs)

    def step(self, action: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        obs, self._state, reward, terminated, truncated, info = self._step(
            self._keys(), self._state, jnp.asarray(action), self.tasks
        )
        done = np.logical_or(terminated, truncated)
        return np.asarray(obs), np.asarray(reward), done, np.asarray(info["final_observation"])


def play(agent: Agent, env: Tasks, episodes: int, seed: int = 0) -> np.ndarray:
    """Return the return of each episode on each task, ``[N, E]``."""
    agent.reset(seed, batch=env.number)
    returns, episode = np.zeros((env.number, episodes + 1)), np.zeros(env.number, int)
    obs, reward, done, final = env.reset(), None, None, None
    while np.any(episode < episodes):
        action = agent.act(obs, reward, done, final_observation=final)
        obs, reward, done, final = env.step(action)
        # Tasks that have finished continue, but their rewards do not count.
        returns[np.arange(env.number), episode] += reward
        episode = np.minimum(episode + done, episodes)
    return returns[:, :episodes]
