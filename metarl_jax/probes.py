"""Linear probes: linear predictions of parameters of a task from the memory of a learner that plays it.

A linear probe (Alain & Bengio 2016, arXiv 1610.01644) is a linear regression from the memory of a trained learner to a
parameter of the task that the learner does not observe. The memory of RL² is the state of its recurrent network, and
that of VariBAD is the state of its encoder. A probe is fitted to trials on training tasks and tested on held-out tasks.
A good probe shows that the memory contains the parameter in a form that one linear layer can use. A bad probe does not
show that the memory lacks it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from metarl_jax import host_calls
from metarl_jax.batching import map_tasks
from metarl_jax.checks import positive_int, positive_number
from metarl_jax.rollout import trial
from metarl_jax.training import is_key, state_of
from metarl_jax.types import Acting, Algorithm, Array, EnvFamily, Inputs, Key, RunState, State, Task, Tree

Targets: TypeAlias = Callable[[Task], Mapping[str, Array]]
"""``task ->`` the numbers that the probes predict, by name: arrays of any shapes."""


@dataclass(frozen=True)
class Probes:
    """How well linear probes predict P parameters of held-out tasks after each of K numbers of steps."""

    steps: NDArray[np.int64]
    """``[K]``: the numbers of steps of a trial after which the memory is read."""
    names: tuple[str, ...]
    """The names of the P parameters."""
    explained: NDArray[np.float64]
    """``[K, P]``: 1 - (squared error of the probe) / (squared error of the mean over training tasks), both over
    held-out tasks and all entries of a parameter. 1 is a perfect prediction. 0 is no better than the mean, and worse
    predictions are negative. NaN: too few trials last as long, or the parameter is the same in all tasks."""
    tasks: int
    """The number of training tasks and of held-out tasks."""

    def __str__(self) -> str:
        """Return a table of the explained shares, one line for each parameter."""
        width = max(len(name) for name in ("steps", *self.names))
        lines = [f"{'steps':{width}}" + "".join(f"{step:8d}" for step in self.steps)]
        for name, shares in zip(self.names, self.explained.T, strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{share:8.2f}" for share in shares))
        return "\n".join(lines)


def numbers_of(task: Task) -> dict[str, Array]:
    """Return all arrays of floating-point numbers of a task by their names. They are the default targets of probes."""
    leaves = jax.tree_util.tree_leaves_with_path(task)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "task": jnp.asarray(leaf)
        for path, leaf in leaves
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    }


def linear_probes(
    key: Key,
    algorithm: Algorithm,
    state: State,
    family: EnvFamily,
    *,
    episodes: int,
    num_tasks: int = 2000,
    num_steps: int = 8,
    targets: Targets = numbers_of,
    penalty: float = 1.0,
    batch_size: int = 2048,
) -> Probes:
    """Fit linear probes to the memory of a learner that adapts while it acts, and test them on held-out tasks.

    The memory after k steps is the one from which the action of step k is chosen, so that it has seen k rewards.

    Args:
        key: a random key that training did not use.
        algorithm: the algorithm, which has a memory that it updates at every step (RL², VariBAD).
        state: ``Training.state`` of one seed, or the state of the algorithm itself.
        family: the family of tasks. Probes are fitted on its training tasks and tested on its held-out tasks.
        episodes: the number of episodes of a trial.
        num_tasks: the number of tasks to fit on, and the number of tasks to test on. It must exceed the number of
            floating-point numbers in the memory.
        num_steps: the number K of steps at which the memory is read. They are evenly spaced and include the first and
            the last step of a trial.
        targets: the numbers to predict; default: all floating-point numbers of a task.
        penalty: the penalty of ridge regression, for features and targets with a variance of one. The sum of squared
            errors over tasks is not divided by the number of tasks.
        batch_size: the largest number of tasks that are vectorised, which bounds memory.

    Raises:
        TypeError: if ``key`` is no typed random key, or ``state`` is the result of ``train`` as a whole.
        ValueError: if the algorithm has no memory that is updated at every step, if the state is that of several seeds,
            if a task has no targets, or if a number is out of range.
        HostError: if an environment of Gymnasium fails (``metarl_jax.host_calls``).

    Example:
        >>> import jax
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.bandits.bernoulli(arms=2)
        >>> config = mrl.algorithms.rl2.Config(episodes=5, trials=8, iterations=3)
        >>> settings = mrl.networks.recurrent.Settings(hidden_size=8)
        >>> algorithm = mrl.algorithms.rl2.make(family, mrl.networks.recurrent.make(family, settings), config)
        >>> run = mrl.train(jax.random.key(0), algorithm)
        >>> probes = mrl.probes.linear_probes(jax.random.key(1), algorithm, run.state, family, episodes=5, num_tasks=64)
        >>> probes.names, probes.explained.shape
        (('means',), (5, 1))
    """
    state = state_of(state)
    if not is_key(key):
        raise TypeError(f"key must be jax.random.key(seed), not {key!r}")
    if isinstance(state, RunState):
        if jnp.ndim(state.step):
            raise ValueError("probes read the memory of one seed: give the state of one, not of several seeds")
        state = state.algorithm
    acting = algorithm.acting
    if acting is None or acting.learn is not None or acting.final_observation:
        raise ValueError("probes need a learner with a memory that is updated at every step, such as RL² and VariBAD")
    positive_int("episodes", episodes)
    positive_int("num_tasks", num_tasks)
    positive_int("num_steps", num_steps)
    positive_int("batch_size", batch_size)
    positive_number("penalty", penalty)

    task = jax.eval_shape(family.tasks.sample, key)
    names: list[str] = []  # JAX would sort the keys of a dictionary.
    jax.eval_shape(lambda task: names.extend(targets(task)), task)
    if not names:
        raise ValueError("a task of this family has no floating-point numbers: give targets")
    memory = jax.eval_shape(lambda key, state: _features(acting.start(key, acting.params(state))), key, state)
    if num_tasks <= memory.size:
        raise ValueError(f"num_tasks must exceed the size of the memory, which is {memory.size}, not be {num_tasks}")

    key_fit, key_test = jax.random.split(key)
    data = []
    for split_key, sample in ((key_fit, family.tasks.sample), (key_test, family.tasks.sample_heldout)):
        parts, keys = [], jax.random.split(split_key, num_tasks)
        play = jax.jit(functools.partial(_played, acting, family, sample, targets, episodes))
        for begin in range(0, num_tasks, batch_size):
            with host_calls.clear_errors():
                part = play(state, keys[begin : begin + batch_size])
            parts.append(jax.tree.map(np.asarray, part))
        data.append(jax.tree.map(lambda *x: np.concatenate(x), *parts))

    length = data[0][0].shape[1]
    steps = np.unique(np.linspace(0, length - 1, min(num_steps, length)).round().astype(int))
    fitted, tested = data
    explained = [[_explained(fitted, tested, step, name, penalty) for name in names] for step in steps]
    return Probes(steps, tuple(names), np.array(explained), num_tasks)


def _features(memory: Tree) -> Array:
    """Return all floating-point numbers of a memory as one vector."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(memory)]
    parts = [leaf.ravel().astype(jnp.float32) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.concatenate(parts) if parts else jnp.zeros(0)


def _played(
    acting: Acting,
    family: EnvFamily,
    sample: Callable[[Key], Task],
    targets: Targets,
    episodes: int,
    state: State,
    keys: Key,
) -> tuple[Array, Array, dict[str, Array]]:
    """Return the memory ``[N, T, D]``, whether each step is part of the trial ``[N, T]``, and targets ``[N, ...]``."""
    params = acting.params(state)

    def act(key: Key, memory: Tree, inputs: Inputs) -> tuple[Tree, Array, Array]:
        memory, action, _ = acting.act(key, params, memory, inputs, inputs.obs)
        return memory, action, _features(memory)

    def one(key: Key) -> tuple[Array, Array, dict[str, Array]]:
        key_task, key_start, key_trial = jax.random.split(key, 3)
        task = sample(key_task)
        _, played = trial(key_trial, act, acting.start(key_start, params), family, task, episodes)
        return played.output, played.valid, dict(targets(task))

    return map_tasks(one)(keys)


def _explained(fitted: Any, tested: Any, step: int, name: str, penalty: float) -> float:
    """Return the explained share of one parameter after a number of steps."""
    (x, y), (x_test, y_test) = (
        (
            features[valid[:, step], step].astype(np.float64),
            values[name].reshape(len(valid), -1)[valid[:, step]].astype(np.float64),
        )
        for features, valid, values in (fitted, tested)
    )
    if len(x) <= x.shape[1] or not len(x_test):
        return float("nan")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6, scale, np.inf)  # A constant number of the memory is no feature.
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    middle, spread = y.mean(axis=0), y.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ ((y - middle) / spread))
    error = np.sum((x_test @ weights * spread + middle - y_test) ** 2)
    total = np.sum((middle - y_test) ** 2)
    return float(1 - error / total) if total > 0 else float("nan")
