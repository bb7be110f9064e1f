"""Checks of task families: whether their functions return values that learners can use.

    from metarl_jax.family_checks import check_family

    check_family(family)  # raises a ValueError that says what is wrong and what to change

``check_family`` traces every function of a family, and then plays a few episodes with random actions. Algorithms call
``check_shapes``, which only traces: nothing compiles, and it takes milliseconds.

Some properties are not checked, because a few episodes cannot show them. These properties are that every action has an
effect of its own, that held-out tasks differ from training tasks, that rewards are correct, and that an environment
plays the task that it is given. An environment that draws a new task at every reset cannot be distinguished from one
whose episodes begin at random states.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from metarl_jax import host_calls
from metarl_jax.checks import positive_int
from metarl_jax.interfaces.few_shot import FewShot, FewShotTask, InContextProblem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.rollout import has_step_env, trial
from metarl_jax.tracing import (
    abstract,
    abstract_action,
    abstract_key,
    abstract_transition,
    describe,
    describe_space,
    difference,
    explain,
    is_array,
    is_number,
    narrow,
    stacked,
    trace,
)
from metarl_jax.types import (
    Arm,
    Array,
    Box,
    Carry,
    Discrete,
    EnvFamily,
    Environment,
    HostEnvironment,
    Inputs,
    Key,
    Outcomes,
    Privileged,
    Space,
    Task,
    TaskDistribution,
    Tree,
)

EPISODES = 2
"""The number of episodes that the checks play on each task. The second one shows whether a new episode begins after the
end of the first one."""


def check_family(family: EnvFamily | FewShot, *, key: Key | None = None, num_tasks: int = 4) -> None:
    """Check that learners can use a family of tasks.

    The checks of ``check_shapes`` come first. Then ``num_tasks`` training tasks and as many held-out tasks are drawn,
    and one compiled program plays two episodes with random actions on each. It is checked that

    * observations are finite and lie in the family's observation space;
    * rewards, privileged rewards and optimal returns are finite;
    * no episode is longer than ``horizon``, and a new episode begins when one ends;
    * ``reset`` and ``step`` return the same values for the same arguments, and do not change a task that the state
      contains;
    * the spaces that the environment itself declares, if any, equal those of the family for each task.

    For a ``FewShot`` family, it is checked that examples are finite, that labels are class indices below ``outputs``,
    and that a query is not a copy of its support.

    Args:
        family: a family of reinforcement-learning tasks, or of few-shot supervised tasks.
        key: the random key from which tasks and episodes are drawn; ``jax.random.key(0)`` if None.
        num_tasks: the number of training tasks, and the number of held-out tasks, that are drawn.

    Raises:
        ValueError: for the first thing that is wrong. The message is one line that says what is wrong, which values
            were found, which are valid, and what to change. If a function raised an error, this error is the cause.
    """
    positive_int("num_tasks", num_tasks)
    key = jax.random.key(0) if key is None else key
    if isinstance(family, FewShot):
        check_few_shot(family)
        _check_examples(key, family, num_tasks)
    else:
        shapes = check_shapes(family)
        _check_repeats(family, shapes)
        _check_episodes(key, family, num_tasks)


class Shapes(NamedTuple):
    """The shapes and dtypes of a task, an observation and an action of a family."""

    task: Task
    observation: Any
    action: Any


# ---------------------------------------------------------------------------------------------- reinforcement learning


def check_shapes(family: EnvFamily, *, episodes: int = EPISODES, discount: Any = 0.9) -> Shapes:
    """Check the parts, spaces, shapes and dtypes of a family, by tracing its functions. Nothing compiles.

    Args:
        family: a family of reinforcement-learning tasks.
        episodes: number of episodes of the trial with which the rewards of ``privileged`` are traced.
        discount: the discount with which these rewards are traced.

    Returns:
        The shapes and dtypes of a task, an observation and an action.

    Raises:
        ValueError: in one line, for the first thing that is wrong. If a function raised an error, it is the cause.
    """
    _check_parts(family)
    _check_space("observation_space", family.observation_space)
    _check_space("action_space", family.action_space)
    limits: list[Any] = []
    task = _check_tasks(family.tasks, lambda task: limits.append(getattr(task, "max_steps_in_episode", None)))
    for limit in limits:
        _check_limit(family.horizon, limit)
    _check_own_spaces_traced(family, task)
    observation = narrow(_check_environment(family, task))
    action = abstract_action(family.action_space)
    _check_functions(family, Shapes(task, observation, action), episodes, discount)
    return Shapes(task, observation, action)


def _check_parts(family: Any) -> None:
    if not isinstance(family, EnvFamily):
        call = ": call it first" if callable(family) else ""
        raise ValueError(f"family must be a metarl_jax.types.EnvFamily, not {_kind(family)}{call}")
    for name in ("reset", "step"):
        if not callable(getattr(family.env, name, None)):
            raise ValueError(
                f"env ({_kind(family.env)}) must have a method {name}: see metarl_jax.types.AutoResetEnvironment"
            )
    if isinstance(family.env, type):
        raise ValueError(f"env must be an environment, not the class {family.env.__qualname__}: call it")
    _check_callables(family.tasks, TaskDistribution, "tasks", "sample", "sample_heldout")
    positive_int("horizon", family.horizon)
    for name in ("optimal_return", "success", "render"):
        _check_optional(name, getattr(family, name))
    privileged = family.privileged
    if privileged is None:
        return
    _check_callables(privileged, Privileged, "privileged")
    for name in ("training_reward", "belief_reward", "optimal_action"):
        _check_optional(f"privileged.{name}", getattr(privileged, name))
    if privileged.arm is not None:
        _check_callables(privileged.arm, Arm, "privileged.arm", "observe", "outcomes", "features")
        if not isinstance(family.action_space, Discrete):
            raise ValueError(
                "privileged.arm is for families of bandits, whose actions are discrete, not "
                f"{describe_space(family.action_space)}"
            )


def _check_optional(name: str, function: Any) -> None:
    if function is not None and not callable(function):
        raise ValueError(f"{name} must be a function or None, not {function!r}")


def _check_callables(value: Any, kind: type, name: str, *functions: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be a metarl_jax.types.{kind.__name__}, not {_kind(value)}")
    for function in functions:
        if not callable(getattr(value, function)):
            raise ValueError(f"{name}.{function} must be a function, not {getattr(value, function)!r}")


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    if value is None:
        return "None"
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _check_space(name: str, space: Any) -> None:
    match space:
        case Discrete(n=n):
            positive_int(f"{name}.n", n)
        case Box(low=low, high=high, shape=shape):
            if not isinstance(shape, tuple) or not all(_is_size(size) for size in shape):
                raise ValueError(f"{name}.shape must be a tuple of whole numbers of at least 0, not {shape!r}")
            bounds = _bounds(name, low, high, shape)
            if bounds is None:
                return
            # An observation may have entries that never change.
            crossed = bounds[0] >= bounds[1] if name == "action_space" else bounds[0] > bounds[1]
            if np.any(crossed):
                where = _first(crossed)
                relation = "below" if name == "action_space" else "at most"
                raise ValueError(
                    f"{name}.low must be {relation} {name}.high: at index {where} low is {bounds[0][where]:g} and high "
                    f"is {bounds[1][where]:g}"
                )
        case _:
            raise ValueError(
                f"{name} must be a metarl_jax.types.Discrete or Box, not {_kind(space)}: write Discrete(n), or "
                "Box(low, high, shape)"
            )


def _is_size(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 0


def _bounds(name: str, low: Any, high: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bounds of a box, broadcast to its shape; None if they are tracers, which have no values."""
    found = []
    for which, bound in (("low", low), ("high", high)):
        try:
            array = np.asarray(bound, float)
            found.append(np.broadcast_to(array, shape))
        except jax.errors.TracerArrayConversionError:
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name}.{which} must be a number, or an array that broadcasts to the shape {shape}, not {bound!r}"
            ) from error
        if np.any(np.isnan(array)):
            raise ValueError(f"{name}.{which} must not be NaN; a space without bounds has -jnp.inf and jnp.inf")
    return found[0], found[1]


def _check_tasks(tasks: TaskDistribution, look: Callable[[Task], Any] = lambda task: None) -> Task:
    """Return the shapes of a task.

    ``look`` is called with a training task and with a held-out task while they are traced.
    """

    def traced(name: str, sample: Callable[[Key], Task]) -> Task:
        def seen(key: Key) -> Task:
            task = sample(key)
            look(task)
            return task

        return trace(f"tasks.{name}", seen, abstract_key(), hint="a task is a tree of arrays, and its argument a key")

    training, heldout = (traced(name, getattr(tasks, name)) for name in ("sample", "sample_heldout"))
    differs = difference("a task of tasks.sample", training, "a task of tasks.sample_heldout", heldout)
    if differs is not None:
        raise ValueError(
            f"training tasks and held-out tasks must have the same structure, shapes and dtypes: {differs}"
        )
    if tasks.training is not None:
        _check_listed_tasks(tasks.training, training)
    return training


def _check_listed_tasks(listed: Task, task: Task) -> None:
    """Check that all training tasks, ``[N, ...]``, have the structure and shapes of a task."""
    sizes = {np.shape(x)[:1] for x in jax.tree.leaves(listed)}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        found = ", ".join(sorted(str(list(np.shape(x))) for x in jax.tree.leaves(listed))) or "none"
        raise ValueError(
            "the arrays of tasks.training must have a leading axis [N] of all N training tasks, with N > 0; their "
            f"shapes are {found}"
        )
    one = jax.eval_shape(lambda: jax.tree.map(lambda x: jnp.asarray(x)[0], listed))
    differs = difference("a task of tasks.training", one, "a task of tasks.sample", task)
    if differs is not None:
        raise ValueError(f"all training tasks must have the structure, shapes and dtypes of one: {differs}")


def _check_limit(horizon: int, limit: Any) -> None:
    """Compare the horizon with the limit of steps of a task, if the task has one whose value is known."""
    if isinstance(limit, Tracer) or np.ndim(limit) != 0 or not np.issubdtype(np.asarray(limit).dtype, np.number):
        return
    if limit > horizon:
        raise ValueError(
            f"horizon is {horizon}, but max_steps_in_episode of a task is {limit:g}: set horizon to {limit:g}, or "
            f"max_steps_in_episode of all tasks to {horizon}"
        )


def _check_own_spaces_traced(family: EnvFamily, task: Task) -> None:
    for which in ("observation_space", "action_space"):
        own = getattr(family.env, which, None)
        if not callable(own):
            continue
        found: list[Any] = []
        try:
            jax.eval_shape(lambda task, own=own, found=found: found.append(own(task)), task)
        except Exception:
            # Learners do not call this function. ``check_family`` calls it with tasks that have values.
            continue
        _check_agreement(which, getattr(family, which), found[0])


def _check_agreement(which: str, ours: Space, own: Any) -> None:
    """Compare the family's space with that of the environment, as far as the sizes are known."""
    n, shape = getattr(own, "n", None), getattr(own, "shape", None)
    mend = f"set {which} of the family to that of the environment"
    if _is_size(n):
        if not isinstance(ours, Discrete) or ours.n != n:
            raise ValueError(f"{which} is {describe_space(ours)}, but env.{which}(task) is Discrete(n={n}): {mend}")
    elif (
        hasattr(own, "low")
        and hasattr(own, "high")
        and isinstance(shape, tuple)
        and not (isinstance(ours, Box) and ours.shape == shape)
    ):
        raise ValueError(f"{which} is {describe_space(ours)}, but env.{which}(task) is a Box of shape {shape}: {mend}")


def _check_environment(family: EnvFamily, task: Task) -> Any:
    """Check ``reset``, ``step`` and ``step_env`` of the environment; return the shape of an observation."""
    env, key = family.env, abstract_key()
    of_class = type(env).__qualname__
    reset, step = f"env.reset of {of_class}", f"env.step of {of_class}"
    begun = _several(reset, ("obs", "state"), trace(reset, env.reset, key, task))
    observation, state = begun["obs"], begun["state"]
    _check_observation(reset, observation, family.observation_space)
    action = abstract_action(family.action_space)
    hint = f"action is {describe(action)}, an element of action_space"
    if has_step_env(env):
        _check_step_env_is_current(env)
        name = f"env.step_env of {of_class}"
        parts = ("obs", "state", "reward", "terminated", "info")
        stepped = _several(name, parts, trace(name, env.step_env, key, state, action, task, hint=hint))
        _check_step(name, stepped, reset, begun)
        name = f"env.is_truncated of {of_class}"
        _check_scalar(name, "", trace(name, env.is_truncated, state, task))
    parts = ("obs", "state", "reward", "terminated", "truncated", "info")
    stepped = _several(step, parts, trace(step, env.step, key, state, action, task, hint=hint))
    _check_step(step, stepped, reset, begun)
    info = stepped["info"]
    if not isinstance(info, Mapping) or "final_observation" not in info:
        raise ValueError(
            f'the info that {step} returns must contain "final_observation", the observation after the action, '
            "before any reset"
        )
    differs = difference("the observation", observation, 'info["final_observation"]', info["final_observation"])
    if differs is not None:
        raise ValueError(
            f"{step} must return a final observation of the same shape and dtype as every other observation: {differs}"
        )
    _check_nothing_kept(env)
    return observation


def _check_step_env_is_current(env: Environment) -> None:
    """Refuse an environment whose ``step`` was overridden without its ``step_env``, which trials of one episode call.

    Attributes are searched in Python's order: those of the object itself come before those of its class. The class is
    also checked alone, because an object may replace both methods.
    """
    classes = [(cls.__qualname__, vars(cls)) for cls in type(env).__mro__]
    itself = f"an object of {type(env).__qualname__}", getattr(env, "__dict__", {})
    for places in ([itself, *classes], classes):
        (step_at, of_step), (step_env_at, of_step_env) = (
            next(
                ((at, name) for at, (name, attributes) in enumerate(places) if method in attributes), (len(places), "")
            )
            for method in ("step", "step_env")
        )
        if step_at < step_env_at:
            raise ValueError(
                f"step of {of_step} overrides that of {of_step_env}, but step_env is still that of {of_step_env}, "
                "and trials of one episode call step_env: override step_env instead of step, or set step_env = "
                f"None in {of_step}, so that step is always called"
            )


def _several(name: str, parts: tuple[str, ...], returned: Any) -> dict[str, Any]:
    """Return the values that a function returned, by name."""
    if isinstance(returned, tuple | list) and len(returned) == len(parts):
        return dict(zip(parts, returned, strict=True))
    wanted = f"{name} must return {len(parts)} values ({', '.join(parts)})"
    if not isinstance(returned, tuple | list):
        raise ValueError(f"{wanted}, not one")
    old = ", as in gymnax before 1.0 and in Gym, where done means terminated or truncated" if len(returned) == 5 else ""
    raise ValueError(f"{wanted}, not {len(returned)}{old}")


def _check_observation(name: str, observation: Any, space: Space) -> None:
    if not is_array(observation):
        raise ValueError(f"the observation that {name} returns must be one array, not {_kind(observation)}")
    found = describe(observation)
    match space:
        case Discrete(n=n):
            if observation.shape != () or not jnp.issubdtype(observation.dtype, jnp.integer):
                raise ValueError(
                    f"the observation that {name} returns is {found}, but observation_space is Discrete(n={n}), whose "
                    "elements are int32[]"
                )
        case Box(shape=shape):
            if observation.shape != shape:
                raise ValueError(
                    f"the observation that {name} returns is {found}, but observation_space is a Box of shape {shape}"
                )
            if not is_number(observation):
                raise ValueError(f"the observation that {name} returns must hold real numbers, but it is {found}")


def _check_step(name: str, stepped: Mapping[str, Any], reset: str, begun: Mapping[str, Any]) -> None:
    """Compare the values that a step returns with those that a reset returned."""
    for what, part in (("the observation", "obs"), ("the state", "state")):
        differs = difference(f"that of {reset}", begun[part], f"that of {name}", stepped[part])
        if differs is not None:
            raise ValueError(f"{what} must have the same structure, shapes and dtypes at every step: {differs}")
    for what in ("reward", "terminated", "truncated"):
        if what in stepped:
            _check_scalar(name, what, stepped[what])


def _check_scalar(name: str, what: str, value: Any) -> None:
    subject = f"the {what} that {name} returns" if what else f"the result of {name}"
    if not is_array(value) or value.shape != () or not is_number(value):
        found = describe(value) if is_array(value) else _kind(value)
        raise ValueError(f"{subject} must be a scalar number or bool, not {found}")


def _check_nothing_kept(env: Any) -> None:
    """Refuse an environment that keeps arrays of a traced call, as stateful ones do, because its next call fails."""
    for name, value in getattr(env, "__dict__", {}).items():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            raise ValueError(
                f"env.reset and env.step must not keep arrays on the environment: the attribute {name} of "
                f"{type(env).__qualname__} changed while they were traced; return it in the state"
            )


def _check_functions(family: EnvFamily, shapes: Shapes, episodes: int, discount: Any) -> None:
    """Trace the optional functions of a family."""
    task, one = shapes.task, abstract_transition(shapes.observation, shapes.action)
    steps = episodes * family.horizon
    many = stacked(one, steps)
    if family.optimal_return is not None:
        _check_returned("optimal_return", trace("optimal_return", family.optimal_return, task), ())
    if family.success is not None:
        _check_returned("success", trace("success", family.success, task, one), ())
    hint = f"it was given a trial of {episodes} episodes, with leaves [{steps}, ...]"
    privileged = family.privileged or Privileged()
    training_reward, belief_reward, arm = privileged.training_reward, privileged.belief_reward, privileged.arm
    if training_reward is not None:
        name = "privileged.training_reward"
        found = trace(name, lambda task, t: training_reward(task, t, discount), task, many, hint=hint)
        _check_returned(name, found, (steps,))
    if belief_reward is not None:
        name = "privileged.belief_reward"
        found = trace(name, lambda t: belief_reward(t, discount), many, hint=hint)
        _check_returned(name, found, (steps,))
    if privileged.optimal_action is not None:
        name = "privileged.optimal_action"
        found = trace(name, privileged.optimal_action, task, many, hint=hint)
        wanted = jax.ShapeDtypeStruct(many.action.shape, many.action.dtype)
        if differs := difference("the actions of the trial", wanted, f"the result of {name}", found):
            raise ValueError(f"{name} must return an action for each step: {differs}")
    if arm is not None:
        _check_arm(arm)


def _check_returned(name: str, found: Any, shape: tuple[int, ...]) -> None:
    if not is_array(found) or found.shape != shape or not is_number(found):
        got = describe(found) if is_array(found) else _kind(found)
        wanted = f"numbers of shape {list(shape)}, one for each step" if shape else "a scalar"
        raise ValueError(f"{name} must return {wanted}, not {got}")


def _check_arm(arm: Arm) -> None:
    belief = jax.eval_shape(lambda: arm.prior)
    after = trace("privileged.arm.observe", arm.observe, belief, abstract())
    differs = difference("privileged.arm.prior", belief, "the result of privileged.arm.observe", after)
    if differs is not None:
        raise ValueError(f"a belief must keep its structure, shapes and dtypes: {differs}")
    outcomes = trace("privileged.arm.outcomes", arm.outcomes, belief)
    if not isinstance(outcomes, Outcomes) or len(outcomes.reward.shape) != 1:
        raise ValueError(
            "privileged.arm.outcomes must return metarl_jax.types.Outcomes of rewards [O] and probabilities [O]"
        )
    if outcomes.probability.shape != outcomes.reward.shape:
        raise ValueError(
            "privileged.arm.outcomes must return a probability for each reward: rewards are "
            f"{describe(outcomes.reward)}, and probabilities {describe(outcomes.probability)}"
        )
    features = trace("privileged.arm.features", arm.features, belief)
    if not is_array(features) or len(features.shape) != 1:
        raise ValueError(f"privileged.arm.features must return a vector [F], not {features}")


# ------------------------------------------------------------------------------------------------------------- values


def _drawn(key: Key, tasks: TaskDistribution, num_tasks: int) -> Task:
    """Draw ``num_tasks`` training tasks and then as many held-out tasks, stacked on a leading axis."""
    keys = jax.random.split(key, 2 * num_tasks)
    training, heldout = jax.vmap(tasks.sample)(keys[:num_tasks]), jax.vmap(tasks.sample_heldout)(keys[num_tasks:])
    return jax.tree.map(lambda *x: jnp.concatenate(x), training, heldout)


def _check_repeats(family: EnvFamily, shapes: Shapes) -> None:
    """Check that the results of an environment depend on its arguments only.

    Two traces of a pure function give the same program. They differ if the function draws numbers from NumPy, or counts
    its own calls. Addresses of Python functions may differ and are ignored.
    """
    env, key = family.env, abstract_key()
    state = jax.eval_shape(env.reset, key, shapes.task)[1]
    calls = {"reset": (env.reset, (key, shapes.task)), "step": (env.step, (key, state, shapes.action, shapes.task))}
    for name, (function, arguments) in calls.items():
        # A new function each time, because JAX would take the first trace from its cache.
        first, second = (jax.make_jaxpr(lambda *a, f=function: f(*a))(*arguments) for _ in range(2))
        # Constants are compared as bytes, so that NaN equals NaN.
        constants = ([np.asarray(_raw(x)).tobytes() for x in jaxpr.consts] for jaxpr in (first, second))
        if next(constants) != next(constants) or _ADDRESS.sub("", str(first)) != _ADDRESS.sub("", str(second)):
            raise ValueError(
                f"env.{name} must be a function of its arguments, but two traces of it differ: draw random numbers "
                "from the key with jax.random, not NumPy, and keep nothing on the environment"
            )


_ADDRESS = re.compile(r"0x[0-9a-f]+")


def _which(index: int, num_tasks: int) -> str:
    return "a training task" if index < num_tasks else "a held-out task"


def _check_own_spaces(family: EnvFamily, each: list[Task]) -> None:
    """Compare the environment's spaces for some tasks with those of the family."""
    for which in ("observation_space", "action_space"):
        own, ours = getattr(family.env, which, None), getattr(family, which)
        if not callable(own):
            continue
        found = [_run(f"env.{which}", own, task) for task in each]
        for space in found:
            _check_agreement(which, ours, space)
        if isinstance(ours, Box) and all(hasattr(space, "low") and hasattr(space, "high") for space in found):
            _check_own_bounds(which, ours, found)


def _check_own_bounds(which: str, ours: Box, found: list[Any]) -> None:
    """Check that bounds that are equal for all tasks are also those of the family.

    If tasks have different bounds, nothing is checked.
    """
    for side in ("low", "high"):
        own = [np.broadcast_to(np.asarray(getattr(space, side), float), ours.shape) for space in found]
        mine = np.broadcast_to(np.asarray(getattr(ours, side), float), ours.shape)
        if all(np.array_equal(one, own[0]) for one in own) and not np.allclose(mine, own[0], rtol=1e-5, atol=0):
            where = _first(~np.isclose(mine, own[0], rtol=1e-5, atol=0))
            raise ValueError(
                f"{which}.{side} is {mine[where]:g} at index {where}, but that of env.{which}(task) is "
                f"{own[0][where]:g} in all tasks that were drawn: set {which} of the family to that of the environment"
            )


def _first(wrong: np.ndarray) -> tuple[int, ...]:
    """Return the first index at which an array is true."""
    return tuple(int(i[0]) for i in np.nonzero(wrong))


def _run(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.block_until_ready(function(*arguments))
    except Exception as error:
        failed = host_calls.cause(error)
        raise ValueError(explain(name, error) if failed is None else f"{name} fails: {failed}") from error


class _Played(NamedTuple):
    """Statistics of two episodes with random actions on one task."""

    lowest: Array
    """The smallest value of each entry of an observation, over all steps of both episodes."""
    highest: Array
    finite: Array
    """Whether all observations are finite."""
    rewards: dict[str, Array]
    """Whether all rewards are finite, by the name of the reward."""
    lengths: Array
    """``[2]`` int32: the number of steps of each episode; 0 if it did not end."""
    keeps_task: Array | None
    """Whether the task in the state is the task that was given. None: the state contains no task."""
    optimal_return: Array | None


def _check_episodes(key: Key, family: EnvFamily, num_tasks: int) -> None:
    @jax.jit
    def play(key: Key) -> tuple[Task, _Played]:
        key_tasks, key_play = jax.random.split(key)
        tasks = _drawn(key_tasks, family.tasks, num_tasks)
        keys = jax.random.split(key_play, 2 * num_tasks)
        return tasks, jax.vmap(lambda key, task: _play(key, family, task))(keys, tasks)

    tasks, played = jax.tree.map(np.asarray, _run("playing random episodes", play, key))
    each = [jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(2 * num_tasks)]
    for task in each:
        _check_limit(family.horizon, getattr(task, "max_steps_in_episode", None))
    _check_own_spaces(family, each)
    if played.keeps_task is not None and not np.all(played.keeps_task):
        raise ValueError(
            "env.reset and env.step must play the task that they are given, but the task in the state is another one: "
            "draw tasks in tasks.sample only"
        )
    _check_all(played.finite, "an observation", num_tasks)
    _check_range(family.observation_space, played)
    for name, finite in played.rewards.items():
        _check_all(finite, name, num_tasks)
    if played.optimal_return is not None:
        _check_all(np.isfinite(played.optimal_return), "optimal_return", num_tasks)
    _check_lengths(family.horizon, played.lengths, num_tasks)


def _check_all(finite: np.ndarray, name: str, num_tasks: int) -> None:
    if not np.all(finite):
        raise ValueError(f"{name} of {_which(int(np.argmin(finite)), num_tasks)} is not finite (NaN or infinite)")


def _play(key: Key, family: EnvFamily, task: Task) -> _Played:
    space, steps = family.action_space, EPISODES * family.horizon

    def act(key: Key, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, tuple[()]]:
        del inputs
        return carry, random_action(key, space), ()

    t = trial(key, act, (), family, task, EPISODES)[1]
    seen = jnp.concatenate([t.inputs.obs, t.final_obs])
    # Steps after the last episode do not count. Numbers that are not finite are reported separately.
    valid = jnp.tile(t.valid, 2).reshape(-1, *[1] * (seen.ndim - 1))
    finite = jnp.isfinite(seen)
    usual = jnp.where(valid & finite, seen, seen[:1])
    done = (t.terminated | t.truncated) & t.valid
    ends = [jnp.max(jnp.where(done & (t.episode == e), jnp.arange(steps) + 1, 0)) for e in range(EPISODES)]
    rewards = {"the reward": t.reward}
    privileged = family.privileged or Privileged()
    training_reward, belief_reward = privileged.training_reward, privileged.belief_reward
    if training_reward is not None:
        rewards["privileged.training_reward"] = training_reward(task, t, 0.9)
    if belief_reward is not None:
        rewards["privileged.belief_reward"] = belief_reward(t, 0.9)
    return _Played(
        lowest=jnp.min(usual, axis=0),
        highest=jnp.max(usual, axis=0),
        finite=jnp.all(finite | ~valid),
        rewards={name: jnp.all(jnp.isfinite(x) | ~t.valid) for name, x in rewards.items()},
        lengths=jnp.stack([ends[0], jnp.where(ends[1] > 0, ends[1] - ends[0], 0)]),
        keeps_task=_keeps_task(key, family, task),
        optimal_return=None if family.optimal_return is None else jnp.asarray(family.optimal_return(task)),
    )


def random_action(key: Key, space: Space) -> Array:
    """Draw a random action.

    It is uniform between finite bounds. Where a bound is infinite, it is normal and clipped to the bounds.
    """
    match space:
        case Discrete(n=n):
            return jax.random.randint(key, (), 0, n, jnp.int32)
        case Box(low=low, high=high, shape=shape):
            low, high = (np.broadcast_to(np.asarray(bound, np.float32), shape) for bound in (low, high))
            bounded = np.isfinite(low) & np.isfinite(high)
            within = jax.random.uniform(key, shape, jnp.float32, *(np.where(bounded, x, 0) for x in (low, high)))
            if np.all(bounded):
                return within
            return jnp.where(bounded, within, jnp.clip(jax.random.normal(key, shape, jnp.float32), low, high))


def _keeps_task(key: Key, family: EnvFamily, task: Task) -> Array | None:
    """Return whether every task in a state, after a reset and after a step, equals the given task.

    A task in a state is recognised by its class. None is returned if the task's class is no class of its own.
    """
    env = family.env
    state = env.reset(key, task)[1]
    if isinstance(env, HostEnvironment):
        env.release(state)
        return None
    if type(task) in (tuple, list, dict) or is_array(task):
        return None
    if not any(type(x) is type(task) for x in jax.tree.leaves(state, is_leaf=lambda x: type(x) is type(task))):
        return None
    after = env.step(key, state, random_action(key, family.action_space), task)[1]
    held = [
        x
        for tree in (state, after)
        for x in jax.tree.leaves(tree, is_leaf=lambda x: type(x) is type(task))
        if jax.tree.structure(x) == jax.tree.structure(task)
    ]
    return jnp.all(jnp.stack([_equal(x, task) for x in held]))


def _equal(one: Tree, other: Tree) -> Array:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    equal = [
        jnp.array_equal(_raw(a), _raw(b), equal_nan=jnp.issubdtype(_raw(a).dtype, jnp.floating)) for a, b in leaves
    ]
    return jnp.all(jnp.stack([jnp.bool_(True), *equal]))


def _raw(x: Any) -> Array:
    x = jnp.asarray(x)
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _check_range(space: Space, played: _Played) -> None:
    """Compare the lowest and highest entries of all observations with the bounds."""
    lowest, highest = np.min(played.lowest, axis=0), np.max(played.highest, axis=0)
    match space:
        case Discrete(n=n):
            if lowest < 0 or highest >= n:
                wrong = lowest if lowest < 0 else highest
                raise ValueError(
                    f"observation_space is Discrete(n={n}), whose elements are 0 to {n - 1}, but {wrong} was observed"
                )
        case Box(low=low, high=high, shape=shape):
            bounds = _bounds("observation_space", low, high, shape)
            assert bounds is not None
            for side, bound, outermost, sign in (("low", bounds[0], lowest, -1), ("high", bounds[1], highest, 1)):
                # Differences up to a millionth are rounding errors.
                beyond = sign * (outermost.astype(float) - bound) > 1e-6 * np.maximum(1, np.abs(bound))
                if np.any(beyond):
                    where = _first(beyond)
                    raise ValueError(
                        f"observation_space.{side} is {bound[where]:g} at index {where}, but {outermost[where]:g} was "
                        f"observed: widen the bounds, or clip the observation"
                    )


def _check_lengths(horizon: int, lengths: np.ndarray, num_tasks: int) -> None:
    """Check that the episodes, of lengths ``[N, 2]``, end within the horizon."""
    for index, (first, second) in enumerate(lengths):
        if first == 0 or first > horizon:
            raise ValueError(
                f"horizon is {horizon}, but an episode of {_which(index, num_tasks)} was still going on after "
                f"{horizon} steps: set horizon to the environment's own limit, or let step return truncated when the "
                "limit is reached"
            )
        if second == 0 or second > horizon:
            raise ValueError(
                f"horizon is {horizon}, but the second episode of {_which(index, num_tasks)} was still going on "
                f"after {horizon} steps, although the first one had ended: step must reset the state, including its "
                "count of steps, when an episode ends"
            )
    if np.all(lengths[:, 0] > 1) and np.all(lengths[:, 1] == 1):
        raise ValueError(
            f"the second episode of each task ended after one step, while the first ones lasted {lengths[:, 0].min()} "
            f"to {lengths[:, 0].max()}: step must return the observation and the state of a new episode when one ends"
        )


# ----------------------------------------------------------------------------------------------------------- few-shot


def check_few_shot(family: FewShot) -> FewShotTask:
    """Check the parts, shapes and dtypes of a family of few-shot tasks, by tracing its functions. Nothing compiles.

    Args:
        family: a family of few-shot supervised tasks.

    Returns:
        The shapes and dtypes of the examples of a task.

    Raises:
        ValueError: in one line, for the first thing that is wrong. If a function raised an error, it is the cause.
    """
    if not isinstance(family, FewShot):
        call = ": call it first" if callable(family) else ""
        raise ValueError(f"family must be a metarl_jax.interfaces.few_shot.FewShot, not {_kind(family)}{call}")
    _check_callables(family.tasks, TaskDistribution, "tasks", "sample", "sample_heldout")
    for name in ("draw", "loss", "score"):
        if not callable(getattr(family, name)):
            raise ValueError(f"{name} must be a function, not {getattr(family, name)!r}")
    positive_int("outputs", family.outputs)
    task = _check_tasks(family.tasks)
    episode = trace("draw", family.draw, abstract_key(), task)
    _check_shown(family, episode)
    for part, (_, y) in (("support", episode.support), ("query", episode.query)):
        prediction = abstract((y.shape[0], family.outputs))
        for name in ("loss", "score"):
            hint = f"it was given predictions {describe(prediction)} of the {part}, and y {describe(y)}"
            _check_real_scalar(name, trace(name, getattr(family, name), prediction, y, hint=hint))
    return episode


def _check_shown(family: FewShot, episode: Any) -> None:
    """Check the shapes and dtypes of the examples of a task."""
    if not isinstance(episode, FewShotTask):
        raise ValueError(
            f"draw must return a metarl_jax.interfaces.few_shot.FewShotTask(support, query), not {_kind(episode)}"
        )
    for part in ("support", "query"):
        examples = getattr(episode, part)
        pair = isinstance(examples, tuple | list) and len(examples) == 2 and all(map(is_array, examples))
        if not pair:
            raise ValueError(f"the {part} that draw returns must be a pair of arrays (x, y), not {_kind(examples)}")
        x, y = examples
        if not x.shape or not y.shape or x.shape[0] != y.shape[0] or x.shape[0] == 0:
            raise ValueError(
                f"the {part}'s x and y must have one leading axis of examples, but they are {describe(x)} and "
                f"{describe(y)}"
            )
        for name, array in (("x", x), ("y", y)):
            if not is_number(array):
                raise ValueError(f"the {part}'s {name} must hold real numbers or labels, but it is {describe(array)}")
        labels = jnp.issubdtype(y.dtype, jnp.integer) and len(y.shape) == 1
        if not labels and y.shape != (y.shape[0], family.outputs):
            raise ValueError(
                f"the {part}'s y is {describe(y)}, but outputs is {family.outputs}: y must be class indices, whole "
                f"numbers [{y.shape[0]}], or numbers [{y.shape[0]}, outputs]"
            )
    for index, name in enumerate("xy"):
        one, other = (jax.eval_shape(lambda x: x[0], getattr(episode, part)[index]) for part in ("support", "query"))
        differs = difference("one of the support", one, "one of the query", other)
        if differs is not None:
            raise ValueError(
                f"examples of support and query must have the same shapes and dtypes: for {name}, {differs}"
            )


def _check_examples(key: Key, family: FewShot, num_tasks: int) -> None:
    @jax.jit
    def draw(key: Key) -> FewShotTask:
        key_tasks, key_draw = jax.random.split(key)
        tasks = _drawn(key_tasks, family.tasks, num_tasks)
        return jax.vmap(family.draw)(jax.random.split(key_draw, 2 * num_tasks), tasks)

    episodes: FewShotTask = jax.tree.map(np.asarray, _run("drawing examples", draw, key))
    for part in ("support", "query"):
        x, y = getattr(episodes, part)
        for name, array in (("x", x), ("y", y)):
            for index, one in enumerate(array):
                if not np.all(np.isfinite(one.astype(float))):
                    raise ValueError(
                        f"the {part}'s {name} of {_which(index, num_tasks)} is not finite (NaN or infinite)"
                    )
        if y.ndim == 2 and np.issubdtype(y.dtype, np.integer) and (y.min() < 0 or y.max() >= family.outputs):
            raise ValueError(
                f"labels must be 0 to {family.outputs - 1}, as outputs is {family.outputs}, but the {part}'s y has "
                f"{y.min()} to {y.max()}"
            )
    if all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(episodes.support, episodes.query, strict=True)):
        raise ValueError("draw returns the support as the query: adaptation must be scored on other examples")


# ----------------------------------------------------------------------------------------------------------- problems


def check_problem(problem: InnerProblem) -> None:
    """Check the parts of a problem of gradient-based learners, by tracing its functions. Nothing compiles.

    For a problem with a policy, one episode is traced, which depends on the family and the policy only. For any other
    problem, batches of training tasks and of held-out tasks are traced, with their losses and scores.

    Args:
        problem: a problem of ``problems.few_shot`` or ``problems.policy_gradient``, or one made by the user.

    Raises:
        ValueError: in one line, for the first thing that is wrong. If a function raised an error, it is the cause.
    """
    if not isinstance(problem, InnerProblem):
        raise ValueError(
            f"problem must be a metarl_jax.interfaces.gradient.InnerProblem, not {_kind(problem)}: "
            "problems.few_shot and problems.policy_gradient make one from a family and a network"
        )
    _check_callables(problem.tasks, TaskDistribution, "tasks", "sample", "sample_heldout")
    key = abstract_key()
    params = trace("problem.init", problem.init, key)
    training, heldout = (
        trace(f"problem.tasks.{name}", getattr(problem.tasks, name), key) for name in ("sample", "sample_heldout")
    )
    if problem.policy is not None:
        trace("problem.policy.play", problem.policy.play, key, params, training)
        return
    # Held-out tasks may have numbers of examples that differ from those of training tasks.
    alike = difference("", training, "", heldout) is None
    for task in (training,) if alike else (training, heldout):
        support = trace("problem.support", problem.support, key, params, task)
        query = trace("problem.query", problem.query, key, params, task)
        for function, batch in (("inner_loss", support), ("outer_loss", query), ("score", query)):
            _check_real_scalar(
                f"problem.{function}", trace(f"problem.{function}", getattr(problem, function), params, batch)
            )


def _check_real_scalar(name: str, value: Any) -> None:
    if not is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        found = describe(value) if is_array(value) else _kind(value)
        raise ValueError(f"{name} must return a real scalar, not {found}")


def check_in_context_problem(problem: InContextProblem) -> None:
    """Check the parts of a problem of in-context learning, by tracing its functions. Nothing compiles.

    Args:
        problem: a problem of ``problems.in_context``, or one made by the user.

    Raises:
        ValueError: in one line, for the first thing that is wrong. If a function raised an error, it is the cause.
    """
    if not isinstance(problem, InContextProblem):
        raise ValueError(
            f"problem must be a metarl_jax.interfaces.few_shot.InContextProblem, not {_kind(problem)}: "
            "problems.in_context makes one from a family and a network"
        )
    _check_callables(problem.tasks, TaskDistribution, "tasks", "sample", "sample_heldout")
    key = abstract_key()
    params = trace("problem.learner.init", problem.learner.init, key)
    for name in ("sample", "sample_heldout"):
        episode = trace(f"problem.tasks.{name}", getattr(problem.tasks, name), key)
        if not isinstance(episode, FewShotTask):
            raise ValueError(
                f"problem.tasks.{name} must return a metarl_jax.interfaces.few_shot.FewShotTask, not {_kind(episode)}"
            )
        x, y = episode.query
        prediction = trace("problem.learner.predict", problem.learner.predict, params, episode.support, x)
        for function in ("loss", "score"):
            value = trace(f"problem.{function}", getattr(problem, function), prediction, y)
            _check_real_scalar(f"problem.{function}", value)
