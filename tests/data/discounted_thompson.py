"""A learner of the frozen benchmark in NumPy alone: discounted Thompson sampling.

metarl-jax benchmark run discounted_thompson.py:DiscountedThompson --tier 1

It treats every observation as the state of a bandit of its own, keeps discounted sums of rewards, and draws the value
of each action from a normal distribution. Actions of a continuous space are drawn from a few random candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class DiscountedThompson:
    """Thompson sampling with a normal posterior for each observation and action, whose evidence is discounted.

    Args:
        seed: the seed of the learner, which the benchmark gives.
    """

    discount = 0.995
    noise = 0.5
    candidates = 9
    training_steps = 0

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def reset(self, interface: Any) -> None:
        """Forget the task."""
        self._random = np.random.default_rng([self._seed, interface.seed])
        space = interface.action_space
        if hasattr(space, "n"):
            self._actions: list[Any] = list(range(space.n))
        else:
            shape = (self.candidates, *space.shape)
            self._actions = list(self._random.uniform(space.low, space.high, shape).astype(np.float32))
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self._last: tuple[bytes, int] | None = None

    def act(self, observation: Any, reward: float, done: bool) -> Any:
        """Choose an action."""
        del done
        if self._last is not None:
            count, total = self._known[self._last[0]]
            count *= self.discount
            total *= self.discount
            count[self._last[1]] += 1
            total[self._last[1]] += float(reward)
        place = np.round(np.asarray(observation, np.float64), 1).tobytes()
        if place not in self._known:
            self._known[place] = np.zeros(len(self._actions)), np.zeros(len(self._actions))
        count, total = self._known[place]
        mean, spread = (total + 0.5) / (count + 1), self.noise / np.sqrt(count + 1)
        chosen = int(np.argmax(self._random.normal(mean, spread)))
        self._last = place, chosen
        return self._actions[chosen]
