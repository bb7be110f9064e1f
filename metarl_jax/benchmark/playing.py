"""Play the tasks of the benchmark with a learner of any origin, which acts in NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl_jax import rollout
from metarl_jax.agents import numbers
from metarl_jax.runs.errors import UserError
from metarl_jax.types import Array, Discrete, EnvFamily, HostEnvironment, Key, Space, State, Task

STEPS_SEED = 7
"""The seed of the random numbers of environments."""
MOST_TASKS = 1_000_000
"""The number of seeds for the trials of a seed of the benchmark."""


class Interface(NamedTuple):
    """The information that a learner gets at the start of a trial."""

    family: str
    """The name of the family of tasks."""
    observation_space: Space
    """``Discrete(n)``, or ``Box(low, high, shape)``."""
    action_space: Space
    """``Discrete(n)``, or ``Box(low, high, shape)``."""
    horizon: int
    """The largest number of steps of an episode."""
    episodes: int
    """The number of episodes of the trial, all of which are scored."""
    tasks: int | None
    """The number N of tasks that are played at the same time; None for one task, without an axis of tasks."""
    seed: int
    """A seed for the learner's own random numbers. It differs for each seed of the benchmark, and for each task unless
    the learner is batched. It is the same for all families, and for held-out and shifted tasks."""


@runtime_checkable
class Learner(Protocol):
    """A learner that enters the benchmark. It adapts while it acts, and keeps what it knows until ``reset``.

    The command ``metarl-jax benchmark run`` takes a class or a function that makes a learner from a seed, or a learner.
    It copies the latter for each family and seed by ``copy.deepcopy``, so that none shares what another one learned.

    Optional attributes:

    - ``batched = True``: the learner plays N tasks at the same time. Then ``Interface.tasks`` is N, the arguments of
      ``act`` are arrays ``[N, ...]``, and so is its result. Tasks whose trial is over go on until all are over; nothing
      is counted there.
    - ``final_observation = True``: ``act`` also gets ``final_observation=...``, the observation after the previous
      action, before any reset.
    - ``train(family, steps)``: trains the learner before the first trial. The family is an ``EnvFamily`` whose held-out
      tasks are training tasks, and ``steps`` is the budget of environment steps.
    - ``training_steps``: the number of environment steps with which the learner was trained, for each seed.
    """

    def reset(self, interface: Interface) -> None:
        """Forget the task: the next action is the first one on a new task."""
        ...

    def act(self, observation: Any, reward: Any, done: Any) -> Any:
        """Choose an action.

        Args:
            observation: the observation. If ``done`` is true, it is the first one of the next episode.
            reward: the reward of the previous action, float32; 0 at the first step of a trial.
            done: whether the previous action ended an episode, not necessarily the trial.

        Returns:
            A whole number from 0 to n - 1, or an array of the shape of the action space.
        """
        ...


class Played(NamedTuple):
    """The outcome of one trial on each of N tasks."""

    returns: NDArray[np.float64]
    """``[N, E]``: the return of each episode."""
    success: NDArray[np.bool_] | None
    """``[N, E]``: whether each episode had a step that is a success. None: the tasks do not define success."""
    steps: int
    """The number of environment steps of all trials."""


class Player:
    """Plays the tasks of a family with learners. The environment is compiled once for each number of tasks.

    The random numbers of the environment depend on the seed, the task and the step alone, so that a learner that takes
    the same actions has the same returns, whether it is batched or not.

    Args:
        name: the name of the family, for the learner and for messages.
        family: the family of tasks.
        episodes: the number E of episodes of a trial.
    """

    def __init__(self, name: str, family: EnvFamily, episodes: int) -> None:
        self._name, self._family, self._episodes = name, family, episodes

        def begin(key: Key, task: Task) -> tuple[Array, State]:
            return rollout.begin(jax.random.fold_in(key, 0), family, task)

        def advance(key: Key, count: Array, task: Task, obs: Array, state: State, action: Array) -> rollout.Stepped:
            return rollout.advance(jax.random.fold_in(key, count), family, task, obs, state, action)

        self._begin = jax.jit(jax.vmap(begin))
        self._advance = jax.jit(jax.vmap(advance, (0, None, 0, 0, 0, 0)))
        env = family.env
        self._release = jax.jit(jax.vmap(env.release)) if isinstance(env, HostEnvironment) else None

    def play(self, learner: Learner, tasks: Task, seed: int, indices: ArrayLike | None = None) -> Played:
        """Play a trial on each task. The memory of the learner is reset at the start of a trial only.

        Args:
            learner: the learner.
            tasks: the tasks, with leaves ``[N, ...]``.
            seed: the seed of the environment, and of the learner's random numbers.
            indices: the index of each task among the tasks of the benchmark, ``[N]``, which selects its random numbers;
                None: the tasks are the first N ones.

        Raises:
            UserError: if an action is not one of the action space.
        """
        number = len(jax.tree.leaves(tasks)[0])
        stream = jax.random.fold_in(jax.random.key(STEPS_SEED, impl="threefry2x32"), seed)
        places = np.arange(number) if indices is None else np.asarray(indices)
        keys = jax.vmap(lambda index: jax.random.fold_in(stream, index))(jnp.asarray(places))
        spaces, first = (self._family.observation_space, self._family.action_space), seed * MOST_TASKS
        interface = Interface(self._name, *spaces, self._family.horizon, self._episodes, number, first)
        if getattr(learner, "batched", False):
            learner.reset(interface)
            return self._play(learner, keys, tasks, one=False)
        # A slice of an array on the host needs no program.
        on_host, parts = jax.tree.map(np.asarray, tasks), list[Played]()
        for index in range(number):
            learner.reset(interface._replace(tasks=None, seed=first + int(places[index])))
            rows = slice(index, index + 1)
            task = jax.device_put(jax.tree.map(lambda x, r=rows: x[r], on_host))
            parts.append(self._play(learner, keys[rows], task, one=True))
        successes = [part.success for part in parts if part.success is not None]
        return Played(
            np.concatenate([part.returns for part in parts]),
            np.concatenate(successes) if successes else None,
            sum(part.steps for part in parts),
        )

    def _play(self, learner: Learner, keys: Key, tasks: Task, *, one: bool) -> Played:
        """Play the trials of a batch of tasks in lockstep; ``one``: the learner sees no axis of tasks."""
        number, episodes, family = keys.shape[0], self._episodes, self._family
        wants_final = bool(getattr(learner, "final_observation", False))
        obs, state = self._begin(keys, tasks)
        returns, success = np.zeros((number, episodes)), np.zeros((number, episodes), np.bool_)
        reward, done = np.zeros(number, np.float32), np.zeros(number, np.bool_)
        final, episode, rows, steps = np.asarray(obs), np.zeros(number, np.int64), np.arange(number), 0
        for count in range(1, episodes * family.horizon + 1):
            seen = (np.asarray(obs), reward, done)
            more = {"final_observation": final[0] if one else final} if wants_final else {}
            chosen = learner.act(*(x[0] for x in seen), **more) if one else learner.act(*seen, **more)
            action = _action(self._name, family.action_space, chosen, number, one=one)
            stepped = self._advance(keys, np.int32(count), tasks, obs, state, action)
            obs, state = stepped.obs, stepped.state
            reward, done = np.asarray(stepped.reward), np.asarray(stepped.done)
            if wants_final:
                final = np.asarray(stepped.final_obs)
            counted = episode < episodes
            where = rows[counted], episode[counted]
            returns[where] += reward[counted]
            if family.success is not None:
                success[where] |= np.asarray(stepped.success)[counted]
            steps += int(counted.sum())
            episode = episode + done
            if np.all(episode >= episodes):
                break
        if self._release is not None:
            self._release(state)
        return Played(returns, success if family.success is not None else None, steps)


def _action(name: str, space: Space, chosen: Any, number: int, *, one: bool) -> NDArray[Any]:
    """Return the actions ``[N, ...]`` of a learner.

    Raises:
        UserError: if they are not actions of the family.
    """
    shape = () if isinstance(space, Discrete) else space.shape
    expected = shape if one else (number, *shape)
    try:
        array = numbers("action", chosen, np.int32 if isinstance(space, Discrete) else np.float32)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if array.shape != expected:
        raise UserError(f"{name}: action must have shape {list(expected)}, not {list(array.shape)}")
    if isinstance(space, Discrete):
        if (array < 0).any() or (array >= space.n).any():
            raise UserError(f"{name}: action must be from 0 to {space.n - 1}, not {chosen!r}")
    elif not np.isfinite(array).all():
        raise UserError(f"{name}: action must be finite, not {chosen!r}")
    return array.reshape(number, *shape)
