"""Trained learners that act in any Python loop, step by step, with NumPy arrays as inputs and outputs."""

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
from metarl_jax.training import state_of
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
"""An action: an ``int`` of a discrete action space, or an array of the action space's shape. For a batch of tasks, it
is an array with a leading axis."""


class Episode(NamedTuple):
    """A whole episode of N steps that an agent has played."""

    observations: NDArray[Any]
    """``[N, ...]``: the observation before each action."""
    actions: NDArray[Any]
    """``[N, ...]``: the actions."""
    rewards: NDArray[np.float32]
    """``[N]``: the rewards."""
    records: Tree
    """``[N, ...]``: the values of each step that the learner needs in order to adapt."""


class Agent:
    """A trained learner on one task, or on a batch of tasks at the same time.

    An agent keeps its memory of a task until ``reset`` is called. Learners with a memory or a belief adapt while they
    act. Learners that adapt by gradient descent adapt when ``adapt`` is called. The loop is that of Gymnasium:

        agent.reset(seed=0)
        for _ in range(episodes):
            observation, _ = env.reset()
            done = False
            while not done:
                action = agent.act(observation)
                observation, reward, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
                agent.observe(reward, done)

    In an environment that resets itself, ``agent.act(observation, reward, done)`` replaces both calls.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> state = algorithm.init(jax.random.key(0))  # or the state of a trained learner
        >>> agent = mrl.Agent(algorithm, state, family)
        >>> agent.reset(seed=0)
        >>> action = agent.act([])  # a bandit has an empty observation
        >>> action = agent.act([], reward=1.0, done=True)  # the reward of the first pull, which ended an episode
        >>> int(action) in (0, 1)
        True
    """

    def __init__(
        self, algorithm: Algorithm, state: State, family: EnvFamily, *, origin: Mapping[str, Any] | None = None
    ) -> None:
        """Make an agent from a trained learner.

        Args:
            algorithm: the algorithm, whose ``Algorithm.acting`` must not be None.
            state: ``Training.state`` of one seed, or the state of the algorithm itself.
            family: the family of tasks that the learner was trained on, which defines spaces and horizon.
            origin: names and settings of the experiment that the learner comes from, as values of JSON; None: not
                known.

        Raises:
            TypeError: if the state is the result of ``train`` as a whole, or does not belong to the algorithm.
            ValueError: if the algorithm does not act, such as one for few-shot tasks, or if the state is that of
                several seeds, or if the learner takes other observations or actions than the family's.
        """
        if algorithm.acting is None:
            raise ValueError(
                "this algorithm does not act: few-shot tasks have examples instead of actions (FewShotLearner)"
            )
        state = one_state(algorithm, state)
        interface = interface_of(family)
        params = jax.tree.map(jnp.asarray, algorithm.acting.params(state))
        _check_interface(algorithm.acting, params, interface)
        self._setup(algorithm.acting, params, interface, origin)

    @classmethod
    def from_parts(
        cls, acting: Acting, params: Params, interface: Interface, *, origin: Mapping[str, Any] | None = None
    ) -> Agent:
        """Make an agent from the functions and the parameters that act."""
        agent = cls.__new__(cls)
        agent._setup(acting, params, interface, origin)
        return agent

    def _setup(self, acting: Acting, params: Params, interface: Interface, origin: Mapping[str, Any] | None) -> None:
        self._acting, self._params, self._interface, self._origin = acting, params, interface, origin
        self._start, self._step, self._learn = _compiled(acting)
        self.reset(0)

    @property
    def params(self) -> Params:
        """Return the parameters that act, before any adaptation, as a tree of arrays."""
        return self._params

    @property
    def interface(self) -> Interface:
        """Return the spaces and the horizon of the tasks."""
        return self._interface

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Return names and settings of the experiment that the agent comes from; None if they are not known."""
        return self._origin

    def reset(self, seed: int | None = None, *, batch: int | None = None) -> None:
        """Forget the task, so that the next step is the first one on a new task.

        Args:
            seed: the seed of the agent's random numbers, from which actions and latent variables are sampled. None: the
                random numbers go on, so that they differ from task to task. A new agent has the seed 0.
            batch: the number of tasks that the agent acts on at the same time, each with a memory of its own;
                observations, rewards and actions then have a leading axis of that length. None: one task, no axis.

        Raises:
            ValueError: if the seed is not a whole number from 0 to 2^32 - 1, or if the batch is not a positive whole
                number.
        """
        if seed is not None:
            self._stream = jax.random.key(whole(at_least=0, at_most=LAST_SEED)("seed", seed))
        self._batch = None if batch is None else positive_int("batch", batch)
        self._rows = self._batch or 1
        self._stream, key_start, self._key = jax.random.split(self._stream, 3)
        self._memory = self._start(jax.random.split(key_start, self._rows), self._params)
        self._count = 0
        self._last: _Step | None = None
        self._awaited = False
        self._reward = np.zeros(self._rows, np.float32)
        self._done = np.zeros(self._rows, np.bool_)
        self._final: NDArray[Any] | None = None
        # Only learners that adapt by ``adapt`` need these: the steps of all tasks; for each task the index of the first
        # step of its episode (None: the episode is not recorded), and its whole episodes.
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
            reward: the reward of the previous action, unless it was given to ``observe``.
            done: whether the previous action ended an episode, which was terminated or truncated. None: it did not.
            final_observation: the observation after the previous action if that action ended an episode. Only some
                learners use it (``needs_final_observation``).

        Returns:
            The action: an ``int``, or an array; ``[batch, ...]`` for a batch. Real actions are those that the policy
            sampled: they may lie outside the bounds of the action space, to which the environments of this package
            clip them.

        Raises:
            ValueError: if an observation, reward or done has another shape or is out of range, if the outcome of the
                previous action was not given or was given twice, or if a final observation is missing.
        """
        # Everything is checked before the outcome counts: after an error, the same call can be made again.
        obs = self._observation("observation", observation)
        if reward is not None or done is not None:
            nothing = np.zeros(() if self._batch is None else self._batch)
            done = nothing if done is None else done
            if self._last is None:
                if np.any(self._array("done", done, (), np.bool_)):
                    raise ValueError("the first step of a task has no previous action: done must be False")
            else:
                self.observe(nothing if reward is None else reward, done, final_observation)
        if self._awaited:
            raise ValueError(
                "the outcome of the previous action is missing: call observe, or act(observation, reward, done)"
            )
        first = self._last is None
        previous = self._last.action if self._last is not None else self._no_action()
        final = obs if self._final is None else np.where(_like(self._done, obs), self._final, obs)
        parts: Any = obs, previous, self._reward, self._done.astype(np.float32), np.full(self._rows, first)
        inputs = Inputs(*parts)
        self._memory, chosen, record = self._step(self._key, self._count, self._params, self._memory, inputs, final)
        self._last = _Step(inputs, np.asarray(chosen), record)
        self._awaited = True
        self._count += 1
        action = self._last.action.copy()
        if self._batch is not None:
            return action
        return int(action[0]) if isinstance(self._interface.action_space, Discrete) else action[0]

    def observe(self, reward: ArrayLike, done: ArrayLike, final_observation: ArrayLike | None = None) -> None:
        """Give the outcome of the latest action to the agent.

        Args:
            reward: the reward of this action, a number; ``[batch]`` for a batch.
            done: whether the action ended the episode, which was terminated or truncated; ``[batch]`` for a batch.
            final_observation: the observation after this action if it ended the episode (see ``act``).

        Raises:
            ValueError: in the cases of ``act``, or if there was no action.
        """
        if not self._awaited:
            raise ValueError("there is no action whose outcome is not known yet: act first")
        assert self._last is not None
        rewards = self._array("reward", reward, (), np.float32)
        dones = self._array("done", done, (), np.bool_)
        if not np.all(np.isfinite(rewards)):
            raise ValueError(f"reward must be finite, not {reward!r}")
        if final_observation is not None:
            self._final = self._observation("final_observation", final_observation)
        elif self.needs_final_observation and dones.any():
            raise ValueError(
                "the episode has ended, and this learner needs its final observation: give final_observation"
            )
        else:
            self._final = None
        self._reward, self._done, self._awaited = rewards, dones, False
        if self._acting.learn is not None:
            self._record()

    def adapt(self, episodes: Sequence[Episode] | Sequence[Sequence[Episode]] | None = None) -> None:
        """Adapt to the task by one gradient step, in the same way as in training.

        An episode that has not ended is not used, and its remaining steps are not recorded.

        Args:
            episodes: whole episodes that this agent, or another agent with the same parameters, has played since its
                last step of adaptation; for a batch, a sequence of episodes for each task. None: the episodes of
                ``episodes()``. Usually their number is that of training (the setting ``episodes``).

        Raises:
            TypeError: if the learner adapts while it acts.
            ValueError: if there is no whole episode, if the tasks of a batch have different numbers of episodes, or if
                an episode is longer than the horizon of the tasks.
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
        # The rest of a current episode is played with other parameters than its beginning, so it is not recorded.
        self._begins = [0 if begin == len(self._steps) else None for begin in self._begins]
        self._steps = []

    def episodes(self) -> list[Episode] | list[list[Episode]]:
        """Return the whole episodes since the last step of adaptation; for a batch, a list for each task.

        The list is empty for learners that adapt while they act.
        """
        return [list(of_task) for of_task in self._episodes] if self._batch else list(self._episodes[0])

    @property
    def adapts_by_gradient(self) -> bool:
        """Return whether the learner adapts only when ``adapt`` is called."""
        return self._acting.learn is not None

    @property
    def needs_final_observation(self) -> bool:
        """Return whether the learner needs the last observation of an episode."""
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
        """Return episodes as ``[E, H, ...]``. The steps after an end repeat the last step, and are not valid."""
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
        """Return the values of all tasks, ``[rows, *shape]``, in a new array, because environments reuse theirs."""
        array = numbers(name, value, dtype)
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


def numbers(name: str, value: ArrayLike, dtype: Any) -> NDArray[Any]:
    """Return a value as a new array of a dtype.

    Args:
        name: the name of the value, for messages.
        value: numbers, or True and False.
        dtype: a real dtype.

    Raises:
        ValueError: if the value is not numeric, or is not one of a dtype that is not for real numbers.
    """
    try:
        given = np.asarray(value)
    except ValueError:  # A list of lists of different lengths.
        raise ValueError(f"{name} must be numeric, not {value!r}") from None
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numeric, not {value!r}")
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
    if not np.issubdtype(dtype, np.floating) and not np.array_equal(array, given):
        kind = "True or False" if dtype == np.bool_ else f"whole numbers of the type {np.dtype(dtype).name}"
        raise ValueError(f"{name} must be {kind}, not {value!r}")
    return array


def one_state(algorithm: Algorithm, state: State) -> State:
    """Return the state of an algorithm.

    Args:
        algorithm: the algorithm.
        state: ``Training.state`` of one seed, or the state of the algorithm itself.

    Raises:
        TypeError: if the state is the result of ``train`` as a whole, or does not belong to the algorithm.
        ValueError: if the state is that of several seeds.
    """
    state = state_of(state)
    if isinstance(state, RunState):
        if jnp.ndim(state.step):
            raise ValueError(
                f"a learner is made from one seed, not from {state.step.shape[0]}: jax.tree.map(lambda x: x[0], state) "
                "is the first"
            )
        state = state.algorithm
    difference = _difference(jax.eval_shape(algorithm.init, jax.random.key(0)), state)
    if difference:
        raise TypeError(f"the state does not belong to the algorithm: {difference}")
    return state


class Interface(NamedTuple):
    """The spaces, the dtype of observations and the horizon that an agent and its tasks share."""

    observation_space: Space
    action_space: Space
    observation_dtype: Any
    """The dtype of the observations that the network takes."""
    horizon: int
    """The largest number of steps of an episode."""


def interface_of(family: EnvFamily) -> Interface:
    """Return the interface of a family of tasks."""
    dtype = check_shapes(family).observation.dtype
    return Interface(family.observation_space, family.action_space, dtype, family.horizon)


class _Step(NamedTuple):
    """The latest step of every task."""

    inputs: Inputs
    action: NDArray[Any]
    record: Tree


def _difference(expected: Tree, found: Tree) -> str:
    """Return how the structure or the shapes of two trees differ, or an empty text."""
    if jax.tree.structure(expected) != jax.tree.structure(found):
        return "it has other parts"
    leaves = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(found), strict=True)
    for (path, one), other in leaves:
        if jnp.shape(one) != jnp.shape(other):
            return f"{jax.tree_util.keystr(path)} has shape {list(jnp.shape(other))}, expected {list(jnp.shape(one))}"
    return ""


def _check_interface(acting: Acting, params: Params, interface: Interface) -> None:
    """Check by tracing that a learner takes the observations of a family, and acts as the family expects.

    Raises:
        ValueError: if it does not.
    """

    def first(key: Key, obs: Array, previous: Array) -> Array:
        memory = acting.start(key, params)
        inputs = Inputs(obs, previous, jnp.float32(0), jnp.float32(0), jnp.bool_(True))
        return acting.act(key, params, memory, inputs, obs)[1]

    action = no_action(interface.action_space)
    shape = getattr(interface.observation_space, "shape", ())
    obs = jax.ShapeDtypeStruct(shape, interface.observation_dtype)
    try:
        found = jax.eval_shape(first, jax.random.key(0), obs, action)
    except Exception as error:  # A network of other sizes raises exceptions of its library.
        raise ValueError(
            f"the learner does not fit the family of tasks: {' '.join(str(error).split())[:300]}"
        ) from error
    if found.shape != action.shape or jnp.issubdtype(found.dtype, jnp.integer) != jnp.issubdtype(
        action.dtype, jnp.integer
    ):
        raise ValueError(
            f"the learner's action is {found.dtype}{list(found.shape)}, but the family's is "
            f"{action.dtype}{list(action.shape)}"
        )


@functools.lru_cache(maxsize=16)
def _compiled(acting: Acting) -> tuple[Any, Any, Any]:
    """Return the functions of ``Acting``, vectorised over tasks and compiled once for all agents of a learner."""

    def step(
        key: Key, count: Array, params: Params, memory: Carry, inputs: Inputs, final_obs: Array
    ) -> tuple[Carry, Array, Tree]:
        keys = jax.random.split(jax.random.fold_in(key, count), inputs.prev_done.shape[0])
        return jax.vmap(acting.act, (0, None, 0, 0, 0))(keys, params, memory, inputs, final_obs)

    start = jax.jit(jax.vmap(acting.start, (0, None)))
    learn = None if acting.learn is None else jax.jit(jax.vmap(acting.learn, (None, 0, 0)))
    return start, jax.jit(step), learn


def _like(flags: NDArray[np.bool_], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return flags ``[N]`` in a shape that broadcasts against values ``[N, ...]``."""
    return flags.reshape(-1, *[1] * (values.ndim - 1))
