"""Families with one fault each, and the expected messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from metarl_jax.datasets import glyphs, omniglot, sinusoid
from metarl_jax.environments import bandits, recommendation, tabular_mdp
from metarl_jax.environments.base import Environment
from metarl_jax.family_checks import (
    check_family,
    check_few_shot,
    check_in_context_problem,
    check_problem,
    check_shapes,
    random_action,
)
from metarl_jax.interfaces.few_shot import FewShot, FewShotTask
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.types import (
    Arm,
    Array,
    Box,
    Discrete,
    EnvFamily,
    Key,
    Outcomes,
    Privileged,
    TaskDistribution,
    Transition,
)

HORIZON = 5


class Goal(NamedTuple):
    """A task of the line."""

    place: Array
    """A float."""


class Walker(NamedTuple):
    position: Array
    time: Array


class Line:
    """A line from -9 to 9 with steps to the left, none, or to the right. An episode ends after five steps."""

    def reset(self, key: Key, params: Any) -> tuple[Any, ...]:
        del params
        position = jax.random.uniform(key, minval=-1.0)
        return position[None], Walker(position, jnp.int32(0))

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        position, time = jnp.clip(state.position + action - 1, -9, 9), state.time + 1
        over, begun = time >= HORIZON, Line.reset(self, key, params)
        after = jax.tree.map(lambda a, b: jnp.where(over, a, b), begun, (position[None], Walker(position, time)))
        reward = -jnp.abs(position - params.place)
        return *after, reward, jnp.bool_(False), over, {"final_observation": position[None]}

    def action_space(self, params: Any = None) -> Any:
        del params
        return Discrete(3)

    def observation_space(self, params: Any = None) -> Any:
        del params
        return Box(-9.0, 9.0, (1,))


def sample(key: Key) -> Goal:
    return Goal(jax.random.uniform(key))


def line(env: Any = None, **changes: Any) -> EnvFamily:
    """Make the family of lines with some of its fields changed."""
    env = Line() if env is None else env
    right = EnvFamily(env, TaskDistribution(sample, sample), HORIZON, Line().observation_space(), Discrete(3))
    return right._replace(**changes)


def returning(**changes: Callable[[Any], Any]) -> Any:
    """Make a line whose ``step`` returns changed values.

    Each function changes one of them, or all of them together.
    """

    class Changed(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> Any:
            names = ("obs", "state", "reward", "terminated", "truncated", "info")
            right = dict(zip(names, super().step(key, state, action, params), strict=True))
            whole = changes.get("whole", tuple)
            return whole(changes[name](value) if name in changes else value for name, value in right.items())

    return Changed()


def refused(family: Any, check: Callable[[Any], Any] = check_shapes) -> ValueError:
    """Return the error that a check raises, which must be one line."""
    with pytest.raises(ValueError) as raised:
        check(family)
    assert "\n" not in str(raised.value)
    return raised.value


def test_a_right_family_passes_and_its_shapes_are_returned() -> None:
    family = line(
        optimal_return=lambda task: -task.place,
        privileged=Privileged(
            training_reward=lambda task, t, discount: t.reward,
            belief_reward=lambda t, discount: discount * t.reward,
        ),
        success=lambda task, step: step.reward > -0.1,
    )
    shapes = check_shapes(family)
    assert shapes.observation == jax.ShapeDtypeStruct((1,), jnp.float32)
    assert shapes.action == jax.ShapeDtypeStruct((), jnp.int32)
    assert shapes.task == sample(jax.random.key(0))._replace(place=jax.ShapeDtypeStruct((), jnp.float32))
    check_family(family)
    check_family(family, key=jax.random.key(3), num_tasks=1)


def test_the_cheap_part_does_not_compile(caplog: pytest.LogCaptureFixture) -> None:
    family = line(optimal_return=lambda task: -task.place)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG):
        check_shapes(family)
        assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
        check_family(family)
        assert [record for record in caplog.records if "Compiling" in record.getMessage()]


# --------------------------------------------------------------------------------------------------- parts and spaces


class NoStep:
    def reset(self, key: Key, params: Any) -> Any: ...


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (line, "family must be a metarl_jax.types.EnvFamily, not a function: call it first"),
        (None, "family must be a metarl_jax.types.EnvFamily, not None"),
        (
            sinusoid.maml(2, 3),
            "family must be a metarl_jax.types.EnvFamily, not a metarl_jax.interfaces.few_shot.FewShot",
        ),
        (line(NoStep()), "env (a test_family_checks.NoStep) must have a method step"),
        (line(Line), "env must be an environment, not the class Line: call it"),
        (line(tasks=sample), "tasks must be a metarl_jax.types.TaskDistribution, not a function"),
        (line(tasks=TaskDistribution(sample, None)), "tasks.sample_heldout must be a function, not None"),  # pyright: ignore
        (line(horizon=0), "horizon must be a positive whole number, not 0"),
        (line(horizon=5.0), "horizon must be a positive whole number, not 5.0"),
        (line(optimal_return=1.0), "optimal_return must be a function or None, not 1.0"),
        (line(privileged=3), "privileged must be a metarl_jax.types.Privileged, not an int"),
        (line(privileged=Privileged(arm=3)), "privileged.arm must be a metarl_jax.types.Arm, not an int"),  # pyright: ignore
        (
            line(privileged=Privileged(belief_reward=1.0)),  # pyright: ignore[reportArgumentType]
            "privileged.belief_reward must be a function or None, not 1.0",
        ),
        (line(action_space=Discrete(0)), "action_space.n must be a positive whole number, not 0"),
        (line(action_space=4), "action_space must be a metarl_jax.types.Discrete or Box, not an int"),
        (
            line(observation_space=Box(0.0, 1.0, [1])),  # pyright: ignore[reportArgumentType]
            "observation_space.shape must be a tuple of whole numbers of at least 0, not [1]",
        ),
        (line(observation_space=Box(0.0, 1.0, (-1,))), "observation_space.shape must be a tuple"),
        (
            line(observation_space=Box(jnp.zeros(2), 1.0, (1,))),
            "observation_space.low must be a number, or an array that broadcasts to the shape (1,)",
        ),
        (line(observation_space=Box(-9.0, jnp.nan, (1,))), "observation_space.high must not be NaN"),
        (
            line(observation_space=Box(1.0, -1.0, (1,))),
            "observation_space.low must be at most observation_space.high: at index (0,) low is 1 and high is -1",
        ),
        (
            line(action_space=Box(0.0, jnp.array([1.0, 0.0]), (2,))),
            "action_space.low must be below action_space.high: at index (1,) low is 0 and high is 0",
        ),
        (
            line(action_space=Discrete(7)),
            "action_space is Discrete(n=7), but env.action_space(task) is Discrete(n=3): set action_space of the "
            "family to that of the environment",
        ),
        (
            line(action_space=Box(-1.0, 1.0, (2,))),
            "action_space is a Box of shape (2,), but env.action_space(task) is Discrete(n=3)",
        ),
        (
            line(observation_space=Box(-9.0, 9.0, (2,))),
            "observation_space is a Box of shape (2,), but env.observation_space(task) is a Box of shape (1,)",
        ),
        (
            line(observation_space=Discrete(9)),
            "observation_space is Discrete(n=9), but env.observation_space(task) is a Box of shape (1,)",
        ),
    ],
)
def test_parts_and_spaces(family: Any, message: str) -> None:
    assert message in str(refused(family))


def test_spaces_of_gymnax_are_not_those_of_a_family() -> None:
    from gymnax.environments import spaces

    message = str(refused(line(action_space=spaces.Discrete(3))))
    assert (
        "action_space must be a metarl_jax.types.Discrete or Box, not a gymnax.environments.spaces.Discrete" in message
    )
    assert "write Discrete(n)" in message


def test_entries_that_never_change_are_valid_in_observations_and_not_in_actions() -> None:
    constant = Box(0.0, 0.0, (1,))

    class Still(Line):
        observation_space: Any = None

    check_shapes(line(Still(), observation_space=constant))
    assert "action_space.low must be below" in str(refused(line(action_space=constant)))


def test_more_actions_than_the_tasks_have_arms() -> None:
    """JAX would replace indices beyond the last arm by that of the last arm, so the check refuses them."""
    few = bandits.bernoulli(4)
    wanted = "action_space is Discrete(n=7), but env.action_space(task) is Discrete(n=4)"
    assert wanted in str(refused(few._replace(action_space=Discrete(7))))
    # The environment declares the number itself, and tasks have fewer arms.
    assert wanted in str(refused(bandits.bernoulli(7)._replace(tasks=few.tasks)))
    users = recommendation.made_up(6)
    message = refused(recommendation.made_up(9)._replace(tasks=users.tasks))
    assert "action_space is Discrete(n=9), but env.action_space(task) is Discrete(n=6)" in str(message)
    small = tabular_mdp.make(states=4, actions=3, horizon=5)
    message = refused(tabular_mdp.make(states=4, actions=5, horizon=5)._replace(tasks=small.tasks))
    assert "action_space is Discrete(n=5), but env.action_space(task) is Discrete(n=3)" in str(message)
    message = refused(tabular_mdp.make(states=6, actions=3, horizon=5)._replace(tasks=small.tasks))
    assert "observation_space is a Box of shape (6,), but env.observation_space(task) is a Box of shape (4,)" in str(
        message
    )


# -------------------------------------------------------------------------------------------------------------- tasks


def test_heldout_tasks_of_another_shape() -> None:
    family = line(tasks=TaskDistribution(sample, lambda key: Goal(jax.random.uniform(key, (2,)))))
    assert str(refused(family)) == (
        "training tasks and held-out tasks must have the same structure, shapes and dtypes: place is float32[] in a "
        "task of tasks.sample, and float32[2] in a task of tasks.sample_heldout"
    )


def test_heldout_tasks_of_another_dtype_or_structure() -> None:
    family = line(tasks=TaskDistribution(sample, lambda key: Goal(jnp.int32(1))))
    assert "place is float32[] in a task of tasks.sample, and int32[] in" in str(refused(family))
    family = line(tasks=TaskDistribution(sample, lambda key: {"place": jax.random.uniform(key)}))
    assert "a task of tasks.sample has place, which a task of tasks.sample_heldout does not have" in str(
        refused(family)
    )
    family = line(tasks=TaskDistribution(lambda key: (), sample))
    assert "a task of tasks.sample_heldout has place, which a task of tasks.sample does not have" in str(
        refused(family)
    )

    @struct.dataclass
    class Static:
        place: Array
        size: int = struct.field(pytree_node=False)

    tasks = TaskDistribution(*(lambda key, n=n: Static(jax.random.uniform(key), n) for n in (1, 2)))
    assert "a task of tasks.sample is a PyTreeDef" in str(refused(line(tasks=tasks)))


def test_listed_training_tasks_have_an_axis_of_tasks_and_the_shapes_of_a_task() -> None:
    def listing(training: Any) -> EnvFamily:
        return line(tasks=TaskDistribution(sample, sample, training=training))

    check_family(listing(Goal(jnp.zeros(5))))
    for training, found in ((Goal(jnp.float32(0)), "[]"), (Goal(jnp.zeros(0)), "[0]"), ((), "none")):
        assert str(refused(listing(training))).endswith(f"with N > 0; their shapes are {found}")
    message = str(refused(listing(Goal(jnp.zeros((5, 2))))))
    assert "place is float32[2] in a task of tasks.training, and float32[] in a task of tasks.sample" in message


def test_tasks_that_are_not_trees_of_arrays() -> None:
    message = str(refused(line(tasks=TaskDistribution(lambda key: "left", lambda key: "left"))))
    assert message.startswith("tasks.sample fails: TypeError")
    assert "a task is a tree of arrays" in message


class Limited(NamedTuple):
    place: Array
    max_steps_in_episode: int


@pytest.mark.parametrize("limit", [10, np.int64(10), np.float32(10)])
def test_a_horizon_below_the_tasks_own_limit(limit: Any) -> None:
    tasks = TaskDistribution(*2 * (lambda key: Limited(jax.random.uniform(key), limit),))
    assert str(refused(line(tasks=tasks))) == (
        "horizon is 5, but max_steps_in_episode of a task is 10: set horizon to 10, or max_steps_in_episode of all "
        "tasks to 5"
    )
    check_shapes(line(tasks=tasks, horizon=10))
    # A limit below the horizon is valid.
    check_shapes(line(tasks=tasks, horizon=11))


def test_a_limit_that_is_drawn_is_compared_when_tasks_are_drawn() -> None:
    def limited(key: Key) -> Limited:
        return Limited(jax.random.uniform(key), jax.random.randint(key, (), 6, 9))  # pyright: ignore[reportArgumentType]

    family = line(tasks=TaskDistribution(limited, limited))
    check_shapes(family)
    message = str(refused(family, check_family))
    assert any(f"horizon is 5, but max_steps_in_episode of a task is {n}" in message for n in (6, 7, 8))


# -------------------------------------------------------------------------------------------------- what cannot compile


def _branches(state: Any) -> Any:
    if state.time > 3:
        return state.position
    return -state.position


PYTHON: dict[str, Callable[[Any], Any]] = {
    "if": _branches,
    "int": lambda state: state.position * int(state.time),
    "float": lambda state: float(state.position),
    "numpy": lambda state: np.sin(state.position),
    "index": lambda state: [1.0, 2.0, 3.0][state.time],
    "mask": lambda state: jnp.sum(state.position[None][state.position[None] > 0]),
    "loop": lambda state: sum(range(state.time)) + state.position,
}


@pytest.mark.parametrize("kind", PYTHON)
def test_python_on_traced_arrays_names_the_function_and_the_remedy(kind: str) -> None:
    class Pythonic(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
            obs, after, _, *rest = super().step(key, state, action, params)
            return obs, after, PYTHON[kind](state), *rest

    error = refused(line(Pythonic()))
    message = str(error)
    assert "env.step of" in message
    assert "Pythonic cannot be compiled: it needs the value of an array while JAX traces it" in message
    assert "(test_family_checks.py, line " in message
    assert "use jnp.where or jax.lax.cond in place of a Python if" in message
    assert error.__cause__ is not None
    assert not isinstance(error.__cause__, ValueError)


def test_the_line_at_fault_is_shown() -> None:
    class Pythonic(Line):
        def reset(self, key: Key, params: Any) -> tuple[Any, ...]:
            return super().reset(key, Goal(float(params.place)))  # pyright: ignore[reportArgumentType]

    message = str(refused(line(Pythonic())))
    assert "env.reset of" in message
    assert ": return super().reset(key, Goal(float(params.place)))" in message


@pytest.mark.parametrize("which", ["sample", "sample_heldout"])
def test_a_sampler_that_branches_is_named(which: str) -> None:
    def branching(key: Key) -> Goal:
        return Goal(jnp.float32(1 if jax.random.uniform(key) > 0.5 else 0))

    tasks = TaskDistribution(sample, sample)._replace(**{which: branching})
    assert f"tasks.{which} cannot be compiled" in str(refused(line(tasks=tasks)))


def test_another_error_is_reported_with_its_place() -> None:
    class Wrong(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
            return super().step(key, state, action, params.goal)

    error = refused(line(Wrong()))
    assert "Wrong fails (test_family_checks.py, line " in str(error)
    assert ": AttributeError: 'Goal' object has no attribute 'goal'" in str(error)
    assert isinstance(error.__cause__, AttributeError)


def test_arrays_that_are_kept_on_the_environment() -> None:
    class Stateful(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
            self.last = action
            return super().step(key, state, action, params)

    message = str(refused(line(Stateful())))
    assert "env.reset and env.step must not keep arrays on the environment: the attribute last of" in message
    assert "return it in the state" in message


# --------------------------------------------------------------------------------------------------- shapes and dtypes


class ResetAlone(Line):
    def reset(self, key: Key, params: Any) -> Any:
        return super().reset(key, params)[0]


class ResetOfThree(Line):
    def reset(self, key: Key, params: Any) -> Any:
        return *super().reset(key, params), {}


class Ints(Line):
    """A family of a discrete space whose observations are floats."""

    def observation_space(self, params: Any = None) -> Discrete:
        return Discrete(19)


def _with(**info: Any) -> Callable[[Any], Any]:
    return lambda _: info


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (line(ResetAlone()), "env.reset of ResetAlone must return 2 values (obs, state), not one"),
        (line(ResetOfThree()), "env.reset of ResetOfThree must return 2 values (obs, state), not 3"),
        (
            line(returning(whole=lambda values: list(values)[:5])),
            "must return 6 values (obs, state, reward, terminated, truncated, info), not 5, as in gymnax before 1.0",
        ),
        (
            line(Ints(), observation_space=Discrete(19)),
            "the observation that env.reset of Ints returns is float32[1], but observation_space is Discrete(n=19)",
        ),
        (
            line(returning(obs=lambda obs: obs[0])),
            "the observation must have the same structure, shapes and dtypes at every step: that of env.reset of",
        ),
        (line(returning(obs=lambda obs: obs[0])), "is float32[1], and that of env.step of"),
        (line(returning(obs=lambda obs: obs.astype(jnp.int32))), "is int32[1]"),
        (
            line(returning(state=lambda state: state._replace(time=jnp.float32(state.time)))),
            "time is int32[] in that of env.reset of",
        ),
        (line(returning(state=lambda state: (*state, 1))), "the state must have the same structure"),
        (line(returning(reward=lambda reward: reward[None])), "must be a scalar number or bool, not float32[1]"),
        (line(returning(reward=lambda reward: 1j * reward)), "must be a scalar number or bool, not complex64[]"),
        (line(returning(terminated=lambda x: x[None])), "the terminated that env.step of"),
        (line(returning(truncated=lambda x: (x, x))), "the truncated that env.step of"),
        (line(returning(info=_with())), 'must contain "final_observation"'),
        (line(returning(info=lambda info: None)), 'must contain "final_observation"'),
        (
            line(returning(info=_with(final_observation=jnp.zeros(2)))),
            'the observation is float32[1], and info["final_observation"] is float32[2]',
        ),
        (line(optimal_return=lambda task: jnp.zeros(2)), "optimal_return must return a scalar, not float32[2]"),
        (line(success=lambda task, step: step.inputs.obs > 0), "success must return a scalar, not bool[1]"),
        (
            line(privileged=Privileged(training_reward=lambda task, t, discount: jnp.sum(t.reward))),
            "privileged.training_reward must return numbers of shape [10], one for each step, not float32[]",
        ),
        (
            line(privileged=Privileged(training_reward=lambda task, t, discount: t.reward * jnp.ones(HORIZON))),
            "privileged.training_reward fails (test_family_checks.py, line ",
        ),
        (
            line(privileged=Privileged(belief_reward=lambda t, discount: t.reward[:, None])),
            "privileged.belief_reward must return numbers of shape [10], one for each step, not float32[10, 1]",
        ),
        (line(optimal_return=lambda task: float(task.place)), "optimal_return cannot be compiled"),
    ],
)
def test_shapes_and_dtypes(family: EnvFamily, message: str) -> None:
    assert message in str(refused(family))


def test_widths_do_not_matter_with_64_bit_types() -> None:
    """A user's environment may mix numbers of 32 and of 64 bits, which are equal without 64-bit types."""

    class Mixed(Line):
        def reset(self, key: Key, params: Any) -> tuple[Any, ...]:
            obs, state = super().reset(key, params)
            return obs.astype(jnp.float32), state._replace(time=jnp.int64(0))

    def mixed(obs: Array) -> Array:
        return obs.astype(jnp.float64)

    with jax.enable_x64(True):
        assert check_shapes(line(Mixed())).observation == jax.ShapeDtypeStruct((1,), jnp.float32)
        assert check_shapes(line(returning(obs=mixed))).observation.dtype == jnp.float32
        assert "is int32[1]" in str(refused(line(returning(obs=lambda obs: obs.astype(jnp.int32)))))


def test_an_observation_that_does_not_lie_in_the_familys_space_by_its_shape() -> None:
    class Silent(Line):
        observation_space: Any = None

    message = str(refused(line(Silent(), observation_space=Box(-9.0, 9.0, (2,)))))
    assert "returns is float32[1], but observation_space is a Box of shape (2,)" in message


@struct.dataclass
class Clock:
    time: Array


class Clocks(Environment):
    """An environment like those of gymnax, whose base class adds the reset."""

    def reset_env(self, key: Key, params: Any) -> tuple[Array, Clock]:
        del key, params
        return jnp.zeros(2), Clock(jnp.int32(0))

    def step_env(self, key: Key, state: Clock, action: Array, params: Any) -> tuple[Any, ...]:
        del key, action, params
        return jnp.ones(2), Clock(state.time + 1), jnp.float32(0), jnp.bool_(False), {}

    def action_space(self, params: Any = None) -> Discrete:
        return Discrete(2)

    def observation_space(self, params: Any = None) -> Box:
        return Box(0.0, 1.0, (2,))


def clocks(env: Clocks) -> EnvFamily:
    tasks = TaskDistribution(*2 * (lambda key: Limited(jax.random.uniform(key), HORIZON),))
    return EnvFamily(env, tasks, HORIZON, Box(0.0, 1.0, (2,)), Discrete(2))


def test_step_env_of_an_environment_like_gymnaxs_is_checked_before_the_base_class_mixes_it_with_a_reset() -> None:
    check_family(clocks(Clocks()))

    class Halves(Clocks):
        def step_env(self, key: Key, state: Clock, action: Array, params: Any) -> tuple[Any, ...]:
            obs, *rest = super().step_env(key, state, action, params)
            return obs.astype(jnp.float16), *rest

    assert "Halves is float32[2], and that of env.step_env of" in str(refused(clocks(Halves())))

    class Wide(Clocks):
        def step_env(self, key: Key, state: Clock, action: Array, params: Any) -> tuple[Any, ...]:
            return jnp.ones((3, 2)), *super().step_env(key, state, action, params)[1:]

    assert "is float32[3, 2]" in str(refused(clocks(Wide())))

    class Both(Clocks):
        def is_truncated(self, state: Clock, params: Any) -> Array:
            return jnp.stack([state.time > 1, state.time > 2])

    assert "Both must be a scalar number or bool, not bool[2]" in str(refused(clocks(Both())))


class Paying(Clocks):
    """A class that overrides ``step`` and inherits ``step_env``."""

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        obs, state, reward, *rest = super().step(key, state, action, params)
        return obs, state, reward + 1, *rest


def test_step_must_not_be_overridden_without_step_env() -> None:
    message = str(refused(clocks(Paying())))
    assert "step of Paying overrides that of Clocks, but step_env is still that of Clocks" in message
    assert "set step_env = None in Paying" in message
    replaced, both = Clocks(), Paying()
    replaced.step = both.step
    assert "step of an object of Clocks overrides that of Clocks" in str(refused(clocks(replaced)))
    # The class is checked even if an object replaces its methods by equivalent ones, as ``from_gymnax`` does.
    both.step, both.step_env = both.step, both.step_env
    assert "step of Paying overrides that of Clocks" in str(refused(clocks(both)))


class StepAlone(Paying):
    """A class that declares that only its ``step`` may be called."""

    step_env: Any = None

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        return Paying().step(key, state, action, params)


def test_step_alone_may_be_overridden_if_step_env_is_none() -> None:
    check_family(clocks(StepAlone()))


ARM = bandits.bernoulli_arm()


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            ARM._replace(observe=lambda belief, reward: belief._replace(pulls=jnp.int32(0))),
            "a belief must keep its structure, shapes and dtypes: pulls is float32[] in privileged.arm.prior, "
            "and int32[] in the result of privileged.arm.observe",
        ),
        (
            ARM._replace(outcomes=lambda belief: jnp.zeros(2)),
            "privileged.arm.outcomes must return metarl_jax.types.Outcomes",
        ),
        (
            ARM._replace(outcomes=lambda belief: Outcomes(jnp.zeros(2), jnp.zeros(3))),
            "rewards are float32[2], and probabilities float32[3]",
        ),
        (ARM._replace(features=lambda belief: belief.pulls), "privileged.arm.features must return a vector [F]"),
        (ARM._replace(features=lambda belief: float(belief.pulls)), "privileged.arm.features cannot be compiled"),
    ],
)
def test_arms(arm: Arm, message: str) -> None:
    assert message in str(refused(bandits.bernoulli(3)._replace(privileged=Privileged(arm=arm))))


def test_an_arm_needs_discrete_actions() -> None:
    family = bandits.bernoulli(3)._replace(action_space=Box(0.0, 1.0, (1,)))
    assert "privileged.arm is for families of bandits, whose actions are discrete, not a Box" in str(refused(family))


# ------------------------------------------------------------------------------------------------------------- values


class Endless(Line):
    """An environment whose own limit is not in the task."""

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        obs, after, reward, *_, info = super().step(key, state._replace(time=0 * state.time), action, params)
        time = state.time + 1
        over = time >= 10
        return obs, after._replace(time=jnp.where(over, 0, time)), reward, jnp.bool_(False), over, info


class CountsOn(Line):
    """An environment whose time continues in the next episode and then never equals the limit."""

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        obs, after, reward, *_, info = super().step(key, state._replace(time=0 * state.time), action, params)
        return obs, after._replace(time=state.time + 1), reward, jnp.bool_(False), state.time + 1 == HORIZON, info


class NeverBegins(Line):
    """An environment whose second episode ends at every step."""

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        time = state.time + 1
        obs, after, reward, *_, info = super().step(key, state._replace(time=0 * time), action, params)
        return obs, after._replace(time=time), reward, jnp.bool_(False), time >= HORIZON, info


class OtherBounds(Line):
    def observation_space(self, params: Any = None) -> Box:
        return Box(-12.0, 9.0, (1,))


class DrawnTask(Line):
    """An environment that draws numbers without JAX."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def reset(self, key: Key, params: Any) -> Any:
        obs, state = super().reset(key, params)
        return obs + 0.1 * self.random.random(), state


class Counted(Line):
    calls = 0

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        self.calls += 1
        obs, after, reward, *rest = super().step(key, state, action, params)
        return obs, after, reward * self.calls, *rest


class Carrying(NamedTuple):
    walker: Walker
    task: Goal


class Redraws(Line):
    """An environment whose state contains the task, which a reset draws anew."""

    def reset(self, key: Key, params: Any) -> Any:
        obs, walker = super().reset(key, params)
        return obs, Carrying(walker, self.drawn(key, params))

    def drawn(self, key: Key, params: Goal) -> Goal:
        del params
        return sample(key)

    def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
        obs, walker, *rest = super().step(key, state.walker, action, state.task)
        return obs, Carrying(walker, state.task), *rest


class Carries(Redraws):
    def drawn(self, key: Key, params: Goal) -> Goal:
        del key
        return params


def _nan_late(x: Array) -> Array:
    return jnp.where(jnp.abs(x) > 0.01, x, jnp.nan)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            line(Endless()),
            "horizon is 5, but an episode of a training task was still going on after 5 steps: set horizon to the "
            "environment's own limit, or let step return truncated when the limit is reached",
        ),
        (
            line(CountsOn()),
            "horizon is 5, but the second episode of a training task was still going on after 5 steps, although the "
            "first one had ended: step must reset the state, including its count of steps, when an episode ends",
        ),
        (
            line(NeverBegins()),
            "the second episode of each task ended after one step, while the first ones lasted 5 to 5: step must "
            "return the observation and the state of a new episode when one ends",
        ),
        (
            line(OtherBounds()),
            "observation_space.low is -9 at index (0,), but that of env.observation_space(task) is -12 in all tasks",
        ),
        (
            line(returning(obs=lambda obs: obs + 20)),
            "observation_space.high is 9 at index (0,), but ",
        ),
        (
            line(returning(info=lambda info: {"final_observation": info["final_observation"] - 20})),
            "observation_space.low is -9 at index (0,), but ",
        ),
        (
            line(returning(obs=lambda obs: obs / 0)),
            "an observation of a training task is not finite (NaN or infinite)",
        ),
        (
            line(returning(reward=lambda reward: reward / 0)),
            "the reward of a training task is not finite (NaN or infinite)",
        ),
        (
            line(
                tasks=TaskDistribution(sample, lambda key: Goal(jnp.float32(jnp.inf))),
            ),
            "the reward of a held-out task is not finite (NaN or infinite)",
        ),
        (line(optimal_return=lambda task: jnp.log(-task.place)), "optimal_return of a training task is not finite"),
        (
            line(privileged=Privileged(training_reward=lambda task, t, discount: jnp.log(t.reward))),
            "privileged.training_reward of a training task is not finite",
        ),
        (
            line(privileged=Privileged(belief_reward=lambda t, discount: jnp.log(t.reward))),
            "privileged.belief_reward of a training task is not finite",
        ),
        (line(DrawnTask()), "env.reset must be a function of its arguments, but two traces of it differ"),
        (line(Counted()), "env.step must be a function of its arguments, but two traces of it differ"),
        (line(Redraws()), "must play the task that they are given, but the task in the state is another one"),
    ],
)
def test_values(family: EnvFamily, message: str) -> None:
    check_shapes(family)
    assert message in str(refused(family, check_family))


def test_constants_that_are_not_finite_are_not_taken_for_random_numbers() -> None:
    table = jnp.array([jnp.nan, jnp.inf, 0.0])

    class Gaps(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
            obs, after, reward, *rest = super().step(key, state, action, params)
            return obs, after, reward + jnp.where(jnp.isfinite(table[action]), 1.0, 0.0), *rest

    check_family(line(Gaps()))


def test_a_task_that_the_state_carries_unchanged_is_valid() -> None:
    check_family(line(Carries()))


def test_a_discrete_observation_beyond_its_space() -> None:
    family = tabular_mdp.make(states=4, actions=3, horizon=5)

    class Cells(tabular_mdp.TabularMDP):
        def _observe(self, position: Array) -> Array:
            return position

        observation_space: Any = None

    env = Cells(4, 3)
    check_family(family._replace(env=env, observation_space=Discrete(4), privileged=None))
    message = refused(family._replace(env=env, observation_space=Discrete(3), privileged=None), check_family)
    assert "observation_space is Discrete(n=3), whose elements are 0 to 2, but 3 was observed" in str(message)


def test_spaces_that_a_task_decides_are_compared_task_by_task() -> None:
    class Wide(Line):
        def action_space(self, params: Any = None) -> Discrete:
            return Discrete(3 if float(params.place) < 0.5 else 4)

    family = line(Wide())
    check_shapes(family)
    assert "env.action_space(task) is Discrete(n=4)" in str(refused(family, check_family))


def test_a_program_that_cannot_be_batched() -> None:
    """Learners vectorise over tasks; the callback defines no vectorisation."""

    class Host(Line):
        def step(self, key: Key, state: Any, action: Array, params: Any) -> tuple[Any, ...]:
            obs, after, reward, *rest = super().step(key, state, action, params)
            return obs, after, jax.pure_callback(lambda x: x, reward, reward), *rest

    message = str(refused(line(Host()), check_family))
    assert message.startswith("playing random episodes fails")
    assert "vmap" in message


@pytest.mark.parametrize("num_tasks", [0, 1.5, True])
def test_numbers_of_tasks(num_tasks: Any) -> None:
    with pytest.raises(ValueError, match="num_tasks must be a positive whole number"):
        check_family(line(), num_tasks=num_tasks)


def test_random_actions_lie_in_their_space() -> None:
    low, high = jnp.array([-1.0, -jnp.inf, 2.0]), jnp.array([1.0, 0.0, jnp.inf])
    keys = jax.random.split(jax.random.key(0), 200)
    actions = jax.vmap(lambda key: random_action(key, Box(low, high, (3,))))(keys)
    assert bool(jnp.all((actions >= low) & (actions <= high)))
    assert bool(jnp.all(jnp.std(actions, axis=0) > 0.01))
    actions = jax.vmap(lambda key: random_action(key, Discrete(4)))(keys)
    assert set(np.asarray(actions).tolist()) == {0, 1, 2, 3}


# ----------------------------------------------------------------------------------------------------------- few-shot

WAVES = sinusoid.maml(4, 3)


def drawing(change: Callable[[FewShotTask], Any]) -> FewShot:
    return WAVES._replace(draw=lambda key, task: change(WAVES.draw(key, task)))


def _support(x: Callable[[Array], Any] = lambda x: x, y: Callable[[Array], Any] = lambda y: y) -> FewShot:
    return drawing(lambda e: e._replace(support=(x(e.support[0]), y(e.support[1]))))


@pytest.mark.parametrize("family", [WAVES, sinusoid.reptile(4, 3), glyphs.make(3, 1, 2)])
def test_right_few_shot_families_pass(family: FewShot) -> None:
    check_family(family)


def test_omniglot_passes(omniglot_folder: Path) -> None:
    check_family(omniglot.few_shot(omniglot.load(omniglot_folder), 5, 1, 2), num_tasks=2)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (sinusoid.maml, "family must be a metarl_jax.interfaces.few_shot.FewShot, not a function: call it first"),
        (WAVES._replace(draw=None), "draw must be a function, not None"),  # pyright: ignore[reportArgumentType]
        (WAVES._replace(outputs=0), "outputs must be a positive whole number, not 0"),
        (
            WAVES._replace(tasks=WAVES.tasks._replace(sample_heldout=lambda key: jnp.zeros(2))),
            "training tasks and held-out tasks must have the same structure, shapes and dtypes",
        ),
        (drawing(tuple), "draw must return a metarl_jax.interfaces.few_shot.FewShotTask(support, query), not a tuple"),
        (
            drawing(lambda e: e._replace(query=e.query[0])),
            "the query that draw returns must be a pair of arrays (x, y)",
        ),
        (_support(x=lambda x: x[1:]), "the support's x and y must have one leading axis of examples"),
        (_support(x=lambda x: 1j * x), "the support's x must hold real numbers or labels, but it is complex64[4, 1]"),
        (
            _support(x=lambda x: jnp.concatenate([x, x], axis=1)),
            "examples of support and query must have the same shapes and dtypes: for x, one of the support is "
            "float32[2], and one of the query is float32[1]",
        ),
        (
            # With predictions [4, 1] the loss would be a mean over all pairs of examples.
            drawing(lambda e: FewShotTask((e.support[0], e.support[1][:, 0]), (e.query[0], e.query[1][:, 0]))),
            "the support's y is float32[4], but outputs is 1: y must be class indices, whole numbers [4], or numbers "
            "[4, outputs]",
        ),
        (WAVES._replace(outputs=2), "the support's y is float32[4, 1], but outputs is 2"),
        (
            WAVES._replace(loss=lambda prediction, y: (prediction - y) ** 2),
            "loss must return a real scalar, not float32[4, 1]",
        ),
        (WAVES._replace(score=lambda prediction, y: jnp.int32(1)), "score must return a real scalar"),
        (WAVES._replace(loss=lambda prediction, y: float(prediction[0, 0])), "loss cannot be compiled"),
        (WAVES._replace(draw=lambda key, task: WAVES.draw(key, task.wave)), "draw fails (test_family_checks.py, line "),
    ],
)
def test_few_shot_families(family: Any, message: str) -> None:
    assert message in str(refused(family, check_few_shot))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (_support(x=lambda x: x / 0), "the support's x of a training task is not finite (NaN or infinite)"),
        (
            WAVES._replace(
                tasks=WAVES.tasks._replace(sample_heldout=lambda key: sinusoid.Wave(*2 * (jnp.float32("nan"),)))
            ),
            "the support's y of a held-out task is not finite (NaN or infinite)",
        ),
        (drawing(lambda e: FewShotTask(e.query, e.query)), "draw returns the support as the query"),
        (
            glyphs.make(3, 1, 2)._replace(outputs=2),
            "labels must be 0 to 1, as outputs is 2, but the support's y has 0 to 2",
        ),
    ],
)
def test_examples(family: FewShot, message: str) -> None:
    check_few_shot(family)
    assert message in str(refused(family, check_family))


# ----------------------------------------------------------------------------------------------------------- problems


def _loss(params: Array, batch: Array) -> Array:
    return jnp.mean((params - batch) ** 2)


def _data(key: Key, params: Array, task: Array) -> Array:
    del params
    return task + jax.random.normal(key, (3,))


PROBLEM = InnerProblem(
    TaskDistribution(jax.random.normal, jax.random.normal), lambda key: jnp.zeros(()), _data, _data, _loss, _loss, _loss
)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            WAVES,
            "problem must be a metarl_jax.interfaces.gradient.InnerProblem, "
            "not a metarl_jax.interfaces.few_shot.FewShot: problems.few_shot",
        ),
        (PROBLEM._replace(init=lambda key: float(jax.random.normal(key))), "problem.init cannot be compiled"),
        (PROBLEM._replace(support=lambda key, params: params), "problem.support fails"),
        (PROBLEM._replace(query=lambda key, params, task: float(task)), "problem.query cannot be compiled"),
        (PROBLEM._replace(inner_loss=lambda params, batch: batch), "problem.inner_loss must return a real scalar"),
        (PROBLEM._replace(outer_loss=lambda params, batch: jnp.int32(0)), "not int32[]"),
        (PROBLEM._replace(score=lambda params, batch: (params, params)), "problem.score must return a real scalar"),
        (
            # Held-out tasks may have more examples. The arrays of these do not fit.
            PROBLEM._replace(tasks=TaskDistribution(jax.random.normal, lambda key: jax.random.normal(key, (2,)))),
            "problem.support fails",
        ),
    ],
)
def test_problems(problem: Any, message: str) -> None:
    check_problem(PROBLEM)
    assert message in str(refused(problem, check_problem))


def test_a_gradient_problem_is_not_an_in_context_problem() -> None:
    assert "problem must be a metarl_jax.interfaces.few_shot.InContextProblem" in str(
        refused(PROBLEM, check_in_context_problem)
    )


def test_a_transition_is_as_a_trial_returns_it() -> None:
    """The shapes with which functions of a family are traced equal those of a real trial."""
    from metarl_jax.rollout import trial

    family, seen = line(), []

    def training_reward(task: Goal, t: Transition, discount: float) -> Array:
        seen.append(jax.tree.map(jax.typeof, t))
        return t.reward

    check_shapes(family._replace(privileged=Privileged(training_reward=training_reward)), episodes=3)

    def play(key: Key) -> Transition:
        def act(key: Key, carry: Any, inputs: Any) -> tuple[Any, Array, tuple[()]]:
            return carry, random_action(key, family.action_space), ()

        return trial(key, act, (), family, sample(key), 3)[1]

    expected = jax.eval_shape(play, jax.random.key(0))
    (got,) = seen
    assert jax.tree.map(lambda x: (x.shape, x.dtype), got) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
