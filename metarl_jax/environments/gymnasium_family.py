"""Task families from Gymnasium environments, which run on the host.

    import gymnasium, jax, metarl_jax as mrl

    def make_env(task):
        return gymnasium.make("Pendulum-v1", g=float(task))

    def sample(key):
        return jax.random.uniform(key, minval=5.0, maxval=15.0)

    tasks = mrl.types.TaskDistribution(sample, sample)
    family = mrl.environments.from_gymnasium(make_env, tasks, horizon=200, workers=2)

The environments keep their state in Python objects. Compiled programs therefore call the host at every step, once for
all tasks of a batch; the steps of the policy and the updates stay compiled. The state that a program holds is the
number of a slot on the host (``gymnasium_host``).

These environments differ from those that are written in JAX:

* A state can be used once. A second step from the same state is an error.
* A run is reproducible as far as the randomness of the environments follows from ``reset(seed=...)``: each reset gets a
  seed from the random key. A resumed run begins with new trials, as every iteration does.
* Programs on an accelerator train several seeds sequentially. ``jax.vmap`` of whole trainings is refused by JAX; use
  ``train(..., seeds=N)``.

An environment that derives some of its numbers from others must do so again for each task. Gymnasium's CartPole
computes ``total_mass`` and ``polemass_length`` when it is made: changing ``masspole`` alone afterwards leaves both as
they were, and the physics are wrong. This module needs the extra ``metarl-jax[gymnasium]``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from metarl_jax.checks import install_command, natural_int, positive_int, positive_number
from metarl_jax.environments import gymnasium_host, gymnasium_spaces
from metarl_jax.environments.drawing import Frame
from metarl_jax.host_calls import HostError
from metarl_jax.types import Array, Box, EnvFamily, Key, Space, Task, TaskDistribution, Tree

if TYPE_CHECKING:
    import gymnasium
    from PIL.Image import Image


def from_gymnasium(
    make_env: Callable[[Task], gymnasium.Env[Any, Any]],
    tasks: TaskDistribution,
    *,
    horizon: int,
    set_task: Callable[[Any, Task], None] | None = None,
    workers: int = 0,
    step_timeout: float = 60.0,
    max_environments: int = 4096,
) -> EnvFamily:
    """Make a family of tasks from Gymnasium environments.

    Every task of a batch has an environment of its own. Observations and actions are translated as
    ``gymnasium_spaces.observations`` and ``gymnasium_spaces.actions`` say; continuous actions are clipped to their
    bounds. An episode that the environment does not end is truncated after ``horizon`` steps.

    Args:
        make_env: A function that makes the environment of a task. The task is one of ``tasks``, with NumPy arrays in
            place of JAX's. If the environment has ``render_mode="rgb_array"``, videos show its ``render()``.
        tasks: The distribution of tasks, whose functions are traced by JAX.
        horizon: The largest number of steps of an episode.
        set_task: A function that gives a new task to an environment that ``make_env`` made, before a reset. None:
            ``make_env`` makes a new environment for each new task.
        workers: The number of worker processes that run the environments; 0 for this process. Worker processes are
            spawned, so they must be able to import ``make_env`` and ``set_task``.
        step_timeout: The largest time in seconds of one step or reset of an environment in a worker process, after
            which the command ends with an error.
        max_environments: The largest number of environments that exist at the same time.

    Returns:
        The family. Its bounds of actions and observations are those of one training task.

    Raises:
        ImportError: if Gymnasium is not installed.
        TypeError: if ``make_env`` or ``set_task`` is not a function, or ``tasks`` is not a ``TaskDistribution``.
        ValueError: if a number is out of range, ``make_env`` raises an error or does not return an environment, a space
            cannot be translated, or worker processes cannot import the functions.

    Example:
        >>> import gymnasium, jax
        >>> import metarl_jax as mrl
        >>> def make_env(task):
        ...     return gymnasium.make("Pendulum-v1", g=float(task))
        >>> def sample(key):
        ...     return jax.random.uniform(key, minval=5.0, maxval=15.0)
        >>> tasks = mrl.types.TaskDistribution(sample, sample)
        >>> family = mrl.environments.from_gymnasium(make_env, tasks, horizon=200)
        >>> family.action_space.shape
        (1,)
    """
    if not callable(make_env):
        raise TypeError(f"make_env must be a function of a task, not {make_env!r}")
    if set_task is not None and not callable(set_task):
        raise TypeError(f"set_task must be a function of an environment and a task, or None, not {set_task!r}")
    if not isinstance(tasks, TaskDistribution):
        raise TypeError(f"tasks must be a metarl_jax.types.TaskDistribution, not {type(tasks).__qualname__}")
    horizon, workers = positive_int("horizon", horizon), natural_int("workers", workers)
    step_timeout = positive_number("step_timeout", step_timeout)
    most = positive_int("max_environments", max_environments)
    try:
        import gymnasium  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"from_gymnasium needs Gymnasium, which is not installed: {install_command('gymnasium')}"
        ) from error

    probe = _Probe(make_env, tasks)
    observations, actions, draws = probe.spaces()
    recipe = gymnasium_host.Recipe(
        make_env,
        set_task,
        horizon,
        observations.numbers[:2],
        observations.dtype,
        actions.numbers[:2],
    )
    pool = gymnasium_host.Pool(recipe, workers, step_timeout, most)
    kind = DrawnGymnasiumEnvironment if draws else GymnasiumEnvironment
    env = kind(pool, observations, actions, probe)
    return EnvFamily(env, tasks, horizon, env.observation_space(), env.action_space())


class _Probe:
    """Environments that are made to look at them, and are not stepped."""

    def __init__(self, make_env: Callable[[Task], Any], tasks: TaskDistribution) -> None:
        self._make_env, self._tasks = make_env, tasks

    def _look(self, look: Callable[[Any], Any]) -> Any:
        """Return the value of a function of the environment of one training task.

        Raises:
            ValueError: if the environment cannot be made, or the function raises an error.
        """
        # The family may be made while a function is traced, and the environment needs values.
        with jax.ensure_compile_time_eval():
            task = jax.tree.map(lambda x: np.asarray(_plain(x))[()], self._tasks.sample(jax.random.key(0)))
        try:
            env = self._make_env(task)
        except (Exception, SystemExit) as error:  # The user's code may raise anything.
            raise ValueError(f"make_env raised {type(error).__name__}: {error}") from error
        try:
            gymnasium_host.check_env(env)
            return look(env)
        except HostError as error:
            raise ValueError(str(error)) from error
        finally:
            if hasattr(env, "close"):
                env.close()

    def spaces(self) -> tuple[gymnasium_spaces.Observations, gymnasium_spaces.Actions, bool]:
        """Return the translations of the environment's spaces, and whether the environment returns pictures."""
        return self._look(
            lambda env: (
                gymnasium_spaces.observations(env.observation_space),
                gymnasium_spaces.actions(env.action_space),
                env.render_mode == "rgb_array",
            )
        )

    def size(self) -> tuple[int, ...]:
        """Return the shape of a picture of the environment."""

        def look(env: Any) -> tuple[int, ...]:
            env.reset(seed=0)
            return gymnasium_host.picture(env.render()).shape

        try:
            return self._look(look)
        except Exception as error:  # The user's code may raise anything.
            raise ValueError(f"render() raised {type(error).__name__}: {error}") from error


class GymnasiumState(NamedTuple):
    """The part of a trial's state that a compiled program holds. The rest is on the host."""

    slot: Array
    """The number of the environment on the host, ``int32``."""
    lease: Array
    """The number of the reset by which the trial got its slot, ``int32``."""
    step: Array
    """The number of steps of the trial so far, ``int32``. The host counts them, so that the compiler cannot move a call
    before the one that it follows."""
    over: Array
    """Whether the trial is over. Further steps do nothing."""
    frame: Array
    """The picture of the environment, ``[height, width, 3]`` uint8; ``[0]`` if none is drawn."""


class GymnasiumEnvironment:
    """Gymnasium environments as one environment of this package (``types.HostEnvironment``).

    ``vmap`` of a reset or a step is one call of the host for the whole batch.
    """

    def __init__(
        self,
        pool: gymnasium_host.Pool,
        observations: gymnasium_spaces.Observations,
        actions: gymnasium_spaces.Actions,
        probe: _Probe,
        frame: tuple[int, ...] = (0,),
    ) -> None:
        self._pool, self._observations, self._actions, self._probe = pool, observations, actions, probe
        self._spaces = observations.numbers.space(), actions.numbers.space()
        self._frame = frame

    def close(self) -> None:
        """Close the environments and end the worker processes. The next reset makes new ones."""
        self._pool.close()

    def observation_space(self, params: Task | None = None) -> Space:
        """Return the space of observations, which is the same for all tasks."""
        del params
        return self._spaces[0]

    def action_space(self, params: Task | None = None) -> Space:
        """Return the space of actions, which is the same for all tasks."""
        del params
        return self._spaces[1]

    def reset(self, key: Key, params: Task) -> tuple[Array, GymnasiumState]:
        """Begin a trial of the task ``params``; return ``(obs, state)``."""
        leaves, structure = jax.tree.flatten(params)

        def host(keys: np.ndarray, leaves: list[np.ndarray]) -> tuple[Any, ...]:
            rows = range(len(keys))
            tasks = [structure.unflatten([leaf[row] for leaf in leaves]) for row in rows]
            contents = [b"".join(leaf[row].tobytes() for leaf in leaves) for row in rows]
            return self._pool.reset(_seeds(keys), tasks, contents, self._draws)

        shapes = (_shape(np.int32), _shape(np.int32), self._observed(), self._pictured())
        arguments = _plain(key), [_plain(leaf) for leaf in leaves]
        slot, lease, obs, frame = _call(host, shapes, *arguments)
        return obs, GymnasiumState(slot, lease, jnp.zeros_like(slot), jnp.zeros_like(slot, bool), frame)

    def step(
        self, key: Key, state: GymnasiumState, action: Array, params: Task
    ) -> tuple[Array, GymnasiumState, Array, Array, Array, dict[Any, Any]]:
        """Take one step, and reset the environment if its episode ends (``types.AutoResetEnvironment.step``)."""
        del params
        if isinstance(space := self._spaces[1], Box):
            action = jnp.clip(action, space.low, space.high)

        def host(keys: np.ndarray, state: Any, action: np.ndarray) -> tuple[Any, ...]:
            slot, lease, step, over, frame = state
            return step + 1, *self._pool.step(slot, lease, step, over, action, _seeds(keys), frame)

        # The count of steps, and then the fields of ``gymnasium_host.Stepped``.
        seen, flag = self._observed(), _shape(np.bool_)
        shapes = (_shape(np.int32), seen, seen, _shape(np.float32), flag, flag, self._pictured())
        found = _call(host, shapes, _plain(key), state, action)
        count, obs, final_obs, reward, terminated, truncated, frame = found
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return obs, state._replace(step=count, frame=frame), reward, terminated, truncated, info

    def mark_over(self, state: GymnasiumState, over: Array) -> GymnasiumState:
        """Return the state of a trial that is over if ``over`` is true. Its further steps do nothing."""
        return state._replace(over=jnp.logical_or(state.over, over))

    def release(self, state: GymnasiumState) -> None:
        """Give back the trial's slot, so that another trial uses it."""

        def host(slot: np.ndarray, lease: np.ndarray, step: np.ndarray) -> tuple[np.ndarray]:
            self._pool.release(slot, lease)
            return (step,)

        _call(host, (_shape(np.int32),), state.slot, state.lease, state.step)

    @property
    def _draws(self) -> bool:
        return self._frame != (0,)

    def _observed(self) -> jax.ShapeDtypeStruct:
        return _shape(self._observations.dtype, *self._observations.numbers.shape)

    def _pictured(self) -> jax.ShapeDtypeStruct:
        return _shape(np.uint8, *self._frame)


class DrawnGymnasiumEnvironment(GymnasiumEnvironment):
    """Gymnasium environments that draw themselves by ``render()`` (``drawing.Drawable``)."""

    caption = "The environment, as its render() draws it."

    def recorded(self) -> DrawnGymnasiumEnvironment:
        """Return the same environment with pictures in its states."""
        return DrawnGymnasiumEnvironment(self._pool, self._observations, self._actions, self._probe, self._probe.size())

    def drawn_state(self, state: GymnasiumState) -> Array:
        """Return the picture."""
        return state.frame

    def draw(self, frames: Sequence[Frame], task: Task) -> Image:
        """Return the picture of the last frame."""
        del task
        from PIL import Image

        return Image.fromarray(np.asarray(frames[-1].state))


def _shape(dtype: Any, *dimensions: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dimensions, np.dtype(dtype))


def _plain(x: Any) -> Array:
    """Return an array that the host can take: the data of a typed random key, or ``x`` itself."""
    array = jnp.asarray(x)
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def _seeds(keys: np.ndarray) -> list[int]:
    """Return a seed for each random key, ``[B, words]`` uint32: the words of the key as one number."""
    return [functools.reduce(lambda number, word: (number << 32) | word, row, 0) for row in keys.tolist()]


def _call(host: Callable[..., tuple[Any, ...]], shapes: tuple[jax.ShapeDtypeStruct, ...], *arguments: Tree) -> Any:
    """Call the host for one environment. Under ``vmap``, at any depth, the whole batch is one call.

    Args:
        host: a function of batches ``[B, ...]``, which returns batches.
        shapes: the shapes of its results for one environment.
        arguments: trees of arrays for one environment.
    """
    # Data are collected outside of gradients, and the host has none.
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), arguments))
    columns = _Columns([(x.dtype, x.shape) for x in leaves])

    def unpacked(words: Any, others: list[Any]) -> tuple[Any, ...]:
        return host(*jax.tree.unflatten(structure, columns.unpack(np.asarray(words), list(map(np.asarray, others)))))

    @jax.custom_batching.custom_vmap
    def batched(words: Array, others: list[Array]) -> tuple[Array, ...]:
        results = tuple(jax.ShapeDtypeStruct((len(words), *shape.shape), shape.dtype) for shape in shapes)
        return io_callback(unpacked, results, words, others)

    @batched.def_vmap
    def _(size: int, mapped: Any, *arguments: Tree) -> tuple[Any, Any]:
        def joined(x: Array, mapped: bool) -> Array:
            each = x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            return each.reshape(size * each.shape[1], *each.shape[2:])

        found = batched(*jax.tree.map(joined, arguments, tuple(mapped)))
        apart = tuple(x.reshape(size, x.shape[0] // size, *x.shape[1:]) for x in found)
        return apart, tuple(True for _ in apart)

    return tuple(x[0] for x in batched(*jax.tree.map(lambda x: x[None], columns.pack(leaves))))


class _Columns:
    """Arrays as columns of one array of 32-bit words: each argument of a call of the host takes time of its own."""

    def __init__(self, kinds: list[tuple[Any, tuple[int, ...]]]) -> None:
        """Make the columns of arrays of some dtypes and shapes."""
        self._kinds = [(np.dtype(dtype), shape) for dtype, shape in kinds]

    @staticmethod
    def _is_packed(dtype: np.dtype[Any]) -> bool:
        return dtype == np.bool_ or (dtype.kind in "iuf" and dtype.itemsize == 4)

    def pack(self, arrays: list[Array]) -> tuple[Array, list[Array]]:
        """Return the words ``[columns]`` of one environment, and the arrays that are not packed."""
        words, others = [jnp.zeros(0, jnp.uint32)], []
        for array, (dtype, _) in zip(arrays, self._kinds, strict=True):
            if not self._is_packed(dtype):
                others.append(array)
            elif dtype == np.bool_:
                words.append(array.astype(jnp.uint32).reshape(-1))
            else:
                words.append(jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1))
        return jnp.concatenate(words), others

    def unpack(self, words: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
        """Return the arrays ``[B, ...]``, given the words ``[B, columns]``."""
        found, column, rest = [], 0, iter(others)
        for dtype, shape in self._kinds:
            if not self._is_packed(dtype):
                found.append(next(rest))
                continue
            size = math.prod(shape)
            part = np.ascontiguousarray(words[:, column : column + size])
            array = part != 0 if dtype == np.bool_ else part.view(dtype)
            found.append(array.reshape(len(words), *shape))
            column += size
        return found
