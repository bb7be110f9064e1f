"""The dtypes that the package uses, and the conversions at its boundaries.

The package computes in single precision whether or not JAX's 64-bit types are enabled (``JAX_ENABLE_X64``):

* Data are float32 and int32. Observations, rewards, log-probabilities, values and Box actions are float32 (image
  observations may be uint8); discrete actions, counters and indices that are stored are int32; flags are bool.
* Network parameters, memories and optimiser states are float32, as Flax initialises them.
* Random numbers are drawn in float32 and int32, because JAX draws other numbers from the same key in 64 bits.

A run with 64-bit types therefore gives the same numbers as a run without them, up to rounding, and each can resume the
other's checkpoints. Three rules ensure this:

1. Code that creates an array or draws random numbers names the dtype: ``jnp.zeros(shape, jnp.float32)``. Python scalars
   need no dtype, since they are weakly typed.
2. Values from user code (environments, acting functions, few-shot data) are converted where they enter: in
   ``rollout.trial`` and ``problems``. A user's environment may keep a float64 state, as C MuJoCo and MJX do.
   Environments of gymnax and xminigrid run without 64-bit types, because some of them fail with these types.
3. Mathematics in ``ops`` follows the dtype of its arguments, so that float64 losses and parameters stay float64.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metarl_jax.types import Array, Box, Discrete, Space, Tree

_NARROW: dict[Any, Any] = {
    np.dtype(wide): np.dtype(narrow)
    for wide, narrow in (("int64", "int32"), ("uint64", "uint32"), ("float64", "float32"), ("complex128", "complex64"))
}


def _narrow_dtype(dtype: Any) -> Any:
    return _NARROW.get(dtype, dtype)


def narrow(tree: Tree) -> Tree:
    """Convert the 64-bit arrays in a tree to the 32-bit dtypes that JAX uses without 64-bit types.

    Python scalars stay as they are.
    """

    def one(x: Any) -> Any:
        wanted = _NARROW.get(getattr(x, "dtype", None))
        return x if wanted is None else jnp.asarray(x, wanted)

    return jax.tree.map(one, tree)


def without_64_bits(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that runs ``function`` with 64-bit types disabled, on its arguments in 32 bits.

    It is meant for environments of other libraries, which fail with 64-bit types or draw other random numbers. It may
    be called while JAX traces a program that has 64-bit types.
    """

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        narrowed = narrow(arguments)
        with jax.enable_x64(False), warnings.catch_warnings():
            # The constants of the library may have 64 bits.
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            return function(*narrowed)

    return call


def keep_dtypes(before: Tree, after: Tree) -> Tree:
    """Convert the leaves of ``after`` to the dtypes of ``before`` where they differ in 64 or 32 bits only.

    Without 64-bit types such leaves have equal dtypes. Other differences in dtype or in structure remain.
    """

    def one(old: Any, new: Any) -> Any:
        wanted, found = jnp.result_type(old), jnp.result_type(new)
        same = wanted == found or _narrow_dtype(wanted) != _narrow_dtype(found)
        return new if same else jnp.asarray(new, wanted)

    return jax.tree.map(one, before, after) if jax.tree.structure(before) == jax.tree.structure(after) else after


def as_action(space: Space, action: Any) -> Array:
    """Return an action in the dtype of its space: int32 for a discrete space, otherwise float32.

    Raises:
        TypeError: if the action of a discrete space does not have an integer dtype.
    """
    match space:
        case Discrete(n=n):
            if not jnp.issubdtype(jnp.result_type(action), jnp.integer):
                raise TypeError(f"an action of Discrete({n}) must have an integer dtype, not {jnp.result_type(action)}")
            return jnp.asarray(action, jnp.int32)
        case Box():
            return jnp.asarray(action, jnp.float32)
