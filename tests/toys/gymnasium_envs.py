"""Gymnasium environments for tests. Worker processes import this module, so it does not import JAX."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

FAULTS = ("", "raise", "hang", "nan", "nan reward", "shape", "exit", "raise in reset", "killed")


class Task(NamedTuple):
    """A line with a goal, or one that fails in its third step."""

    goal: Any
    fault: Any
    """An index of ``FAULTS``."""


class Line(gymnasium.Env[np.ndarray, np.int64]):
    """A walk on a line from a random start. It terminates at the goal, and is truncated after 5 steps if that is 3."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, task: Task, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.set_task(task)

    def set_task(self, task: Task) -> None:
        self.goal, self.fault = float(task.goal), FAULTS[int(task.fault)]

    def _seen(self) -> np.ndarray:
        return np.array([self.position, self.time], np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault == "raise in reset":
            raise OSError("the simulator is off")
        self.position, self.time = float(self.np_random.integers(-2, 3)), 0
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        self.position += 2 * int(action) - 1
        seen, reward = self._seen(), -abs(self.position - self.goal)
        if self.time == 3:
            match self.fault:
                case "raise":
                    raise KeyError("a wheel\nfell off")
                case "hang":
                    time.sleep(3600)
                case "nan":
                    seen[1] = np.nan
                case "nan reward":
                    reward = np.nan
                case "shape":
                    seen = seen[:1]
                case "exit":
                    os._exit(7)
                case "killed":
                    os.kill(os.getpid(), 9)
        return seen, reward, self.position == self.goal, self.goal == self.time - 2 == 3, {}

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        frame = np.zeros((20, 30, 3), np.uint8)
        frame[:, :, 0], frame[:, :, 1] = self.time, int(self.position) + 100
        return frame


def line(task: Task) -> Line:
    return Line(task)


def drawn_line(task: Task) -> Line:
    return Line(task, "rgb_array")


def set_task(env: Line, task: Task) -> None:
    env.set_task(task)


class Spaces(gymnasium.Env[Any, Any]):
    """An environment of given spaces that returns its action's effect as reward."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action
        self.got: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.got.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}
