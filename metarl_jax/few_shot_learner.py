"""Trained few-shot learners that predict in any Python program, with NumPy arrays as inputs and outputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from metarl_jax.agents import numbers, one_state
from metarl_jax.checks import LAST_SEED, whole
from metarl_jax.interfaces.few_shot import Examples, FewShotFamily
from metarl_jax.types import Algorithm, Array, Key, Params, Predicting, State


class FewShotLearner:
    """A trained learner of few-shot tasks: it adapts to a few labelled examples, and predicts the targets of others.

    One call of ``adapt`` starts from the trained parameters, so a learner can be used for one task after another. With
    a leading axis of tasks it adapts to a batch of tasks at the same time.

    Example:
        >>> import numpy as np
        >>> import metarl_jax as mrl
        >>> learner = mrl.pretrained("maml-sinusoid")
        >>> x = np.linspace(-5, 5, 10)[:, None]  # ten examples of a sinusoid that training did not have
        >>> learner.adapt(x, 3 * np.sin(x - 1))
        >>> learner.predict([[1.0], [2.0]]).shape
        (2, 1)
    """

    def __init__(
        self, algorithm: Algorithm, state: State, family: FewShotFamily, *, origin: Mapping[str, Any] | None = None
    ) -> None:
        """Make a few-shot learner from a trained learner.

        Args:
            algorithm: the algorithm, whose ``Algorithm.predicting`` must not be None.
            state: ``Training.state`` of one seed, or the state of the algorithm itself.
            family: the family of tasks that the learner was trained on.
            origin: names and settings of the experiment that the learner comes from, as values of JSON; None: not
                known.

        Raises:
            TypeError: if the state is the result of ``train`` as a whole, or does not belong to the algorithm.
            ValueError: if the algorithm does not predict, because it acts, or if the state is that of several seeds, or
                if the learner takes other examples than those of the family.
        """
        if algorithm.predicting is None:
            raise ValueError("this algorithm does not predict: learners of reinforcement-learning tasks act (Agent)")
        state = one_state(algorithm, state)
        params = jax.tree.map(jnp.asarray, algorithm.predicting.params(state))
        self._setup(algorithm.predicting, params, family.examples(), origin)
        self._check_fit(self._examples.supports[1])

    @classmethod
    def from_parts(
        cls, predicting: Predicting, params: Params, examples: Examples, *, origin: Mapping[str, Any] | None = None
    ) -> FewShotLearner:
        """Make a few-shot learner from the functions and the parameters that predict."""
        learner = cls.__new__(cls)
        learner._setup(predicting, params, examples, origin)
        return learner

    def _setup(
        self, predicting: Predicting, params: Params, examples: Examples, origin: Mapping[str, Any] | None
    ) -> None:
        self._predicting, self._params, self._examples, self._origin = predicting, params, examples, origin
        self._adapt, self._predict = _compiled(predicting)
        self._batch: int | None = None
        self._memory: Any = None
        self._fitting: set[int] = set()

    @property
    def params(self) -> Params:
        """Return the parameters before any adaptation, as a tree of arrays."""
        return self._params

    @property
    def examples(self) -> Examples:
        """Return shapes and kinds of the examples."""
        return self._examples

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Return names and settings of the experiment that the learner comes from; None if they are not known."""
        return self._origin

    def adapt(self, inputs: ArrayLike, targets: ArrayLike, *, seed: int = 0) -> None:
        """Adapt to the labelled examples of a task, in the same way as on held-out tasks in evaluations.

        The first call with other numbers of tasks or examples compiles a program.

        Args:
            inputs: the inputs of N examples, ``[N, ...]``; of a batch of tasks, ``[tasks, N, ...]``.
            targets: vectors ``[N, outputs]``, or classes, whole numbers ``[N]`` from 0; with the same leading axis.
            seed: the seed that chooses the examples of each step, for learners whose steps get only some of them.

        Raises:
            ValueError: if an array has another shape or dtype or a number that is not finite, if a class is out of
                range, if there are more examples than the learner can use, or if the seed is out of range.
        """
        key = jax.random.key(whole(at_least=0, at_most=LAST_SEED)("seed", seed))
        x = self._inputs("inputs", inputs)
        batch = x.shape[0] if x.ndim == len(self._examples.shape) + 2 else None
        lead = x.shape[: 1 if batch is None else 2]
        if self._examples.classes:
            y, shape, last = numbers("targets", targets, np.int32), lead, self._examples.outputs - 1
            if y.shape == shape and ((y < 0).any() or (y > last).any()):
                raise ValueError(f"targets must be classes from 0 to {last}, not {y.min()} to {y.max()}")
        else:
            y, shape = numbers("targets", targets, np.float32), (*lead, self._examples.outputs)
            _check_finite("targets", y)
        if y.shape != shape:
            raise ValueError(f"targets must have shape {list(shape)} for these inputs, not {list(y.shape)}")
        most = self._predicting.most_examples
        if most is not None and lead[-1] > most:
            raise ValueError(f"this learner uses at most {most} examples of a task, not {lead[-1]}")
        if batch is None:
            x, y = x[None], y[None]
        self._check_fit(x.shape[1])
        self._memory = self._adapt(jax.random.split(key, len(x)), self._params, (x, y))
        self._batch = batch

    def predict(self, inputs: ArrayLike) -> NDArray[np.float32]:
        """Predict the targets of inputs of the task that the learner has adapted to.

        A network that normalises over batches uses all inputs of a call, unless the setting ``transductive`` is false:
        the prediction of an input then depends on the other inputs of its task.

        Args:
            inputs: Q inputs, ``[Q, ...]``; after adaptation to a batch of tasks, ``[tasks, Q, ...]``.

        Returns:
            ``[Q, outputs]``, or ``[tasks, Q, outputs]``: vectors, or the logits of the classes, whose ``argmax`` is the
            predicted class.

        Raises:
            ValueError: if the learner has not adapted yet, or if the inputs have another shape or dtype or a number
                that is not finite.
        """
        if self._memory is None:
            raise ValueError("the learner has not adapted to a task yet: call adapt first")
        x = self._inputs("inputs", inputs)
        batch = x.shape[0] if x.ndim == len(self._examples.shape) + 2 else None
        if batch != self._batch:
            one = f"[Q, {self._dimensions()}]"
            wanted = one if self._batch is None else f"[{self._batch}, {one[1:]}"
            raise ValueError(f"inputs must have shape {wanted}, as the examples before, not {list(x.shape)}")
        found = np.asarray(self._predict(self._params, self._memory, x[None] if batch is None else x))
        return found[0] if batch is None else found

    # ------------------------------------------------------------------------------------------------------- internals

    def _dimensions(self) -> str:
        return ", ".join(map(str, self._examples.shape))

    def _inputs(self, name: str, value: ArrayLike) -> NDArray[np.float32]:
        """Return inputs of one task or of a batch of tasks."""
        array, shape = numbers(name, value, np.float32), self._examples.shape
        leading = array.ndim - len(shape)
        if leading not in (1, 2) or array.shape[leading:] != shape or 0 in array.shape[:leading]:
            one = f"[N, {self._dimensions()}]"
            raise ValueError(f"{name} must have shape {one} or [tasks, {one[1:]}, not {list(array.shape)}")
        _check_finite(name, array)
        return array

    def _check_fit(self, number: int) -> None:
        """Check by tracing that the learner takes a support of a number of examples.

        Raises:
            ValueError: if it does not.
        """
        if number in self._fitting:
            return
        shape, outputs, classes = self._examples.shape, self._examples.outputs, self._examples.classes
        y = jax.ShapeDtypeStruct((number,) if classes else (number, outputs), jnp.int32 if classes else jnp.float32)
        support = jax.ShapeDtypeStruct((number, *shape), jnp.float32), y

        def both(key: Key, support: Any, x: Array) -> Array:
            return self._predicting.predict(self._params, self._predicting.adapt(key, self._params, support), x)

        try:
            found = jax.eval_shape(both, jax.random.key(0), support, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        except Exception as error:  # A network of other sizes raises exceptions of its library.
            text = " ".join(str(error).split())[:300]
            raise ValueError(
                f"the learner does not take {number} examples of shape [{self._dimensions()}]: {text}"
            ) from error
        if found.shape != (1, outputs):
            raise ValueError(f"the learner predicts {list(found.shape)}, but the family's prediction is [1, {outputs}]")
        self._fitting.add(number)


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")


@functools.lru_cache(maxsize=16)
def _compiled(predicting: Predicting) -> tuple[Any, Any]:
    """Return ``adapt`` and ``predict``, vectorised over tasks and compiled once for all learners of an algorithm."""
    adapt = jax.jit(jax.vmap(predicting.adapt, (0, None, 0)))
    return adapt, jax.jit(jax.vmap(predicting.predict, (None, 0, 0)))
