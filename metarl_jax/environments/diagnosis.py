"""Diagnosis: order tests, each of which costs something, and then decide what a patient has.

A task is a clinic: the prevalence of each condition among its patients, and the quality of its tests. An episode is one
patient. Every test has a positive or a negative result, and its cost is a negative reward. A diagnosis ends the
episode. A right diagnosis has a reward of 1. A wrong one has a reward of minus the harm of the patient's condition. All
harms differ, so that the reward of a diagnosis reveals the condition. Given the condition, results are independent. A
second order of the same test costs the same and has the same result. A patient without a diagnosis after one step more
than there are tests counts as one with a wrong diagnosis.

In training, the prevalence is Dirichlet(1, ..., 1), and the probability that test m is positive in condition c is a
beta variable with its own mean, which is high where test m is made for condition c. All of them are independent. After
revealed conditions and results, the posterior over clinics therefore has the same form, with counts added.

For a known clinic, the function ``plan`` computes the best policy by backward induction over the 3^M possible sets of
results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, positive_number, real, whole
from metarl_jax.environments.base import Environment
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_TESTS, MOST_CONDITIONS = 6, 6
"""The largest numbers of tests and of conditions."""


@struct.dataclass
class Clinic:
    """A task: a clinic with C conditions and M tests."""

    prevalence: Array
    """The probability of each condition, ``[C]`` float32."""
    positive: Array
    """The probability that each test is positive in each condition, ``[M, C]`` float32."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class PatientState:
    """The state of an episode."""

    condition: Array
    """The patient's condition, ``int32``."""
    results: Array
    """The results of all tests, also of those that were not ordered: 1 if positive and -1 if negative, ``[M]``
    int32."""
    ordered: Array
    """Whether each test was ordered, ``[M]`` bool."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Prior(NamedTuple):
    """A distribution over clinics: a Dirichlet distribution of the prevalence, and beta distributions of the tests."""

    conditions: Array
    """The parameters of the Dirichlet distribution, ``[C]``."""
    results: Array
    """The parameters of the beta distributions of a positive result, for negative and positive ones, ``[M, C, 2]``."""

    @property
    def mean(self) -> tuple[Array, Array]:
        """The mean prevalence ``[C]`` and the mean probabilities of a positive result ``[M, C]``."""
        return (
            self.conditions / jnp.sum(self.conditions),
            self.results[..., 1] / jnp.sum(self.results, axis=-1),
        )

    def sample(self, key: Key) -> tuple[Array, Array]:
        """Draw a prevalence ``[C]`` and probabilities of a positive result ``[M, C]``."""
        key_conditions, key_results = jax.random.split(key)
        prevalence = jax.random.dirichlet(key_conditions, self.conditions, dtype=jnp.float32)
        positive = jax.random.beta(key_results, self.results[..., 1], self.results[..., 0], dtype=jnp.float32)
        return prevalence, positive


class Diagnosis(Environment):
    """Patients of one clinic. Actions 0 .. M - 1 are tests, and actions M .. M + C - 1 are diagnoses.

    An observation has a number for each test, which is 1 or -1 for its result, and 0 if it was not ordered for this
    patient; and the number of steps of this episode, divided by the largest number.

    Args:
        harms: the harm of a wrong diagnosis in each condition, ``[C]``.
        cost: the cost of a test.
        prior: the distribution of clinics in training.
    """

    caption = (
        "Rows: tests; blue: a positive result, grey: a negative one. Bottom: the diagnosis, green if it is right and "
        "red if it is wrong. Below each condition: its share of the clinic's patients."
    )

    def __init__(self, harms: np.ndarray, cost: float, prior: Prior) -> None:
        self.harms = harms
        self.cost = cost
        self.prior = prior
        self.tests, self.conditions = prior.results.shape[:2]

    def _observe(self, state: PatientState) -> Array:
        results = jnp.where(state.ordered, state.results, 0).astype(jnp.float32)
        return jnp.append(results, state.time.astype(jnp.float32) / (self.tests + 1))

    def reset_env(self, key: Key, params: Clinic) -> tuple[Array, PatientState]:
        key_condition, key_results = jax.random.split(key)
        cumulative = jnp.cumsum(params.prevalence)
        threshold = jax.random.uniform(key_condition, dtype=jnp.float32) * cumulative[-1]
        condition = jnp.minimum(jnp.sum(threshold >= cumulative, dtype=jnp.int32), self.conditions - 1)
        positive = jax.random.uniform(key_results, (self.tests,), jnp.float32) < params.positive[:, condition]
        state = PatientState(
            condition=condition,
            results=jnp.where(positive, 1, -1).astype(jnp.int32),
            ordered=jnp.zeros(self.tests, jnp.bool_),
            time=jnp.int32(0),
        )
        return self._observe(state), state

    def step_env(
        self, key: Key, state: PatientState, action: Array, params: Clinic
    ) -> tuple[Array, PatientState, Array, Array, dict[Any, Any]]:
        del key
        time, tested = state.time + 1, action < self.tests
        # A test at the last step leaves the patient without a diagnosis.
        over = jnp.logical_or(jnp.logical_not(tested), time > self.tests)
        right = action - self.tests == state.condition
        harm = jnp.asarray(self.harms, jnp.float32)[state.condition]
        decided = jnp.where(right, jnp.float32(1), -harm)
        reward = jnp.where(tested, jnp.float32(-self.cost), 0.0) + jnp.where(over, decided, 0.0)
        ordered = jnp.logical_or(state.ordered, jnp.arange(self.tests) == action)
        after = PatientState(state.condition, state.results, ordered, time)
        return self._observe(after), after, reward, over, {}

    def action_space(self, params: Clinic | None = None) -> Discrete:
        del params
        return Discrete(self.tests + self.conditions)

    def observation_space(self, params: Clinic | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (self.tests + 1,))

    def draw(self, frames: Sequence[Frame], task: Clinic) -> Image:
        """Draw the results and the diagnosis of the current patient (``drawing.Drawable``)."""
        picture, canvas = blank()
        rows, columns = self.tests + 2, self.conditions
        height = SIZE / rows
        for test, result in enumerate(np.asarray(frames[-1].observation)[: self.tests]):
            fill = {1: "royalblue", -1: "lightgrey"}.get(round(float(result)))
            box = (8, test * height + 8, SIZE - 8, (test + 1) * height - 8)
            canvas.rectangle(box, fill=fill, outline="grey")
            canvas.text((16, test * height + 16), f"test {test}", fill="black")
        action = of_episode(frames)[-1].action
        width = SIZE / columns
        for condition, share in enumerate(np.asarray(task.prevalence)):
            box = (condition * width + 8, self.tests * height + 8, (condition + 1) * width - 8, (rows - 1) * height - 8)
            fill = None
            if action is not None and int(action) - self.tests == condition:
                fill = "palegreen" if condition == int(frames[-1].state.condition) else "salmon"
            canvas.rectangle(box, fill=fill, outline="grey")
            canvas.text((box[0] + 8, box[1] + 8), f"condition {condition}", fill="black")
            end = box[0] + float(share) * (width - 16)
            canvas.rectangle((box[0], (rows - 1) * height + 8, end, SIZE - 8), fill="navy")
        return picture


class Plan(NamedTuple):
    """The best policy for a known clinic, for each step t of an episode and each set of results."""

    probability: Array
    """The probability of the results, if exactly these tests are ordered, ``[3^M]``."""
    action_value: Array
    """The expected sum of rewards from step t on, after each action, times ``probability``, ``[M + 1, 3^M, M + C]``."""

    @property
    def value(self) -> Array:
        """The expected reward of a patient."""
        return jnp.max(self.action_value[0, 0])

    @property
    def action(self) -> Array:
        """The best actions, ``[M + 1, 3^M]`` int32."""
        return jnp.argmax(self.action_value, axis=-1).astype(jnp.int32)

    @property
    def advantage(self) -> Array:
        """The difference of the value of each action from that of the best one, ``[M + 1, 3^M, M + C]``."""
        difference = self.action_value - jnp.max(self.action_value, axis=-1, keepdims=True)
        return difference / jnp.maximum(self.probability, 1e-12)[:, None]


def place(observation: Array) -> tuple[Array, Array]:
    """Return the step and the set of results of an observation, which are indices of a ``Plan``.

    The index of a set has base 3: the digit of a test is 0 if it was not ordered, 1 if negative and 2 if positive.

    Args:
        observation: ``[..., M + 1]``.

    Returns:
        Two arrays ``[...]`` int32.
    """
    tests = observation.shape[-1] - 1
    result = jnp.round(observation[..., :tests]).astype(jnp.int32)
    digit = jnp.where(result > 0, 2, -result)
    step = jnp.round(observation[..., tests] * (tests + 1)).astype(jnp.int32)
    return step, jnp.sum(digit * 3 ** jnp.arange(tests, dtype=jnp.int32), axis=-1).astype(jnp.int32)


def plan(prevalence: Array, positive: Array, harms: Array, cost: float) -> Plan:
    """Compute the best policy for a known clinic by backward induction over the sets of results.

    All values of a set are multiplied by the probability of its results, so that no posterior has to be normalised.

    Args:
        prevalence: the probability of each condition, ``[C]``.
        positive: the probability that each test is positive in each condition, ``[M, C]``.
        harms: the harm of a wrong diagnosis in each condition, ``[C]``.
        cost: the cost of a test.
    """
    tests = positive.shape[0]
    index = np.arange(3**tests)[:, None]
    power = 3 ** np.arange(tests)
    digit = index // power % 3
    likelihood = jnp.stack([jnp.ones_like(positive), 1 - positive, positive])
    joint = prevalence * jnp.prod(likelihood[digit, np.arange(tests)], axis=1)
    probability, harm = jnp.sum(joint, axis=-1), jnp.sum(joint * harms, axis=-1, keepdims=True)
    # A diagnosis has a reward of 1 for its own condition, and of minus the harm for each other condition.
    decide, paid = joint * (1 + harms) - harm, cost * probability[:, None]
    negative, positives = (np.where(digit == 0, index + result * power, 0) for result in (1, 2))
    # A test at the last step leaves the patient without a diagnosis.
    values = [jnp.concatenate([jnp.broadcast_to(-paid - harm, digit.shape), decide], axis=-1)]
    for _ in range(tests):
        after = jnp.max(values[-1], axis=-1)
        tested = jnp.where(digit == 0, after[negative] + after[positives], after[:, None])
        values.append(jnp.concatenate([tested - paid, decide], axis=-1))
    return Plan(probability, jnp.stack(values[::-1]))


def make(
    tests: int = 3,
    conditions: int = 3,
    *,
    cost: float = 0.05,
    quality: float = 0.85,
    certainty: float = 3.0,
    shifted: bool = False,
) -> EnvFamily:
    """Make a family whose tasks are clinics.

    Test m is made for the condition m modulo C, for which it is positive with mean probability ``quality``. It is
    positive for other conditions with mean probability ``1 - quality``. The harms of the conditions are 1 / C, 2 / C,
    ..., 1.

    Args:
        tests: The number M of tests, from 1 to 6.
        conditions: The number C of conditions, from 2 to 6.
        cost: The cost of a test.
        quality: The mean probability that a test is positive in its own condition.
        certainty: The sum of the two parameters of each beta distribution. If it is small, tests are good in some
            clinics and useless or misleading in other ones.
        shifted: Whether held-out tasks are drawn from another distribution than training tasks. Conditions are then
            much rarer or more frequent, with a prevalence from Dirichlet(1/5, ..., 1/5), and tests are worse: the
            difference of ``quality`` from 1/2 is halved.

    Raises:
        ValueError: if a setting is out of range.
    """
    tests = whole(above=0, at_most=MOST_TESTS)("tests", tests)
    conditions = whole(at_least=2, at_most=MOST_CONDITIONS)("conditions", conditions)
    cost, certainty = real(at_least=0)("cost", cost), positive_number("certainty", certainty)
    quality = real(above=0, below=1)("quality", quality)
    shifted = boolean("shifted", shifted)
    harms = np.arange(1, conditions + 1) / conditions
    own = np.arange(tests)[:, None] % conditions == np.arange(conditions)

    def prior(concentration: float, quality: float) -> Prior:
        mean = np.where(own, quality, 1 - quality)
        return Prior(
            jnp.full(conditions, concentration, jnp.float32),
            jnp.asarray(certainty * np.stack([1 - mean, mean], axis=-1), jnp.float32),
        )

    training, unusual = prior(1.0, quality), prior(0.2, 0.25 + quality / 2)
    env = Diagnosis(harms, cost, training)

    def drawn_from(prior: Prior) -> Any:
        return lambda key: Clinic(*prior.sample(key), tests + 1)

    def planned(task: Clinic) -> Plan:
        return plan(task.prevalence, task.positive, jnp.asarray(harms, jnp.float32), cost)

    def training_reward(task: Clinic, t: Transition, discount: float) -> Array:
        """Compute the advantage of each action for the known clinic, without a discount.

        The sum of these numbers over an episode and the value of the best policy, which depends on the clinic alone,
        have the same expectation as the return (Kakade & Langford 2002, lemma 6.1), but not the noise of patients.
        """
        del discount
        return planned(task).advantage[*place(t.inputs.obs), t.action]

    def optimal_action(task: Clinic, t: Transition) -> Array:
        return planned(task).action[place(t.inputs.obs)]

    def success(task: Clinic, step: Transition) -> Array:
        del task
        return step.reward > 0

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(drawn_from(training), drawn_from(unusual if shifted else training)),
        horizon=tests + 1,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: planned(task).value,
        privileged=Privileged(training_reward=training_reward, optimal_action=optimal_action),
        success=success,
    )
