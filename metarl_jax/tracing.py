"""Abstract evaluation of functions that users wrote, with errors that name the function and the mistake.

Nothing compiles or computes: ``jax.eval_shape`` gives the shapes and dtypes of the values that a function returns.
"""

from __future__ import annotations

import linecache
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.types import Array, Box, Discrete, Inputs, Key, Space, Transition, Tree

NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""The errors that JAX raises where Python needs the value of an array that is only traced."""
REMEDY = (
    "use jnp.where or jax.lax.cond in place of a Python if, jax.lax.scan or fori_loop in place of a loop whose length "
    "depends on an array, jnp in place of numpy, and no int(), float() or bool() of an array"
)


def abstract_key() -> Key:
    """Return an abstract random key of the default kind."""
    return jax.eval_shape(lambda: jax.random.key(0))


def abstract(shape: tuple[int, ...] = (), dtype: Any = jnp.float32) -> Any:
    """Return an abstract array, which has a shape and a dtype, but no values."""
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract_action(space: Space) -> Array:
    """Return an abstract action of the space, as learners pass it to ``env.step``."""
    match space:
        case Discrete():
            return abstract((), jnp.int32)
        case Box(shape=shape):
            return abstract(shape)


def abstract_transition(observation: Array, action: Array) -> Transition:
    """Return an abstract step, as ``rollout.trial`` returns it."""
    flag = abstract((), jnp.bool_)
    inputs = Inputs(observation, action, abstract(), abstract(), flag)
    return Transition(inputs, action, abstract(), flag, flag, observation, abstract((), jnp.int32), flag, ())


def stacked(tree: Tree, *lead: int) -> Tree:
    """Return the same shapes with leading axes ``lead``."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), tree)


def trace(name: str, function: Callable[..., Any], *arguments: Any, hint: str = "") -> Any:
    """Return the shapes and dtypes of the result of ``function(*arguments)``.

    Args:
        name: the name of the function in messages.
        function: the function, which is called once with tracers.
        arguments: trees of arrays, or of shapes and dtypes.
        hint: a text that is added to the message if the function raises an error.

    Raises:
        ValueError: in one line, if the function cannot be traced; the original error is its cause.
    """
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ValueError(explain(name, error, hint)) from error


def explain(name: str, error: Exception, hint: str = "") -> str:
    """Return one line that says why a function could not be traced."""
    at = _place(error)
    if isinstance(error, NEEDS_VALUES):
        return f"{name} cannot be compiled: it needs the value of an array while JAX traces it{at}; {REMEDY}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    says = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"{name} fails{at}: {says}{f' ({hint})' if hint else ''}"


def _place(error: Exception) -> str:
    """Return the last line of the traceback outside of libraries and this file, as ``" (file.py, line 3: ...)"``."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path == Path(__file__) or _is_library(path):
            continue
        text = linecache.getline(str(path), line).strip()
        found = f" ({path.name}, line {line}{f': {text}' if text else ''})"
    return found


def _is_library(path: Path) -> bool:
    """Return whether a file belongs to JAX, flax or Python's standard library."""
    folders, installed = set(path.parents), {"site-packages", "dist-packages"} & set(path.parts)
    # The import of flax takes a quarter of a second, and only an imported module can be in a traceback.
    modules = [sys.modules[name] for name in ("jax", "flax") if name in sys.modules]
    if any(Path(str(module.__file__)).parent in folders for module in modules):
        return True
    return path.name.startswith("<frozen") or (Path(sysconfig.get_path("stdlib")) in folders and not installed)


def describe(leaf: Any) -> str:
    """Return the dtype and the shape of an array as text: ``float32[3, 4]``."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def describe_space(space: Space) -> str:
    """Return a space as text without its bounds: ``Discrete(n=4)``, or ``a Box of shape (2,)``."""
    return repr(space) if isinstance(space, Discrete) else f"a Box of shape {space.shape}"


# With JAX's 64-bit types, dtypes that differ only in their width count as equal.
_NARROW = {"float64": "float32", "int64": "int32", "uint64": "uint32", "complex128": "complex64"}


def narrow(leaf: Any) -> Any:
    """Return the shape and the dtype of an array, where 64-bit dtypes are replaced by 32-bit dtypes."""
    return abstract(leaf.shape, _NARROW.get(str(leaf.dtype), leaf.dtype))


def difference(first: str, one: Tree, second: str, other: Tree) -> str | None:
    """Return how the structure, the shapes or the dtypes of two trees differ; None if they agree up to 32 or 64 bits.

    Args:
        first: the name of the first tree in the text.
        one: a tree of shapes and dtypes.
        second: the name of the other tree in the text.
        other: a tree of shapes and dtypes.
    """
    mine, yours = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(t)} for t in (one, other)
    )
    for here, there, leaves, others in ((first, second, mine, yours), (second, first, yours, mine)):
        missing = [path for path in leaves if path not in others]
        if missing:
            return f"{here} has {_named(missing[0])}, which {there} does not have"
    if jax.tree.structure(one) != jax.tree.structure(other):
        return f"{first} is a {jax.tree.structure(one)}, and {second} a {jax.tree.structure(other)}"
    for path, leaf in mine.items():
        if narrow(leaf) != narrow(yours[path]):
            if path:
                return f"{_named(path)} is {describe(leaf)} in {first}, and {describe(yours[path])} in {second}"
            return f"{first} is {describe(leaf)}, and {second} is {describe(yours[path])}"
    return None


def _named(path: str) -> str:
    return path.lstrip(".") or "an array"


def is_number(leaf: Any) -> bool:
    """Return whether an array holds real numbers, whole numbers or booleans."""
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def is_array(value: Any) -> bool:
    """Return whether a value is one array, or its shape and dtype, and not a tree of several."""
    return hasattr(value, "shape") and hasattr(value, "dtype")
