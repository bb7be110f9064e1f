"""A learner of the frozen benchmark in PyTorch: a small GRU policy, which acts on all tasks at the same time.

metarl-jax benchmark run torch_learner.py:GRUPolicy --tier 1 --families bandit

Its weights are random: the file shows how a policy in PyTorch enters. ``train`` would be the place to learn them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


class GRUPolicy:
    """A GRU over observations, previous actions, rewards and ends of episodes, for discrete actions.

    Args:
        seed: the seed of the weights and of the actions.
    """

    batched = True
    training_steps = 0

    def __init__(self, seed: int) -> None:
        self._seed, self._network = seed, None

    def reset(self, interface: Any) -> None:
        """Forget the tasks."""
        self._random = torch.Generator().manual_seed(interface.seed)
        self._actions, self._tasks = interface.action_space.n, interface.tasks
        self._memory = torch.zeros(self._tasks, 32)
        self._previous = torch.zeros(self._tasks, self._actions)

    def act(self, observation: Any, reward: Any, done: Any) -> np.ndarray:
        """Choose the actions ``[N]`` of all tasks."""
        seen = torch.as_tensor(np.array(observation, np.float32)).reshape(self._tasks, -1)
        more = torch.as_tensor(np.stack([reward, done], axis=1).astype(np.float32))
        inputs = torch.cat([seen, self._previous, more], dim=1)
        if self._network is None:
            torch.manual_seed(self._seed)
            self._network = torch.nn.GRUCell(inputs.shape[1], 32), torch.nn.Linear(32, self._actions)
        cell, head = self._network
        with torch.no_grad():
            self._memory = cell(inputs, self._memory)
            chances = torch.softmax(head(self._memory), dim=1)
        action = torch.multinomial(chances, 1, generator=self._random)[:, 0]
        self._previous = torch.nn.functional.one_hot(action, self._actions).float()
        return action.numpy()
