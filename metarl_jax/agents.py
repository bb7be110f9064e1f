"""Trained learners that act in any Python loop: NumPy in, NumPy out, one step at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl_jax.checks import LAST_SEED, positive_int, whole
from metarl_jax.family_checks import check_shapes
from metarl_jax.rollout import no_action
from metarl_jax.types import (
    Acting,
    Algorithm,
    Array,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    Inputs,
    Key,
    Params,
    RunState,
    Space,
    State,
    Transition,
    Tree,
)

Action: TypeAlias = int | NDArray[Any]
"""An ``int`` of a discrete action space; else an array of its shape. An array with a leading axis for a batch."""


class Episode(NamedTuple):
    """A whole episode that an agent has played; N steps."""

    observations: NDArray[Any]
    """``[N, ...]``: the observation before each action."""
    actions: NDArray[Any]
    """``[N, ...]``."""
    rewards: NDArray[np.float32]
    """``[N]``."""
    records: Tree
    """``[N, ...]``: what the learner needs to know of each step in order to adapt from it."""


class Agent:
    """A trained learner on one task, or on a batch of tasks at the same time.

    An agent remembers what it has seen of its task until ``reset``. Learners with a memory or a belief adapt while they
    act. Learners that adapt by gradient descent do so when ``adapt`` is called. The loop is that of Gymnasium::

        agent.reset(seed=0)
        for _ in range(episodes):
            observation, _ = env.reset()
            done = False
            while not done:
                action = agent.act(observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
                agent.observe(reward, done)

    In an environment that resets itself, ``agent.act(observation, reward, done)`` does both.
    """

    def __init__(
        self, algorithm: Algorithm, state: State, family: EnvFamily, *, origin: Mapping[str, Any] | None = None
    ) -> None:
        """Make an agent of a trained learner.

        Args:
            algorithm: the algorithm, which must act (``Algorithm.acting``).
            state: its state: ``Training.state`` of one seed, or the algorithm's own.
            family: the family of tasks that it was trained on, for its spaces and its horizon.
            origin: names and settings of the experiment that it is made of, as JSON has them; None: not known.

        Raises:
            ValueError: for an algorithm that does not act, such as one of few-shot tasks, or the states of several
                seeds.
        """
        if algorithm.acting is None:
            raise ValueError("this algorithm does not act: few-shot tasks have examples instead of actions")
        if isinstance(state, RunState):
            if jnp.ndim(state.step):
                raise ValueError(
                    f"an agent is made of one seed, not of {state.step.shape[0]}: "
                    "jax.tree.map(lambda x: x[0], state) is the first"
                )
            state = state.algorithm
        shapes = check_shapes(family)
        self._setup(
            algorithm.acting,
            jax.tree.map(jnp.asarray, algorithm.acting.params(state)),
            Interface(family.observation_space, family.action_space, shapes.observation.dtype, family.horizon),
            origin,
        )

    @classmethod
    def from_parts(
        cls, acting: Acting, params: Params, interface: Interface, *, origin: Mapping[str, Any] | None = None
    ) -> Agent:
        """Make an agent of the functions and the parameters that act."""
        agent = cls.__new__(cls)
        agent._setup(acting, params, interface, origin)
        return agent

    def _setup(self, acting: Acting, params: Params, interface: Interface, origin: Mapping[str, Any] | None) -> None:
        self._acting, self._params, self._interface, self._origin = acting, params, interface, origin
        self._start, self._step, self._learn = _compiled(acting)
        self.reset()

    @property
    def params(self) -> Params:
        """The parameters that act, before any adaptation: a tree of arrays."""
        return self._params

    @property
    def interface(self) -> Interface:
        """The spaces and the horizon of the tasks."""
        return self._interface

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Names and settings of the experiment that the agent is made of; None if they are not known."""
        return self._origin

    def reset(self, seed: int = 0, *, batch: int | None = None) -> None:
        """Forget the task: the next step is the first one on a new task.

        Args:
            seed: of the agent's random numbers, for actions and latent variables that are sampled.
            batch: the number of tasks that the agent acts on at the same time, each with a memory of its own;
                observations, rewards and actions then have a leading axis of that length. None: one task, no axis.

        Raises:
            ValueError: for a seed that is not a whole number from 0 to 2^32 - 1, or a batch that is not a positive
                whole number.
        """
        seed = whole(at_least=0, at_most=LAST_SEED)("seed", seed)
        self._batch = None if batch is None else positive_int("batch", batch)
        self._rows = self._batch or 1
        key_start, self._key = jax.random.split(jax.random.key(seed))
        self._memory = self._start(jax.random.split(key_start, self._rows), self._params)
        self._count = 0
        self._last: _Step | None = None
        self._awaited = False
        self._reward = np.zeros(self._rows, np.float32)
        self._done = np.zeros(self._rows, np.bool_)
        self._final: NDArray[Any] | None = None
        # Only learners that adapt later need these: steps of all tasks; of each task, the index of the first step of
        # its episode (None: the episode is not recorded), and its whole episodes.
        self._steps: list[tuple[Any, ...]] = []
        self._begins: list[int | None] = [0] * self._rows
        self._episodes: list[list[Episode]] = [[] for _ in range(self._rows)]

    def act(
        self,
        observation: ArrayLike,
        reward: ArrayLike | None = None,
        done: ArrayLike | None = None,
        *,
        final_observation: ArrayLike | None = None,
    ) -> Action:
        """Choose an action.

        Args:
            observation: the current observation; the first one of the next episode if one has just ended.
            reward: of the previous action, unless ``observe`` has told it.
            done: whether the previous action ended an episode, terminated or truncated; None: it did not.
            final_observation: the observation after the previous action where that ended an episode; only some learners
                use it (``needs_final_observation``).

        Returns:
            The action: an ``int``, or an array; ``[batch, ...]`` for a batch.

        Raises:
            ValueError: for an observation, reward or done of another shape or out of range; if the outcome of the
                previous action was not told, or twice; or if a final observation is missing.
        """
        if reward is not None or done is not None:
            if self._last is None:
                if np.any(self._array("done", done or False, (), np.bool_)):
                    raise ValueError("the first step of a task has no previous action: done must be False")
            else:
                self.observe(0.0 if reward is None else reward, False if done is None else done, final_observation)
        if self._awaited:
            raise ValueError(
                "the outcome of the previous action is missing: call observe, or act(observation, reward, done)"
            )
        obs = self._observation("observation", observation)
        first = self._last is None
        previous = self._last.action if self._last is not None else self._no_action()
        final = obs if self._final is None else np.where(_like(self._done, obs), self._final, obs)
        parts: Any = obs, previous, self._reward, self._done.astype(np.float32), np.full(self._rows, first)
        inputs = Inputs(*parts)
        self._memory, action, record = self._step(self._key, self._count, self._params, self._memory, inputs, final)
        self._last = _Step(inputs, np.asarray(action), record)
        self._awaited = True
        self._count += 1
        if self._batch is not None:
            return self._last.action
        one = self._last.action[0]
        return int(one) if isinstance(self._interface.action_space, Discrete) else one

    def observe(self, reward: ArrayLike, done: ArrayLike, final_observation: ArrayLike | None = None) -> None:
        """Tell the outcome of the latest action.

        Args:
            reward: its reward, a number; ``[batch]`` for a batch.
            done: whether it ended the episode, terminated or truncated; ``[batch]`` for a batch.
            final_observation: the observation after it, where the episode ended (see ``act``).

        Raises:
            ValueError: as for ``act``; or if there was no action.
        """
        if not self._awaited:
            raise ValueError("there is no action whose outcome is not known yet: act first")
        assert self._last is not None
        rewards = self._array("reward", reward, (), np.float32)
        dones = self._array("done", done, (), np.bool_)
        if final_observation is not None:
            self._final = self._observation("final_observation", final_observation)
        elif self.needs_final_observation and dones.any():
            raise ValueError(
                "the episode has ended, and this learner uses its final observation: give final_observation"
            )
        else:
            self._final = None
        if not np.isfinite(rewards).all():
            raise ValueError(f"reward must be finite, not {reward!r}")
        self._reward, self._done, self._awaited = rewards, dones, False
        if self._acting.learn is not None:
            self._record()

    def adapt(self, episodes: Sequence[Episode] | Sequence[Sequence[Episode]] | None = None) -> None:
        """Adapt to the task by one gradient step, as the learner was trained to.

        An episode that has not ended is not used; what follows of it is not recorded.

        Args:
            episodes: whole episodes that this agent, or another one with the same parameters, has played since its last
                step of adaptation; a sequence of them for each task of a batch. None: those in ``episodes()``. As many
                as in training (``episodes`` among the settings) are usual.

        Raises:
            TypeError: for a learner that adapts while it acts.
            ValueError: if there is no whole episode, the tasks of a batch have different numbers of them, or one is
                longer than the horizon of the tasks.
        """
        if self._learn is None:
            raise TypeError("this learner adapts while it acts: adapt() is for learners that adapt by gradient descent")
        given = self._episodes if episodes is None else self._per_task(episodes)
        numbers = {len(of_task) for of_task in given}
        if len(numbers) != 1 or not numbers or 0 in numbers:
            counts = ", ".join(str(len(of_task)) for of_task in given)
            raise ValueError(f"every task needs the same number of whole episodes, at least one, not {counts}")
        batch = jax.tree.map(lambda *rows: np.stack(rows), *(self._padded(of_task) for of_task in given))
        self._memory = self._learn(self._params, self._memory, batch)
        self._episodes = [[] for _ in range(self._rows)]
        # The rest of an episode that goes on is played by other parameters than its beginning: it is not recorded.
        self._begins = [0 if begin == len(self._steps) else None for begin in self._begins]
        self._steps = []

    def episodes(self) -> list[Episode] | list[list[Episode]]:
        """The whole episodes since the last step of adaptation; a list for each task of a batch.

        Empty for learners that adapt while they act.
        """
        return [list(of_task) for of_task in self._episodes] if self._batch else list(self._episodes[0])

    @property
    def adapts_by_gradient(self) -> bool:
        """Whether the learner adapts when ``adapt`` is called, and not before."""
        return self._acting.learn is not None

    @property
    def needs_final_observation(self) -> bool:
        """Whether the learner must be told the last observation of an episode."""
        return self._acting.final_observation

    # ------------------------------------------------------------------------------------------------------- internals

    def _record(self) -> None:
        assert self._last is not None
        step = self._last.inputs.obs, self._last.action, self._reward, self._last.record
        self._steps.append(jax.tree.map(np.asarray, step))
        now = len(self._steps)
        for row in np.flatnonzero(self._done):
            begin = self._begins[row]
            if begin is not None:
                stacked = jax.tree.map(lambda *x, row=row: np.stack([at[row] for at in x]), *self._steps[begin:])
                self._episodes[row].append(Episode(*stacked))
            self._begins[row] = now
        if self._done.any():
            # Steps before the first episode that goes on are not needed any more.
            first = min((begin for begin in self._begins if begin is not None), default=now)
            self._steps = self._steps[first:]
            self._begins = [None if begin is None else begin - first for begin in self._begins]

    def _per_task(self, episodes: Any) -> list[list[Episode]]:
        given = [list(of_task) for of_task in episodes] if self._batch else [list(episodes)]
        if len(given) != self._rows or not all(isinstance(one, Episode) for of_task in given for one in of_task):
            expected = f"{self._rows} sequences of Episode" if self._batch else "a sequence of Episode"
            raise ValueError(f"episodes must be {expected}, as episodes() returns them")
        return given

    def _padded(self, episodes: list[Episode]) -> Transition:
        """Episodes as ``[E, H, ...]``; the steps behind an end repeat the last one, and are not valid."""
        horizon = self._interface.horizon

        def one(episode: Episode) -> Transition:
            steps = len(episode.rewards)
            if steps > horizon:
                raise ValueError(f"an episode has {steps} steps, more than the horizon of the tasks, {horizon}")
            where = np.minimum(np.arange(horizon), steps - 1)
            obs, action, reward, record = jax.tree.map(lambda x: np.asarray(x)[where], tuple(episode))
            valid = np.arange(horizon) < steps
            last = np.arange(horizon) == steps - 1
            previous = np.concatenate([np.zeros_like(action[:1]), action[:-1]])
            before = np.concatenate([np.zeros_like(reward[:1]), reward[:-1]])
            nothing, begin = np.zeros(horizon, np.float32), np.arange(horizon) == 0
            seen: Any = obs, previous, before, nothing, begin
            no, index = np.zeros(horizon, np.bool_), np.zeros(horizon, np.int32)
            parts: Any = Inputs(*seen), action, reward, last, no, obs, index, valid, record
            return Transition(*parts)

        return jax.tree.map(lambda *rows: np.stack(rows), *(one(episode) for episode in episodes))

    def _array(self, name: str, value: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A value of every task, ``[rows, *shape]``."""
        try:
            # A copy: the caller may use its array again, for the next step.
            array = np.array(value, dtype)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be numeric, not {value!r}") from None
        expected = shape if self._batch is None else (self._batch, *shape)
        if array.shape != expected:
            raise ValueError(f"{name} must have shape {list(expected)}, not {list(array.shape)}")
        return array.reshape(self._rows, *shape)

    def _observation(self, name: str, value: ArrayLike) -> NDArray[Any]:
        match self._interface.observation_space:
            case Discrete(n=n):
                array = self._array(name, value, (), np.int32)
                if (array < 0).any() or (array >= n).any():
                    raise ValueError(f"{name} must be from 0 to {n - 1}, not {value!r}")
            case Box(shape=shape):
                array = self._array(name, value, shape, self._interface.observation_dtype)
                if not np.isfinite(array).all():
                    raise ValueError(f"{name} must be finite")
        return array

    def _no_action(self) -> NDArray[Any]:
        one = np.asarray(no_action(self._interface.action_space))
        return np.broadcast_to(one, (self._rows, *one.shape))


class Interface(NamedTuple):
    """What an agent and its tasks have in common."""

    observation_space: Space
    action_space: Space
    observation_dtype: Any
    """The dtype of observations, as the network takes them."""
    horizon: int
    """The most steps that an episode can last."""


class _Step(NamedTuple):
    """The latest step of every task."""

    inputs: Inputs
    action: NDArray[Any]
    record: Tree


@functools.lru_cache(maxsize=16)
def _compiled(acting: Acting) -> tuple[Any, Any, Any]:
    """The functions of ``Acting``, vectorised over tasks and compiled once for all agents of a learner."""

    def step(
        key: Key, count: Array, params: Params, memory: Carry, inputs: Inputs, final_obs: Array
    ) -> tuple[Carry, Array, Tree]:
        keys = jax.random.split(jax.random.fold_in(key, count), inputs.prev_done.shape[0])
        return jax.vmap(acting.act, (0, None, 0, 0, 0))(keys, params, memory, inputs, final_obs)

    start = jax.jit(jax.vmap(acting.start, (0, None)))
    learn = None if acting.learn is None else jax.jit(jax.vmap(acting.learn, (None, 0, 0)))
    return start, jax.jit(step), learn


def _like(flags: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Flags ``[N]`` that broadcast against values ``[N, ...]``."""
    return flags.reshape(-1, *[1] * (values.ndim - 1))
