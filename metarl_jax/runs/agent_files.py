"""Load trained learners from run folders, and store them as files with weights and JSON, but no pickle and no code.

Learners of reinforcement-learning tasks are agents, which act. Few-shot learners adapt to examples and predict.

A file is in the safetensors format. Its tensors are the parameters that the learner needs to act or to predict, named
by their paths in the parameter tree. Its metadata entry ``metarl_jax`` is JSON. The JSON has the names and the settings
of the experiment's parts in the form of ``config.json``, and the spaces of the tasks or the shapes of their examples. A
file may come from a stranger.
Therefore only registered names are looked up, and no array is made before its shape has been compared with that of a
tensor in the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import metarl_jax
from metarl_jax import experiments, references
from metarl_jax.agents import Agent, Interface, interface_of
from metarl_jax.experiments.base import Experiment, Problem
from metarl_jax.family_checks import check_shapes
from metarl_jax.few_shot_learner import FewShotLearner
from metarl_jax.interfaces.few_shot import Examples, FewShotFamily
from metarl_jax.runs import checkpoints, commands, files, train
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.folder import RunFolder, nested, read_experiment, resolved, stored_source
from metarl_jax.settings import Field
from metarl_jax.types import Acting, Algorithm, Box, Discrete, EnvFamily, Key, Params, Predicting, Space

Family: TypeAlias = EnvFamily | FewShotFamily
Functions: TypeAlias = Acting | Predicting

SCHEMA = 1
SUFFIX = ".safetensors"
_ENTRY = "metarl_jax"
_MOST_HEADER_BYTES = 10_000_000
_SHARE = 1000
"""The largest ratio to the bytes of the weights, for the product of the sizes of a task family and for the bytes of a
memory."""
_LAYERS = 1000
"""The largest size setting of a network, unless the largest dimension of its weights is larger."""
_MOST_STEPS = 10_000
"""The largest number of gradient steps on a task, whose step sizes are stored for each step."""
_SPACE_NUMBERS = 1_000_000
"""The largest number of entries of an observation or an action in a file."""


def load(
    path: str | Path,
    *,
    seed: int | None = None,
    best: bool = False,
    experiment: Experiment | str | None = None,
    algorithm: Algorithm | None = None,
    family: Family | None = None,
) -> Agent | FewShotLearner:
    """Load a trained learner: an agent that acts, or a few-shot learner that adapts to examples and predicts.

    Args:
        path: the folder of a run, or a file that ``save`` or ``metarl-jax export`` wrote.
        seed: for a run folder, one of the seeds that were trained together; None for the first.
        best: for a run folder, whether to load the state with the best validation score, if the run kept it.
        experiment: the experiment, or a reference to it ("my_file.py:my_experiment"), if the experiment is not part of
            this package. Code is never loaded because a file or a folder names it.
        algorithm: for a file, the algorithm of its learner, if the learner was made in Python and not by an experiment.
        family: the family of tasks that belongs to ``algorithm``.

    Returns:
        An ``Agent``; for few-shot tasks a ``FewShotLearner``.

    Raises:
        UserError: if there is no such folder or file, if it is damaged or does not fit this version, or if the learner
            neither acts nor predicts.

    Example:
        >>> import metarl_jax as mrl
        >>> agent = mrl.load("runs/my-run")  # a folder that metarl-jax train has written
        >>> agent.reset(seed=0)
        >>> action = agent.act([])
    """
    path = Path(path)
    try:
        if isinstance(experiment, str):
            experiments.load(experiment)
        elif experiment is not None:
            experiments.register(experiment)
    except ValueError as error:
        raise UserError(f"experiment: {error}") from error
    if path.is_dir():
        return _from_folder(RunFolder(path), seed, best)
    if seed is not None or best:
        raise UserError(f"seed and best choose a state in a run folder, but {path} is not a folder")
    if (algorithm is None) != (family is None):
        raise UserError("algorithm and family must be given together")
    return _from_file(path) if algorithm is None or family is None else _weights(path, algorithm, family)


def save(path: str | Path, agent: Agent | FewShotLearner, *, overwrite: bool = False) -> Path:
    """Write an agent or a few-shot learner to a file from which ``load`` restores it.

    The file holds the parameters with which the learner starts on a task. It does not hold what it knows about a task.

    Args:
        path: the file; its name must end in ``.safetensors``.
        agent: the learner. The file of one that ``load`` returned names its experiment. Another one is loaded with the
            arguments ``algorithm`` and ``family``.
        overwrite: whether an existing file of a learner may be replaced.

    Raises:
        UserError: if the file exists or has another ending.
        StorageError: if the file cannot be written.

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family), config)
        >>> state = algorithm.init(jax.random.key(0))  # or the state of a trained learner
        >>> mrl.save("agent.safetensors", mrl.Agent(algorithm, state, family)).name
        'agent.safetensors'
        >>> agent = mrl.load("agent.safetensors", algorithm=algorithm, family=family)
    """
    from safetensors.numpy import save as serialised

    path = Path(path)
    if path.suffix != SUFFIX:
        raise UserError(f"the file of an agent must end in {SUFFIX}: {path}")
    origin = agent.origin or {}
    content = {"schema": SCHEMA, "package": metarl_jax.__version__, **origin, **_stored(_interface_of(agent))}
    tensors = {name: np.asarray(leaf) for name, leaf in checkpoints.flatten(agent.params).items()}
    data = serialised(tensors, metadata={_ENTRY: json.dumps(content, allow_nan=False)})
    with storing(f"write {path}"):
        if files.exists(path):
            if not overwrite:
                raise UserError(f"{path} exists already")
            _read(path)
        files.write_atomically(path, data)
    return path


def _resolved(
    where: str, experiment: str, names: Mapping[str, str] | None, source: references.Source | None
) -> Experiment:
    """Return the experiment of a folder or a file, or raise a UserError if it is not known."""
    try:
        return resolved(experiment, names)
    except ValueError as error:
        if source is None:
            raise UserError(f"{where} cannot be loaded: {error}") from error
        raise UserError(
            f"{where} was trained with {commands.quoted(source.reference)}, which is not part of metarl_jax; if you "
            f"trust that code, name it: load(..., experiment={files.printable(source.reference)!r})"
        ) from None


# ---------------------------------------------------------------------------------------------------------- run folders


def _from_folder(folder: RunFolder, seed: int | None, best: bool) -> Agent | FewShotLearner:
    config = folder.config
    experiment = _resolved(str(folder.path), config.experiment, config.names, config.source)
    problem = train.build(config, without_data=True)
    try:
        functions = _functions(problem.algorithm)
    except ValueError as error:
        raise UserError(f"{folder.path} cannot be loaded: {error}") from None
    ids = range(config.seed, config.seed + config.seeds)
    seed = ids[0] if seed is None else seed
    if seed not in ids:
        raise UserError(f"{folder.path} has the seeds {ids[0]} to {ids[-1]}, not {seed}")
    checkpoint = train.load_states(folder, problem, best=best)
    state = jax.tree.map(lambda x: x[ids.index(seed)], checkpoint.state.algorithm)
    origin = {
        "experiment": config.experiment,
        **stored_source(config.source),
        **nested(experiment, config.settings),
        "seed": seed,
        "iteration": checkpoint.iteration,
    }
    made = FewShotLearner if isinstance(functions, Predicting) else Agent
    return made(problem.algorithm, state, problem.family, origin=origin)


# ---------------------------------------------------------------------------------------------------------------- files


def _from_file(path: Path) -> Agent | FewShotLearner:
    tensors, content = _read(path)
    if "experiment" not in content:
        raise UserError(f"{path} names no experiment: load it with algorithm=... and family=...")
    try:
        origin = {name: value for name, value in content.items() if name not in ("schema", "package", "interface")}
        interface = _interface(content["interface"])
        stored = {"schema": 2, **{name: value for name, value in origin.items() if name not in ("seed", "iteration")}}
        named = read_experiment(stored)
        if stored:
            raise ValueError(f"it has the unknown entry {min(stored)}")
        experiment = _resolved(str(path), named["experiment"], named["names"], named["source"])
        settings = with_newer_settings(experiment, named["settings"])
        experiment.check_settings(settings)
        bytes_of_tensors = sum(tensor.nbytes for tensor in tensors.values())
        _check_sizes(experiment, settings, tensors)
        functions, new_params = _built_when_traced(experiment, settings, interface)
        params = _params(new_params, tensors)
        if isinstance(functions, Acting):
            memory = jax.eval_shape(functions.start, jax.random.key(0), params)
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory))
            if size > _SHARE * max(bytes_of_tensors, 1000):
                raise ValueError(
                    f"a memory of {size} bytes is out of proportion to {bytes_of_tensors} bytes of weights"
                )
        return _made(functions, params, interface, origin)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OverflowError) as error:
        raise UserError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error


def with_newer_settings(experiment: Experiment, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a file, together with those that are newer than the file.

    A new setting has a default that changes nothing. A preset may have another value for it, but the learner in the
    file was trained without.
    """
    without_preset = dataclasses.replace(experiment, settings={})
    return {**{name: field.default for name, field in without_preset.fields().items()}, **stored}


def _weights(path: Path, algorithm: Algorithm, family: Family) -> Agent | FewShotLearner:
    """Return a learner that Python made, with the weights in a file."""
    tensors, content = _read(path)
    try:
        functions = _functions(algorithm)
        interface = family.examples() if isinstance(family, FewShotFamily) else interface_of(family)
        if _stored(interface) != {"interface": content["interface"]}:
            raise ValueError("its tasks have other spaces, another horizon or other examples than the family")
        params = _params(lambda key: functions.params(algorithm.init(key)), tensors)
        return _made(functions, params, interface, None)
    except ValueError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from error


def _functions(algorithm: Algorithm) -> Functions:
    """Return the functions by which a learner acts or predicts.

    Raises:
        ValueError: if there are none.
    """
    functions = algorithm.acting or algorithm.predicting
    if functions is None:
        raise ValueError("its learner neither acts nor predicts")
    return functions


def _made(
    functions: Functions, params: Params, interface: Interface | Examples, origin: Mapping[str, Any] | None
) -> Agent | FewShotLearner:
    """Make a learner from its parts.

    Raises:
        ValueError: if the interface is that of the other kind of learners.
    """
    if isinstance(functions, Acting) and isinstance(interface, Interface):
        return Agent.from_parts(functions, params, interface, origin=origin)
    if isinstance(functions, Predicting) and isinstance(interface, Examples):
        return FewShotLearner.from_parts(functions, params, interface, origin=origin)
    raise ValueError("interface is not that of its learner")


def _check_sizes(experiment: Experiment, settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Bound the arrays that building a task family makes in NumPy, and the number of layers that are traced.

    Raises:
        ValueError: if a size is out of proportion to the tensors in the file.
    """
    parts = experiment.parts()
    largest = max((n for tensor in tensors.values() if tensor.size for n in tensor.shape), default=0)
    for name, size in _sizes(parts.network, settings).items():
        if size > max(_LAYERS, largest):
            raise ValueError(f"{name} {size} is out of proportion to weights of at most {largest} rows or columns")
    if (steps := settings.get("adaptation_steps") or 0) > _MOST_STEPS:
        raise ValueError(f"adaptation_steps {steps} is out of proportion: at most {_MOST_STEPS}")
    of_family, weights = _sizes(parts.family, settings), sum(tensor.nbytes for tensor in tensors.values())
    if math.prod(max(1, abs(size)) for name, size in of_family.items() if name != "seed") > _SHARE * max(weights, 1000):
        listed = ", ".join(f"{name} {size}" for name, size in of_family.items())
        raise ValueError(f"sizes of the tasks are out of proportion to {weights} bytes of weights: {listed}")


def _sizes(fields: Mapping[str, Field], settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the integer settings of a part of the experiment, by name."""
    return {name: settings[name] for name, field in fields.items() if field.type is int and settings[name] is not None}


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors and the description in a file.

    Raises:
        UserError: if the file cannot be read, or is not the file of an agent.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialised

    try:
        data = files.read(path)
    except FileNotFoundError:
        raise UserError(f"there is no run folder and no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        size = int.from_bytes(data[:8], "little")
        if len(data) < 8 or size > min(len(data) - 8, _MOST_HEADER_BYTES):
            raise ValueError("the size of its header is wrong")
        header = files.parse_json(data[8 : 8 + size])
        text = header.get("__metadata__", {}).get(_ENTRY) if isinstance(header, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"its metadata has no entry {_ENTRY}")
        content = files.parse_json(text)
        files.check_shape(content, {"schema": int, "package": str, "interface": dict})
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has schema {content['schema']}, this program has {SCHEMA}")
        return deserialised(data), content
    except (ValueError, AttributeError, TypeError, KeyError, SafetensorError) as error:
        raise UserError(f"{path} is not the file of an agent: {' '.join(str(error).split())}") from error


def _built_when_traced(
    experiment: Experiment, settings: Mapping[str, Any], interface: Interface | Examples
) -> tuple[Functions, Callable[[Key], Params]]:
    """Return the ``Acting`` or the ``Predicting`` of an experiment, and a function from a key to the parameters of a
    new learner.

    The experiment is built again within each trace. Building an algorithm creates arrays whose sizes are settings.
    Within a trace these arrays have shapes only, and an array that the functions do not use is never created.

    Raises:
        ValueError: if the learner neither acts nor predicts, or ``interface`` is not that of the experiment's tasks.
    """

    def build() -> Problem:
        return experiment.build(settings, without_data=True)

    def later(name: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(_functions(build().algorithm), name)(*arguments)

    known: list[Functions] = []

    def new_params(key: Key) -> Params:
        problem = build()
        functions = _functions(problem.algorithm)
        if not known:
            _check_interface(interface, problem.family)
        known.append(functions)
        return functions.params(problem.algorithm.init(key))

    jax.eval_shape(new_params, jax.random.key(0))
    (kind,) = known
    if isinstance(kind, Predicting):
        return Predicting(later("params"), later("adapt"), later("predict"), kind.most_examples), new_params
    learn = None if kind.learn is None else later("learn")
    return Acting(later("params"), later("start"), later("act"), learn, kind.final_observation), new_params


def _params(new_params: Callable[[Key], Params], tensors: Mapping[str, np.ndarray]) -> Params:
    """Return the tensors of a file in the tree of the learner's parameters.

    Raises:
        ValueError: if names, shapes or dtypes of the tensors do not fit.
    """
    shapes = jax.eval_shape(new_params, jax.random.key(0))
    expected = checkpoints.flatten(shapes)
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(
            f"the tensor {files.printable(name)} {'is missing' if name in expected else 'is not expected'}"
        )
    for name, shape in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (shape.shape, shape.dtype):
            raise ValueError(
                f"the tensor {name} is {found.dtype}{list(found.shape)}, expected {shape.dtype}{list(shape.shape)}"
            )
        if np.issubdtype(found.dtype, np.floating) and not np.all(np.isfinite(found)):
            raise ValueError(f"the tensor {name} has numbers that are not finite")
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(tensors[name]) for name in expected])


# ------------------------------------------------------------------------------------------------- spaces and examples


def _interface_of(learner: Agent | FewShotLearner) -> Interface | Examples:
    return learner.interface if isinstance(learner, Agent) else learner.examples


def _stored(interface: Interface | Examples) -> dict[str, Any]:
    if isinstance(interface, Examples):
        return {"interface": {name: _listed(value) for name, value in interface._asdict().items()}}

    def space(of: Space) -> dict[str, Any]:
        match of:
            case Discrete(n=n):
                return {"discrete": n}
            case Box(low=low, high=high, shape=shape):
                bounds = (np.broadcast_to(np.asarray(bound, np.float64), shape).ravel() for bound in (low, high))
                low, high = ([x if np.isfinite(x) else None for x in bound.tolist()] for bound in bounds)
                return {"box": list(shape), "low": _short(low), "high": _short(high)}

    return {
        "interface": {
            "observation_space": space(interface.observation_space),
            "action_space": space(interface.action_space),
            "observation_dtype": np.dtype(interface.observation_dtype).name,
            "horizon": interface.horizon,
        }
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(numbers: list[float | None]) -> list[float | None]:
    """Reduce a list to one number if all its numbers are equal."""
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def _interface(stored: Mapping[str, Any]) -> Interface | Examples:
    """Read the interface in a file.

    Raises:
        ValueError: if it does not have the form that ``save`` writes.
    """
    if "supports" in stored:
        files.check_shape(stored, {"shape": [int], "outputs": int, "classes": bool, "supports": [int]}, "interface")
        return Examples(tuple(stored["shape"]), stored["outputs"], stored["classes"], tuple(stored["supports"]))

    def space(name: str) -> Space:
        content = stored.get(name)
        if isinstance(content, dict) and _is_size(content.get("discrete")):
            return Discrete(content["discrete"])
        files.check_shape(content, {"box": [int], "low": [float], "high": [float]}, f"interface.{name}")
        assert isinstance(content, dict)
        shape = tuple(content["box"])
        if (
            len(shape) > 8
            or not all(n == 0 or _is_size(n) for n in shape)
            or np.prod(shape, dtype=np.float64) > _SPACE_NUMBERS
        ):
            raise ValueError(f"interface.{name} has the shape {list(shape)}")
        bounds: list[Any] = []
        for bound, infinite in (("low", -np.inf), ("high", np.inf)):
            numbers = np.asarray([infinite if x is None else x for x in content[bound]], np.float32)
            if numbers.size not in (1, np.prod(shape, dtype=np.int64)):
                raise ValueError(f"interface.{name}.{bound} has {numbers.size} numbers for the shape {list(shape)}")
            bounds.append(float(numbers[0]) if numbers.size == 1 else numbers.reshape(shape))
        return Box(bounds[0], bounds[1], shape)

    dtype, horizon = stored.get("observation_dtype"), stored.get("horizon")
    if dtype not in ("float32", "int32", "uint8", "bool"):
        raise ValueError(f"interface.observation_dtype is {dtype!r}")
    if not _is_size(horizon):
        raise ValueError(f"interface.horizon is {horizon!r}")
    assert isinstance(horizon, int)
    return Interface(space("observation_space"), space("action_space"), np.dtype(dtype), horizon)


def _check_interface(stored: Interface | Examples, family: Family) -> None:
    """Check that the interface in a file is that of a family. Bounds are not compared: no array depends on them.

    Raises:
        ValueError: if they differ.
    """
    if isinstance(family, FewShotFamily) or isinstance(stored, Examples):
        expected = family.examples() if isinstance(family, FewShotFamily) else None
        if not isinstance(stored, Examples) or stored != expected:
            raise ValueError("interface is not that of its experiment")
        return
    observation = check_shapes(family).observation
    built = Interface(family.observation_space, family.action_space, np.dtype(observation.dtype), family.horizon)

    def comparable(value: Any) -> Any:
        return tuple(value.shape) if isinstance(value, Box) else value

    for name, found, expected in zip(Interface._fields, stored, built, strict=True):
        if comparable(found) != comparable(expected):
            raise ValueError(f"interface.{name} is not that of its experiment")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31
