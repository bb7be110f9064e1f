"""One MuJoCo model, two engines: C MuJoCo on CPU threads behind a host callback, and MJX, which is JAX throughout.

Nothing physical is written here: models are Gymnasium's or Meta-World's, every step is MuJoCo's. Both engines hold the
same models and show the same ``Readings``; which one is used is chosen by the platform unless said. C MuJoCo also steps
robots in one batch that have nothing in common. Needs the extra ``metarl-jax[mujoco]``; MuJoCo is imported when an
engine is made and not before.

The C engine's state is the whole of what MuJoCo integrates, in double precision and with the solver's warm start, so
that a trajectory is bit for bit what the C library makes of it, whatever precision JAX computes in. (MuJoCo's own batch
rollout gives back neither the warm start nor contact forces.) The bits travel through JAX as ``uint32``.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.checks import choice, install_command
from metarl_jax.types import Array, Tree

EngineName: TypeAlias = Literal["auto", "c", "mjx"]
_NO_LENGTH = 1e-15
"""MuJoCo's: shorter vectors have no direction."""


class Readings(NamedTuple):
    """What is measured of a robot after a control step."""

    observation: Array
    """As Gymnasium's v5 environment shows it."""
    position: Array
    """``[2]``, metres: where on the floor it is, measured as there."""
    velocity: Array
    """``[2]``, metres a second: by how much the position changed over the control step."""
    impact: Array
    """The sum of squares of the external forces on all bodies, as far as the robot's ``impact`` says; 0 without one."""
    healthy: Array
    """Whether it still stands, as Gymnasium has it."""


class Robot(NamedTuple):
    """A body, and how Gymnasium's v5 environment looks at it.

    The functions get ``numpy`` or ``jax.numpy``, a model and its data, of either engine, which name things alike.
    """

    name: str
    file: str
    """Of Gymnasium's, or Meta-World's, MuJoCo assets."""
    frame_skip: int
    """Physics steps of a control step."""
    position: Callable[[Any, Any, Any], Any]
    observe: Callable[[Any, Any, Any], Any]
    healthy: Callable[[Any, Any], Any] | None
    """``(xp, data) -> bool``; None: always."""
    noise: float
    """Of positions and velocities at the start of an episode: uniform in +- noise ..."""
    normal_velocity: bool
    """... or, of velocities, normal with that standard deviation."""
    from_above: bool = False
    """Whether pictures of it are from above, and not from the side."""
    impact: Callable[[Any, Any], Any] | None = None
    """``(xp, data) -> scalar``, of ``data.cfrc_ext``."""
    drive: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None
    """``(xp, data, control) ->`` where the mocap bodies are to be ``[nmocap, 3]``, and what the actuators get ``[nu]``,
    for a control step; None: the actuators get the control."""
    settle: Callable[[Any, Any, Any], None] | None = None
    """``(mujoco, model, data)`` lets what is in ``data`` go on to one physics step before episodes begin; None: they
    begin at once."""
    begin: Callable[..., tuple[Any, Any]] | None = None
    """``(xp, data, *start) ->`` positions and velocities of a new episode, where ``data`` are those settled to and
    ``start`` is what resets are given; None: resets are given positions and velocities."""
    moves: int | None = None
    """A body that every task has somewhere else: where, ``[3]``, is the last thing that resets are given."""
    read_afresh: bool = False
    """Whether all that follows from positions is computed anew after a control step. MuJoCo itself leaves places as
    they were before its last step."""
    begun_afresh: bool = True
    """Whether it is at the start of an episode."""


class Engine(Protocol):
    """What advances a robot; all of ONE robot, to be batched by ``vmap``.

    ``model`` is the index of the model (an ``int32`` scalar), among those that the engine was made of.
    """

    def reset(self, model: Array, *start: Array) -> tuple[Any, Readings]:
        """Begin with positions ``[nq]`` and velocities ``[nv]``, or what else the robot's ``begin`` makes them from."""
        ...

    def step(self, model: Array, state: Any, control: Array) -> tuple[Any, Readings]:
        """One control step under ``control [nu]``."""
        ...

    def pose(self, state: Any) -> Array:
        """Where all of it is: MuJoCo's positions, ``[nq]``. Not for several robots."""
        ...

    def step_or_reset(
        self, model: Array, state: Any, control: Array, over: Array, *start: Array
    ) -> tuple[Any, Readings, Array]:
        """One control step, and then a reset if it is ``over`` or the robot is not healthy.

        Returns:
            The state afterwards; the readings of the step; the observation to go on from.
        """
        ...


def model_path(robot: Robot) -> Path:
    """Where Gymnasium keeps the robot's model.

    Raises:
        ImportError: without Gymnasium.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"the models of robots are Gymnasium's, which is not installed: {install_command('mujoco')}"
        ) from error
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / robot.file


def load(robot: Robot) -> Any:
    """The robot's model, an ``mujoco.MjModel``.

    Raises:
        ImportError: without MuJoCo or Gymnasium.
    """
    return load_file(model_path(robot))


def load_file(path: Path) -> Any:
    """The ``mujoco.MjModel`` that a file describes; ImportError without MuJoCo."""
    mujoco = import_mujoco()
    before = mujoco.get_mju_user_warning()
    # By default MuJoCo writes what it thinks of a model's style into a file in whatever folder this runs in.
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    finally:
        mujoco.set_mju_user_warning(before)


def settled(robot: Robot, model: Any) -> Any:
    """``mujoco.MjData`` as every episode begins, but for what resets are given."""
    mujoco = import_mujoco()
    data = mujoco.MjData(model)
    if robot.settle is not None:
        robot.settle(mujoco, model, data)
        mujoco.mj_step(model, data)
    return data


def make(robot: Robot | list[Robot], models: Sequence[Any], engine: EngineName = "auto") -> Engine:
    """An engine for models (``mujoco.MjModel``) that differ in numbers only, or for several robots.

    Args:
        robot: whose models they are; or, for C MuJoCo, a list of whose each is.
        models: at least one.
        engine: "c" or "mjx"; "auto": "c" where JAX computes on a CPU, else "mjx".

    Raises:
        ValueError: for an unknown engine, no model, not as many robots as models, or several robots in "mjx".
        ImportError: for an engine that is not installed, with what to install.
    """
    choice("auto", "c", "mjx")("engine", engine)
    if not models:
        raise ValueError("models must be at least one")
    if engine == "auto":
        engine = "c" if jax.default_backend() == "cpu" else "mjx"
    if engine == "c":
        return CEngine(robot, models)
    if isinstance(robot, list):
        raise ValueError(f"engine 'mjx' has one robot, not {len(robot)}: use 'c'")
    return MJXEngine(robot, models)


def import_mujoco() -> Any:
    """MuJoCo; ImportError, saying what to install, without it."""
    try:
        import mujoco
    except ImportError as error:
        raise ImportError(f"robots need MuJoCo, which is not installed: {install_command('mujoco')}") from error
    return mujoco


def _threads() -> ThreadPoolExecutor:
    """One pool for all engines: a thread for each core."""
    global _POOL
    if _POOL is None:
        _POOL = ThreadPoolExecutor(_cores(), thread_name_prefix="physics")
    return _POOL


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_POOL: ThreadPoolExecutor | None = None
_exiting = False
_last_call = -float("inf")
"""When the host was last called by a program, in seconds of ``time.monotonic``."""
QUIET_S = 0.25
"""At exit: the program in flight has ended if it has not called the host for this long."""


def _note_call() -> None:
    """Note that a program calls the host; RuntimeError, which ends the program, once the interpreter exits."""
    global _last_call
    _last_call = time.monotonic()
    if _exiting:
        raise RuntimeError("the interpreter exits")


@atexit.register
def _wait_for_programs() -> None:
    """At exit, wait until no program calls the host.

    XLA does not cancel a program whose caller was interrupted. A program that calls the host while the interpreter
    exits aborts the process or waits for Python's lock for ever.
    """
    global _exiting
    _exiting = True
    while time.monotonic() - _last_call < QUIET_S:
        time.sleep(0.01)


ROBOTS_OF_A_THREAD = 8
"""The fewest robots that are worth a thread of their own."""


class _Desk(NamedTuple):
    """What a thread works with."""

    data: Any
    """``mujoco.MjData``."""
    model: Any
    """A model of its own, whose bodies it moves; None: the engine's, which are nobody's to change."""


class CEngine:
    """C MuJoCo. Robots side by side are dealt out to threads, one for each core; MuJoCo runs outside Python's lock.

    Several robots are stepped in one batch: a state is as long as the longest. They must show equally many numbers.
    """

    def __init__(self, robot: Robot | list[Robot], models: Sequence[Any]) -> None:
        mujoco = import_mujoco()
        self._models, self._mujoco = list(models), mujoco
        several = isinstance(robot, list)
        if several and len(robot) != len(models):
            raise ValueError(f"there must be as many robots as models: {len(robot)} are not {len(models)}")
        if not several and robot.moves is not None and len(models) > 1:
            raise ValueError(f"a robot that moves a body has one model, not {len(models)}")
        # Of each model: whose it is, as a robot and as a number, and the seconds of a control step.
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
        # After the physics: the position that velocity is measured from, and where the moved body is.
        self._places = 3 if any(robot.moves is not None for robot in self._robots) else 0
        # Of robots that settle: what they have come to, and what their actuators did last.
        self._settled: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for index, (owner, model) in enumerate(zip(self._robots, models, strict=True)):
            if owner.settle is not None:
                data, state = mujoco.MjData(model), np.zeros(self._sizes[index])
                owner.settle(mujoco, model, data)
                mujoco.mj_getState(model, data, state, self._what)
                self._settled[index] = state, np.array(data.ctrl)
        # What threads that are done have left for the next, by robot. What bodies are moved in is a model of its own:
        # to begin with, the one that there is.
        self._desks: list[list[_Desk]] = []
        numbers = set()
        for owner, model in zip(self._robots, models if several else models[:1], strict=False):
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            numbers.add(np.size(owner.observe(np, model, data)))
            self._desks.append([_Desk(data, None if owner.moves is None else model)])
        if len(numbers) > 1:
            raise ValueError(f"robots side by side must show equally many numbers, not {sorted(numbers)}")
        (self._observations,) = numbers
        # Programs on several devices may step at the same time: there are desks for one of them.
        self._lock = threading.Lock()

    def _shapes(self) -> tuple[Any, Readings]:
        real = _real()

        def shape(*dimensions: int, dtype: Any = real) -> Any:
            return jax.ShapeDtypeStruct(dimensions, dtype)

        # The bits of doubles.
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
        """States and readings, a row for each robot."""
        rows: Any = [np.zeros((robots, width)) for width in (self._observations, 2, 2)]
        rows += [np.zeros(robots), np.ones(robots, np.bool_)]
        return np.zeros((robots, self._size + 2 + self._places)), Readings(*rows)

    def _read(self, index: int, model: Any, data: Any, state: np.ndarray, readings: Any, row: int) -> None:
        """Write what there is to be read into a row of ``readings``, and the position into the state."""
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
        """As Gymnasium and Meta-World do: reset all, set what the episode begins with, and compute what follows."""
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
        """Step, and with ``reset`` (over, *start) begin again what has ended."""
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
        """Deal the rows out to threads; each does the rows of one robot after those of another, at a desk for it."""
        _note_call()
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
        with self._lock:
            if threads == 1:
                at_desks(parts[0])
                return
            for _ in _threads().map(at_desks, parts):
                pass

    def _desk(self, owner: int) -> _Desk:
        """One more, for a robot."""
        model = self._models[owner]
        own = None if self._robots[owner].moves is None else copy.copy(model)
        return _Desk(self._mujoco.MjData(model), own)


def _rows(x: Any, batch_dimensions: int) -> np.ndarray:
    """``[*batch, N] -> [robots, N]``."""
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[batch_dimensions:])


def _as_bits(states: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    return states.view(np.uint32).reshape((*batch, -1))


def _reshaped(tree: Any, batch: tuple[int, ...], real: np.dtype[Any]) -> Any:
    """Rows as ``[*batch, ...]``, reals in JAX's precision."""

    def one(x: np.ndarray) -> np.ndarray:
        return x.reshape((*batch, *x.shape[1:])).astype(x.dtype if x.dtype == np.bool_ else real)

    return jax.tree.map(one, tree)


def _real() -> np.dtype[Any]:
    """JAX's precision, which is asked for while tracing: the callback's thread may have other settings."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


class MJXState(NamedTuple):
    """What MJX integrates."""

    qpos: Array
    qvel: Array
    warm_start: Array
    """``[nv]``: the solver's."""
    position: Array
    """``[2]``: what velocity is measured from."""
    mocap: Array
    """``[nmocap, 3]``: where mocap bodies are."""


_MENDING = threading.RLock()


@contextlib.contextmanager
def _mended() -> Iterator[None]:
    """While a program is traced: MJX as it computes what C MuJoCo does, and no more than that.

    Products keep all their bits, of which accelerators would leave out some by themselves. For one thread at a time:
    what is changed of MJX meanwhile is everybody's.
    """
    with _MENDING, jax.default_matmul_precision("highest"), _frames_as_in_c(), _searches_that_end():
        yield


@contextlib.contextmanager
def _searches_that_end() -> Iterator[None]:
    """While a program is traced, let the solver's line searches end when they have found what they look for.

    MJX (3.17), which lets physics be differentiated, goes through as many steps as a search may take (50), most of
    which then change nothing; nobody differentiates them here.
    """
    from mujoco.mjx._src import solver

    original = solver._while_loop_scan

    def loop(goes_on: Callable[[Any], Array], step: Callable[[Any], Any], start: Any, most: int) -> Any:
        # How many steps a search may take is asked by the condition, too.
        del most
        return jax.lax.while_loop(goes_on, step, start)

    solver._while_loop_scan = loop
    try:
        yield
    finally:
        solver._while_loop_scan = original


@contextlib.contextmanager
def _frames_as_in_c() -> Iterator[None]:
    """While a program is traced, lay the contact frames of a capsule on a plane along its axis, however steep it is.

    Friction pyramids have corners, so that it matters how they are turned. C MuJoCo turns them with the capsule; MJX
    (3.17) does so only where that makes less than 60 degrees with the plane. The legs of an ant make more.
    """
    from mujoco.mjx._src import collision_driver
    from mujoco.mjx._src.types import GeomType

    functions, pair = collision_driver._COLLISION_FUNC, (GeomType.PLANE, GeomType.CAPSULE)
    original = functions[pair]

    @functools.wraps(original)
    def turned(model: Any, data: Any, key: Any, geoms: Array) -> tuple[Array, Array, Array]:
        """Two contacts of each pair of ``geoms [N, 2]``."""
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


class MJXEngine:
    """MuJoCo in JAX. MJX has no projected Gauss-Seidel: models that ask for it are solved by Newton's method.

    How near it is to C: ``benchmarks/physics_speed.py --fidelity``. Contacts of capsules with a plane are turned as C
    turns them, which MJX's own are not.

    For accelerators. On a CPU it is several times slower than C, and compiles in half the time with
    ``XLA_FLAGS=--xla_cpu_use_fusion_emitters=false``.
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
        # What is the same in all is not held once for each.
        self._shared = [all(np.array_equal(leaf, column[0]) for leaf in column) for column in zip(*leaves, strict=True)]
        self._leaves = [
            column[0] if shared else jnp.stack([jnp.asarray(leaf) for leaf in column])
            for shared, column in zip(self._shared, zip(*leaves, strict=True), strict=True)
        ]
        # Tracing MJX takes seconds. Programs that step this robot, and checks of its family, share one trace.
        self._reset_once, self._step_once = jax.jit(self._reset), jax.jit(self._step)
        # Models that settle are one: what they have come to is the first's.
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
            # In double precision MJX makes 64 bits of a tendon's 32, and a loop would not have that.
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
    """``begin(*arguments)`` where it is due, else ``otherwise``; not computed at all while it is due for none.

    Of however many side by side: where ``vmap`` would compute both for all, this asks whether it is due for any.

    Args:
        due: bool, a scalar.
        begin: of ONE. What it closes over must not be mapped over: that belongs to ``arguments``.
        arguments: arrays of any shapes.
        otherwise: in structure and shapes what ``begin`` returns, and of the dtypes that are returned.
    """

    @jax.custom_batching.custom_vmap
    def some(due: Array, otherwise: Tree, arguments: tuple[Array, ...]) -> Tree:
        """Of all side by side, on one leading axis."""

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
