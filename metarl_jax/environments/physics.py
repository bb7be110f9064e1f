"""Two engines for MuJoCo models: C MuJoCo on CPU threads behind a host callback, and MJX, which is written in JAX.

This module contains no physics of its own: models are Gymnasium's or Meta-World's, and MuJoCo computes every step. Both
engines hold the same models and return the same ``Readings``. By default the platform decides which engine is used. C
MuJoCo can also step different robots in one batch. This module needs the extra ``metarl-jax[mujoco]``. MuJoCo is
imported when an engine is made.

The state of the C engine contains everything that MuJoCo integrates, in double precision and with the solver's warm
start. A trajectory therefore equals that of the C library bit for bit, at every precision of JAX. (MuJoCo's batch
rollout does not return the warm start and the contact forces.) JAX holds the bits of the state as ``uint32``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax import host_calls
from metarl_jax.checks import choice, install_command
from metarl_jax.types import Array, Tree

EngineName: TypeAlias = Literal["auto", "c", "mjx"]
_NO_LENGTH = 1e-15
"""MuJoCo's constant: vectors shorter than this have no direction."""


class Readings(NamedTuple):
    """The measurements of a robot after a control step."""

    observation: Array
    """The observation of Gymnasium's v5 environment."""
    position: Array
    """The position of the robot on the floor, in metres, ``[2]``, as Gymnasium's v5 environment measures it."""
    velocity: Array
    """The change of the position over the control step, in metres per second, ``[2]``."""
    impact: Array
    """The sum of squares of the external forces on all bodies, as the robot's ``impact`` computes it; 0 without one."""
    healthy: Array
    """Whether the robot is healthy (stands), by the definition of Gymnasium's v5 environment."""


class Robot(NamedTuple):
    """A robot, and the observations, control and start of its environment.

    The functions get ``numpy`` or ``jax.numpy`` as ``xp``, a model, and its data. Model and data may be those of either
    engine, whose fields have the same names.
    """

    name: str
    """The name of the robot."""
    file: str
    """The model's file among the MuJoCo assets of Gymnasium or Meta-World."""
    frame_skip: int
    """The number of physics steps of a control step."""
    position: Callable[[Any, Any, Any], Any]
    """The position on the floor, ``(xp, model, data) -> [2]``, in metres."""
    observe: Callable[[Any, Any, Any], Any]
    """The observation, ``(xp, model, data) -> [size]``."""
    healthy: Callable[[Any, Any], Any] | None
    """Whether the robot is healthy, ``(xp, data) -> bool``; None if it always is."""
    noise: float
    """The noise of positions and velocities at the start of an episode, which is uniform in +- noise."""
    normal_velocity: bool
    """Whether the noise of velocities is normal with the standard deviation ``noise``, and not uniform."""
    from_above: bool = False
    """Whether pictures of the robot are from above, and not from the side."""
    impact: Callable[[Any, Any], Any] | None = None
    """The impact, a function of ``data.cfrc_ext``, ``(xp, data) -> scalar``; None if it is not needed."""
    drive: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
    """The control of a control step, ``(xp, data, control) -> (positions of mocap bodies [nmocap, 3], controls of
    actuators [nu])``; None if the control is that of the actuators."""
    settle: Callable[[Any, Any, Any], None] | None = None
    """A function ``(mujoco, model, data)`` that advances ``data`` before episodes begin, except for one last physics
    step; None if episodes begin from the initial data."""
    begin: Callable[..., tuple[Any, Any]] | None = None
    """The start of an episode, ``(xp, data, *start) -> (positions, velocities)``, where ``data`` are the settled data
    and ``start`` are the arguments of a reset; None if the arguments are positions and velocities."""
    moves: int | None = None
    """The body whose position is different in each task, or None. The position ``[3]`` is the last argument of a
    reset."""
    read_afresh: bool = False
    """Whether all quantities that follow from positions are computed anew after a control step. MuJoCo itself leaves
    them as they were before its last physics step."""
    begun_afresh: bool = True
    """Whether all quantities that follow from positions are computed anew at the start of an episode."""


class Engine(Protocol):
    """A physics engine. Its functions are for ONE robot, and ``vmap`` batches them.

    ``model`` is the index of the model (an ``int32`` scalar) among the engine's models.
    """

    def reset(self, model: Array, *start: Array) -> tuple[Any, Readings]:
        """Begin with positions ``[nq]`` and velocities ``[nv]``, or with the arguments of the robot's ``begin``."""
        ...

    def step(self, model: Array, state: Any, control: Array) -> tuple[Any, Readings]:
        """Take one control step with ``control [nu]``."""
        ...

    def pose(self, state: Any) -> Array:
        """Return MuJoCo's positions, ``[nq]``. An engine of several robots does not support this."""
        ...

    def step_or_reset(
        self, model: Array, state: Any, control: Array, over: Array, *start: Array
    ) -> tuple[Any, Readings, Array]:
        """Take one control step, and then reset if ``over`` is true or the robot is not healthy.

        Returns:
            The state after the step or the reset; the readings of the step; the next observation.
        """
        ...


def model_path(robot: Robot) -> Path:
    """Return the path of the robot's model in the installed Gymnasium.

    Raises:
        ImportError: if Gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"the models of robots are Gymnasium's, which is not installed: {install_command('mujoco')}"
        ) from error
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / robot.file


def load(robot: Robot) -> Any:
    """Load the robot's model, a ``mujoco.MjModel``.

    Raises:
        ImportError: if MuJoCo or Gymnasium is not installed.
    """
    return load_file(model_path(robot))


def load_file(path: Path) -> Any:
    """Load the ``mujoco.MjModel`` that a file describes; ImportError if MuJoCo is not installed."""
    mujoco = import_mujoco()
    before = mujoco.get_mju_user_warning()
    # By default MuJoCo writes warnings about a model into a file in the working directory.
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    finally:
        mujoco.set_mju_user_warning(before)


def settled(robot: Robot, model: Any) -> Any:
    """Return the ``mujoco.MjData`` from which every episode begins, before the arguments of a reset are applied."""
    mujoco = import_mujoco()
    data = mujoco.MjData(model)
    if robot.settle is not None:
        robot.settle(mujoco, model, data)
        mujoco.mj_step(model, data)
    return data


def make(robot: Robot | list[Robot], models: Sequence[Any], engine: EngineName = "auto") -> Engine:
    """Make an engine for models (``mujoco.MjModel``) that differ in numbers only, or for several robots.

    Args:
        robot: the robot of all models; or, for the engine "c", a list of the robot of each model.
        models: the models, at least one.
        engine: "c", "mjx", or "auto", which is "c" if JAX computes on a CPU, else "mjx".

    Raises:
        ValueError: if the engine is unknown, there is no model, the number of robots is not that of models, or there
            are several robots for "mjx".
        ImportError: if the engine is not installed; the message says what to install.
    """
    choice("auto", "c", "mjx")("engine", engine)
    if not models:
        raise ValueError("models must contain at least one model")
    if engine == "auto":
        engine = "c" if jax.default_backend() == "cpu" else "mjx"
    if engine == "c":
        return CEngine(robot, models)
    if isinstance(robot, list):
        raise ValueError(f"engine 'mjx' supports one robot, not {len(robot)}: use 'c'")
    return MJXEngine(robot, models)


def import_mujoco() -> Any:
    """Import MuJoCo; the ImportError says what to install if it is not installed."""
    try:
        import mujoco
    except ImportError as error:
        raise ImportError(f"robots need MuJoCo, which is not installed: {install_command('mujoco')}") from error
    return mujoco


def _threads() -> ThreadPoolExecutor:
    """Return the pool of threads of all engines, which has one thread for each core."""
    global _POOL
    if _POOL is None:
        _POOL = ThreadPoolExecutor(_cores(), thread_name_prefix="physics")
    return _POOL


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_POOL: ThreadPoolExecutor | None = None


ROBOTS_OF_A_THREAD = 8
"""The smallest number of robots for which another thread is used."""


class _Desk(NamedTuple):
    """The working memory of a thread."""

    data: Any
    """A ``mujoco.MjData``."""
    model: Any
    """A model of the thread's own, whose bodies it moves; None if it only reads the engine's models."""


class CEngine(Engine):
    """C MuJoCo. The robots of a batch are divided among threads, one for each core, without Python's global lock.

    Different robots can be stepped in one batch. All states then have the size of the largest one. The observations of
    the robots must have the same size.
    """

    def __init__(self, robot: Robot | list[Robot], models: Sequence[Any]) -> None:
        mujoco = import_mujoco()
        self._models, self._mujoco = list(models), mujoco
        several = isinstance(robot, list)
        if several and len(robot) != len(models):
            raise ValueError(
                f"the number of robots must equal that of models, but there are {len(robot)} robots and {len(models)} "
                "models"
            )
        if not several and robot.moves is not None and len(models) > 1:
            raise ValueError(f"a robot whose tasks move a body must have one model, not {len(models)}")
        # For each model: its robot, the robot's index, and the seconds of a control step.
        self._robots = robot if several else [robot] * len(models)
        self._whose = np.arange(len(models)) if several else np.zeros(len(models), np.int64)
        self._seconds = [m.opt.timestep * owner.frame_skip for owner, m in zip(self._robots, models, strict=True)]
        kinds = mujoco.mjtState
        self._what = int(
            kinds.mjSTATE_FULLPHYSICS | kinds.mjSTATE_WARMSTART | kinds.mjSTATE_MOCAP_POS | kinds.mjSTATE_MOCAP_QUAT
        )
        self._sizes = [mujoco.mj_stateSize(model, self._what) for model in models]
        self._size = max(self._sizes)
        if not several and min(self._sizes) != self._size:
            raise ValueError("models must differ in numbers only: their states differ in size")
        # A state holds the physics, the position of the last step (for the velocity), and that of the moved body.
        self._places = 3 if any(robot.moves is not None for robot in self._robots) else 0
        # For each robot that settles: its settled state and the last controls of its actuators.
        self._settled: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for index, (owner, model) in enumerate(zip(self._robots, models, strict=True)):
            if owner.settle is not None:
                data, state = mujoco.MjData(model), np.zeros(self._sizes[index])
                owner.settle(mujoco, model, data)
                mujoco.mj_getState(model, data, state, self._what)
                self._settled[index] = state, np.array(data.ctrl)
        # The unused desks of each robot. A desk whose bodies are moved needs a model of its own; the first desk uses
        # the given model.
        self._desks: list[list[_Desk]] = []
        numbers = set()
        for owner, model in zip(self._robots, models if several else models[:1], strict=False):
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            numbers.add(np.size(owner.observe(np, model, data)))
            self._desks.append([_Desk(data, None if owner.moves is None else model)])
        if len(numbers) > 1:
            raise ValueError(f"the observations of all robots must have the same size, not {sorted(numbers)}")
        (self._observations,) = numbers
        # Programs on several devices may step at the same time, but the desks are for one program.
        self._lock = threading.Lock()

    def _shapes(self) -> tuple[Any, Readings]:
        real = _real()

        def shape(*dimensions: int, dtype: Any = real) -> Any:
            return jax.ShapeDtypeStruct(dimensions, dtype)

        # Two uint32 are the bits of one double.
        state = shape(2 * (self._size + 2 + self._places), dtype=np.uint32)
        return state, Readings(shape(self._observations), shape(2), shape(2), shape(), shape(dtype=np.bool_))

    def reset(self, model: Array, *start: Array) -> tuple[Any, Readings]:
        return jax.pure_callback(
            partial(self._host_reset, _real()),
            self._shapes(),
            *(jnp.int32(model), *start),
            vmap_method="broadcast_all",
        )

    def step(self, model: Array, state: Any, control: Array) -> tuple[Any, Readings]:
        return jax.pure_callback(
            partial(self._host_step, _real()),
            self._shapes(),
            *(jnp.int32(model), state, control),
            vmap_method="broadcast_all",
        )

    def step_or_reset(
        self, model: Array, state: Any, control: Array, over: Array, *start: Array
    ) -> tuple[Any, Readings, Array]:
        state_shape, readings = self._shapes()
        return jax.pure_callback(
            partial(self._host_step, _real()),
            (state_shape, readings, readings.observation),
            *(jnp.int32(model), state, control, over, *start),
            vmap_method="broadcast_all",
        )

    def pose(self, state: Array) -> Array:
        shape = jax.ShapeDtypeStruct((self._models[0].nq,), _real())

        def host(real: np.dtype[Any], bits: Any) -> np.ndarray:
            # MuJoCo's state begins with the time.
            numbers = np.ascontiguousarray(np.asarray(bits)).view(np.float64)
            return numbers[..., 1 : 1 + shape.shape[0]].astype(real)

        return jax.pure_callback(partial(host, _real()), shape, state, vmap_method="expand_dims")

    # ----------------------------------------------------------------------------------------- on the host, in NumPy

    def _buffers(self, robots: int) -> tuple[np.ndarray, Any]:
        """Return arrays for states and readings, with one row for each robot."""
        rows: Any = [np.zeros((robots, width)) for width in (self._observations, 2, 2)]
        rows += [np.zeros(robots), np.ones(robots, np.bool_)]
        return np.zeros((robots, self._size + 2 + self._places)), Readings(*rows)

    def _read(self, index: int, model: Any, data: Any, state: np.ndarray, readings: Any, row: int) -> None:
        """Write the measurements into a row of ``readings``, and the position into the state."""
        robot = self._robots[index]
        before, position = state[self._size : self._size + 2], robot.position(np, model, data)
        readings.velocity[row] = (position - before) / self._seconds[index]
        readings.position[row] = before[:] = position
        readings.observation[row] = robot.observe(np, model, data)
        if robot.impact is not None:
            readings.impact[row] = robot.impact(np, data)
        if robot.healthy is not None:
            readings.healthy[row] = robot.healthy(np, data)

    def _begin(self, index: int, model: Any, data: Any, state: np.ndarray, start: list[Any]) -> None:
        """Begin an episode as Gymnasium and Meta-World do: reset the data, set the start, and compute the rest."""
        mujoco, robot = self._mujoco, self._robots[index]
        mujoco.mj_resetData(model, data)
        if robot.moves is not None:
            state[-3:] = model.body_pos[robot.moves] = start[-1]
        if robot.settle is not None:
            before, data.ctrl[:] = self._settled[index]
            mujoco.mj_setState(model, data, before, self._what)
            mujoco.mj_step(model, data)
        data.qpos[:], data.qvel[:] = start if robot.begin is None else robot.begin(np, data, *start)
        if robot.begun_afresh:
            mujoco.mj_forward(model, data)
        mujoco.mj_getState(model, data, state[: self._sizes[index]], self._what)

    def _host_reset(self, real: np.dtype[Any], model: Any, *start: Any) -> tuple[np.ndarray, Readings]:
        batch = np.shape(model)
        which, starts = np.ravel(model), [_rows(part, len(batch)) for part in start]
        states, readings = self._buffers(len(which))

        def work(desk: _Desk, rows: Iterable[int]) -> None:
            for row in rows:
                index = int(which[row])
                model = self._models[index] if desk.model is None else desk.model
                self._begin(index, model, desk.data, states[row], [part[row] for part in starts])
                self._read(index, model, desk.data, states[row], readings, row)
                readings.velocity[row] = 0.0

        self._deal(work, which)
        return _as_bits(states, batch), _reshaped(readings, batch, real)

    def _host_step(self, real: np.dtype[Any], model: Any, state: Any, control: Any, *reset: Any) -> tuple[Any, ...]:
        """Step all robots, and with ``reset`` (over, *start) reset those whose episode has ended."""
        mujoco, size, what = self._mujoco, self._size, self._what
        batch = np.shape(model)
        which, controls = np.ravel(model), _rows(control, len(batch))
        states = np.array(_rows(state, len(batch))).view(np.float64)
        _, readings = self._buffers(len(which))
        over, *starts = [_rows(part, len(batch)) for part in reset] or [np.zeros(0)]
        nexts = np.zeros_like(readings.observation)

        def work(desk: _Desk, rows: Iterable[int]) -> None:
            data = desk.data
            for row in rows:
                index = int(which[row])
                robot, physics = self._robots[index], states[row, : self._sizes[index]]
                model = self._models[index] if desk.model is None else desk.model
                if robot.moves is not None:
                    model.body_pos[robot.moves] = states[row, -3:]
                mujoco.mj_setState(model, data, physics, what)
                if robot.drive is None:
                    data.ctrl[:] = controls[row]
                else:
                    data.mocap_pos[:], data.ctrl[:] = robot.drive(np, data, controls[row])
                mujoco.mj_step(model, data, nstep=robot.frame_skip)
                if robot.read_afresh:
                    mujoco.mj_forward(model, data)
                if robot.impact is not None:
                    mujoco.mj_rnePostConstraint(model, data)
                mujoco.mj_getState(model, data, physics, what)
                self._read(index, model, data, states[row], readings, row)
                if not reset:
                    continue
                if over[row] or not readings.healthy[row]:
                    self._begin(index, model, data, states[row], [part[row] for part in starts])
                    states[row, size : size + 2] = robot.position(np, model, data)
                    nexts[row] = robot.observe(np, model, data)
                else:
                    nexts[row] = readings.observation[row]

        self._deal(work, which)
        results = _as_bits(states, batch), _reshaped(readings, batch, real)
        return (*results, _reshaped(nexts, batch, real)) if reset else results

    def _deal(self, work: Callable[[_Desk, Iterable[int]], None], which: np.ndarray) -> None:
        """Divide the rows among threads. A thread computes one robot's rows after another's, with a desk for each."""
        whose = self._whose[which]
        threads = max(1, min(_cores(), len(which) // ROBOTS_OF_A_THREAD))

        def at_desks(part: np.ndarray) -> None:
            for owner, rows in itertools.groupby(part.tolist(), lambda row: int(whose[row])):
                try:
                    desk = self._desks[owner].pop()
                except IndexError:
                    desk = self._desk(owner)
                work(desk, rows)
                self._desks[owner].append(desk)

        parts = np.array_split(np.argsort(whose, kind="stable"), threads)
        with host_calls.call(), self._lock:
            if threads == 1:
                at_desks(parts[0])
                return
            for _ in _threads().map(at_desks, parts):
                pass

    def _desk(self, owner: int) -> _Desk:
        """Make another desk for a robot."""
        model = self._models[owner]
        own = None if self._robots[owner].moves is None else copy.copy(model)
        return _Desk(self._mujoco.MjData(model), own)


def _rows(x: Any, batch_dimensions: int) -> np.ndarray:
    """Reshape ``[*batch, N]`` to ``[robots, N]``."""
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[batch_dimensions:])


def _as_bits(states: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    return states.view(np.uint32).reshape((*batch, -1))


def _reshaped(tree: Any, batch: tuple[int, ...], real: np.dtype[Any]) -> Any:
    """Reshape rows to ``[*batch, ...]``, and cast real numbers to JAX's precision."""

    def one(x: np.ndarray) -> np.ndarray:
        return x.reshape((*batch, *x.shape[1:])).astype(x.dtype if x.dtype == np.bool_ else real)

    return jax.tree.map(one, tree)


def _real() -> np.dtype[Any]:
    """Return JAX's real type. It must be read while tracing, because the callback's thread may have other settings."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


class MJXState(NamedTuple):
    """The state that MJX integrates."""

    qpos: Array
    """MuJoCo's positions, ``[nq]``."""
    qvel: Array
    """MuJoCo's velocities, ``[nv]``."""
    warm_start: Array
    """The warm start of the solver, ``[nv]``."""
    position: Array
    """The robot's position after the last step, from which the velocity is computed, ``[2]``."""
    mocap: Array
    """The positions of mocap bodies, ``[nmocap, 3]``."""


_MENDING = threading.RLock()


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """While a program is traced, make MJX compute the same as C MuJoCo, without unnecessary work.

    Matrix products have full precision, which accelerators do not use by default. A lock admits one thread at a time,
    because the changes of MJX affect all threads.
    """
    with _MENDING, jax.default_matmul_precision("highest"), _frames_as_in_c(), _searches_that_end():
        yield


@contextlib.contextmanager
def _searches_that_end() -> Iterator[None]:
    """While a program is traced, let the solver's line searches end when they have converged.

    So that physics can be differentiated, MJX (3.17) always computes the largest number of steps of a search (50), most
    of which change nothing. This package does not differentiate physics.
    """
    from mujoco.mjx._src import solver

    original = solver._while_loop_scan

    def loop(goes_on: Callable[[Any], Array], step: Callable[[Any], Any], start: Any, most: int) -> Any:
        # The condition also checks the largest number of steps.
        del most
        return jax.lax.while_loop(goes_on, step, start)

    solver._while_loop_scan = loop
    try:
        yield
    finally:
        solver._while_loop_scan = original


@contextlib.contextmanager
def _frames_as_in_c() -> Iterator[None]:
    """While a program is traced, align the contact frames of a capsule on a plane with the capsule's axis.

    Friction pyramids have corners, so their orientation has an effect. C MuJoCo aligns them with the capsule. MJX
    (3.17) does so only if the capsule makes an angle of less than 60 degrees with the plane. The legs of an ant make a
    larger angle.
    """
    from mujoco.mjx._src import collision_driver
    from mujoco.mjx._src.types import GeomType

    functions, pair = collision_driver._COLLISION_FUNC, (GeomType.PLANE, GeomType.CAPSULE)
    original = functions[pair]

    @functools.wraps(original)
    def turned(model: Any, data: Any, key: Any, geoms: Array) -> tuple[Array, Array, Array]:
        """Compute two contacts for each pair of ``geoms [N, 2]``."""
        distance, position, _ = original(model, data, key, geoms)
        normal, axis = (data.geom_xmat[geom, :, 2] for geom in geoms.T)
        along = axis - normal * jnp.sum(normal * axis, axis=-1, keepdims=True)
        length = jnp.linalg.norm(along, axis=-1, keepdims=True)
        upright = length < _NO_LENGTH
        along = jnp.where(upright, jnp.array([1.0, 0.0, 0.0]), along / jnp.where(upright, 1.0, length))
        frame = jnp.stack([normal, along, jnp.cross(normal, along)], axis=1)
        return distance, position, jnp.repeat(frame, 2, axis=0)

    functions[pair] = turned
    try:
        yield
    finally:
        functions[pair] = original


class MJXEngine(Engine):
    """MuJoCo in JAX (MJX), for accelerators.

    MJX has no projected Gauss-Seidel solver. Models that ask for it are solved by Newton's method. Contact frames of
    capsules on a plane are oriented as in C MuJoCo, unlike MJX's own. ``benchmarks/physics_speed.py --fidelity``
    measures the difference from C MuJoCo.

    On a CPU this engine is several times slower than C MuJoCo. With
    ``XLA_FLAGS=--xla_cpu_use_fusion_emitters=false`` it compiles in half the time there.
    """

    def __init__(self, robot: Robot, models: Sequence[Any]) -> None:
        mujoco = import_mujoco()
        try:
            from mujoco import mjx
        except ImportError as error:
            raise ImportError(
                f"the engine 'mjx' needs mujoco-mjx, which is not installed: {install_command('mujoco')}"
            ) from error
        self._robot, self._mjx = robot, mjx
        self._seconds = models[0].opt.timestep * robot.frame_skip

        def put(model: Any) -> Any:
            if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:
                model = copy.copy(model)
                model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
            return mjx.put_model(model)

        put_models = [put(model) for model in models]
        leaves = [jax.tree.leaves(model) for model in put_models]
        self._structure = jax.tree.structure(put_models[0])
        if any(jax.tree.structure(model) != self._structure for model in put_models):
            raise ValueError("models must differ in numbers only: their structures differ")
        # Arrays that are equal in all models are stored once.
        self._shared = [all(np.array_equal(leaf, column[0]) for leaf in column) for column in zip(*leaves, strict=True)]
        self._leaves = [
            column[0] if shared else jnp.stack([jnp.asarray(leaf) for leaf in column])
            for shared, column in zip(self._shared, zip(*leaves, strict=True), strict=True)
        ]
        # Tracing MJX takes seconds. Programs that step this robot, and checks of its family, share one trace.
        self._reset_once, self._step_once = jax.jit(self._reset), jax.jit(self._step)
        # A robot that settles has one model, whose settled data are the template.
        self._template = (
            mjx.make_data(put_models[0]) if robot.settle is None else mjx.put_data(models[0], settled(robot, models[0]))
        )

    def _model(self, index: Array) -> Any:
        leaves = [leaf if shared else leaf[index] for shared, leaf in zip(self._shared, self._leaves, strict=True)]
        return jax.tree.unflatten(self._structure, leaves)

    def _read(self, model: Any, data: Any, before: Array | None) -> tuple[MJXState, Readings]:
        robot = self._robot
        position = robot.position(jnp, model, data)
        velocity = jnp.zeros(2) if before is None else (position - before) / self._seconds
        impact = jnp.zeros(()) if robot.impact is None else robot.impact(jnp, data)
        healthy = jnp.bool_(True) if robot.healthy is None else robot.healthy(jnp, data)
        state = MJXState(data.qpos, data.qvel, data.qacc_warmstart, position, data.mocap_pos)
        return state, Readings(robot.observe(jnp, model, data), position, velocity, impact, healthy)

    def pose(self, state: MJXState) -> Array:
        return state.qpos

    def reset(self, model: Array, *start: Array) -> tuple[Any, Readings]:
        return self._reset_once(model, *start)

    def _reset(self, model: Array, *start: Array) -> tuple[Any, Readings]:
        one, robot = self._model(model), self._robot
        qpos, qvel = start if robot.begin is None else robot.begin(jnp, self._template, *start)
        with _mended():
            data = self._mjx.forward(one, self._template.replace(qpos=qpos, qvel=qvel))
            return self._read(one, data, None)

    def step(self, model: Array, state: Any, control: Array) -> tuple[Any, Readings]:
        return self._step_once(model, state, control)

    def _step(self, model: Array, state: Any, control: Array) -> tuple[Any, Readings]:
        one, mjx, robot = self._model(model), self._mjx, self._robot
        data = self._template.replace(
            qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warm_start, mocap_pos=state.mocap
        )
        mocap, control = (state.mocap, control) if robot.drive is None else robot.drive(jnp, data, control)
        data = data.replace(mocap_pos=mocap, ctrl=control)

        def physics_step(_: Any, data: Any) -> Any:
            # In double precision MJX changes some arrays of tendons from 32 to 64 bits, which a loop does not allow.
            return jax.tree.map(lambda after, before: after.astype(before.dtype), mjx.step(one, data), data)

        with _mended():
            data = jax.lax.fori_loop(0, robot.frame_skip, physics_step, data)
            if robot.read_afresh:
                data = mjx.forward(one, data)
            if robot.impact is not None:
                data = mjx.rne_postconstraint(one, data)
            return self._read(one, data, state.position)

    def step_or_reset(
        self, model: Array, state: Any, control: Array, over: Array, *start: Array
    ) -> tuple[Any, Readings, Array]:
        stepped, readings = self.step(model, state, control)

        def begin(model: Array, *start: Array) -> tuple[Any, Array]:
            begun, first = self.reset(model, *start)
            return begun, first.observation

        again = jnp.logical_or(over, jnp.logical_not(readings.healthy))
        next_state, observation = where_due(again, begin, (model, *start), (stepped, readings.observation))
        return next_state, readings, observation


def where_due(due: Array, begin: Callable[..., Tree], arguments: tuple[Array, ...], otherwise: Tree) -> Tree:
    """Return ``begin(*arguments)`` where ``due`` is true, else ``otherwise``.

    Under ``vmap``, ``begin`` is computed only if it is due for any element of the batch. ``jax.lax.cond`` under
    ``vmap`` would always compute it for all elements.

    Args:
        due: a bool scalar.
        begin: a function for ONE element. It must not close over arrays that are mapped by ``vmap``; these belong to
            ``arguments``.
        arguments: arrays of any shapes.
        otherwise: a tree of the structure and shapes of the result of ``begin``; its dtypes are those of the result.
    """

    @jax.custom_batching.custom_vmap
    def some(due: Array, otherwise: Tree, arguments: tuple[Array, ...]) -> Tree:
        """Choose for all elements of a batch, along one leading axis."""

        def chosen() -> Tree:
            return jax.tree.map(
                lambda new, old: jnp.where(due.reshape(-1, *[1] * (old.ndim - 1)), new, old).astype(old.dtype),
                jax.vmap(begin)(*arguments),
                otherwise,
            )

        return jax.lax.cond(jnp.any(due), chosen, lambda: otherwise)

    @some.def_vmap
    def _(size: int, mapped: Any, *operands: Any) -> tuple[Tree, Tree]:
        def joined(x: Array, mapped: bool) -> Array:
            each = x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            return each.reshape(size * each.shape[1], *each.shape[2:])

        found = some(*jax.tree.map(joined, operands, tuple(mapped)))
        apart = jax.tree.map(lambda x: x.reshape(size, x.shape[0] // size, *x.shape[1:]), found)
        return apart, jax.tree.map(lambda x: True, apart)

    alone = jax.tree.map(lambda x: jnp.asarray(x)[None], (due, otherwise, arguments))
    return jax.tree.map(lambda x: x[0], some(*alone))
