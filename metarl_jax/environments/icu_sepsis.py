"""Treatment of sepsis in intensive care: the public ICU-Sepsis MDP, with populations that respond to treatment unalike.

ICU-Sepsis (Choudhary et al. 2024, arXiv 2406.05646) has 716 states and 25 actions, estimated from records of patients:
5 levels of fluids times 5 levels of vasopressors. A patient who survives has a return of 1, and one who dies of 0. In
each state, some actions are admissible; another action is replaced by a random admissible one, which has the same
probabilities as in the package.

A task is a population of patients. It has two responses, to fluids and to vasopressors. A positive response means that
higher doses help, and a negative one that they harm. If both responses are 0, the population is that of ICU-Sepsis.

The dose d of an action is its level of a drug, from 0 for no dose to 1 for the highest one, minus the mean level of
the admissible actions of the state. The prognosis h of a state is its probability of survival under the clinicians'
policy, scaled to mean 0 and variance 1. A response r multiplies the probability of each next state by exp(r d h), and a
common factor makes the sum of the probabilities 1. Responses are large, up to 4 by default in both directions,
because knowing a population would otherwise hardly improve the probability of survival.

A patient who is still in treatment after ``horizon`` steps leaves, and the reward is the probability of survival under
the clinicians' policy in ICU-Sepsis. The clinicians' policy therefore has the same value as without a limit.

The observation has the time, the prognosis, the SOFA score and the 47 clinical measurements of the state. It also has
advice: how much worse each action is than the best one according to the mean of training populations.
"""

from __future__ import annotations

import functools
import importlib.metadata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, install_command, positive_int, positive_number
from metarl_jax.environments.base import Environment, random_signs
from metarl_jax.environments.drawing import SIZE, Frame, blank, of_episode
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Privileged, TaskDistribution, Transition

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE, DYNAMICS, ADMISSIBLE = "icu-sepsis", "dynamics.npz", "admissible_actions.txt"
LEVELS = 5
"""The number of levels of fluids, and of vasopressors. Action ``5 f + v`` has fluids f and vasopressors v."""
RESPONSES = 2
"""The number of responses of a population."""
MEASUREMENTS = 47
"""The number of clinical measurements of a state."""
ADVICE_SCALE = 20.0
"""The factor of action values in observations. Values of admissible actions differ by some hundredths."""


class Model(NamedTuple):
    """The ICU-Sepsis MDP. The last three states are death, survival, and the absorbing state after them."""

    transition: np.ndarray
    """P(next state | state, action), ``[S, A, S]`` float64."""
    start: np.ndarray
    """The distribution of first states, ``[S]``."""
    clinicians: np.ndarray
    """The probabilities of actions of the clinicians' policy, ``[S, A]``."""
    admissible: np.ndarray
    """Whether an action is admissible, ``[S, A]`` bool."""
    measurements: np.ndarray
    """The clinical measurements of each state, ``[S, 47]``."""
    sofa: np.ndarray
    """The mean SOFA score of each state, ``[S]``."""


def read_model(folder: str | Path) -> Model:
    """Read the MDP from the files ``dynamics.npz`` and ``admissible_actions.txt`` of the package icu-sepsis.

    Args:
        folder: the folder of the files.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file cannot be read, or if its numbers are not those of an MDP.
    """
    path, text = Path(folder) / DYNAMICS, Path(folder) / ADMISSIBLE
    for one in (path, text):
        if not one.is_file():
            raise FileNotFoundError(f"there is no file {one}")
    arrays = []
    names = ("tx_mat", "d_0", "expert_policy", "state_cluster_centers", "sofa_scores")
    try:
        # NumPy does not close a damaged file that it opened itself.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            for name in names:
                arrays.append(np.asarray(file[name], np.float64))
    except KeyError as error:
        raise ValueError(f"{path} has no array {names[len(arrays)]}") from error
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable NumPy archive of numbers: {error}") from error
    transition, start, clinicians, measurements, sofa = arrays
    states = len(start) if start.ndim == 1 else 0
    shapes = ((states, LEVELS**2, states), (states,), (states, LEVELS**2), (states, MEASUREMENTS), (states,))
    for name, array, shape in zip(names, arrays, shapes, strict=True):
        if array.shape != shape or states < 4:
            raise ValueError(f"{path}: {name} must have the shape {shape} with at least 4 states, not {array.shape}")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {name} has a number that is not finite")
    # The clinicians' policy is not defined in the last three states, in which no patient is treated.
    for name, array in zip(names, (transition, start, clinicians[:-3]), strict=False):
        if np.min(array) < 0 or not np.allclose(array.sum(axis=-1), 1, atol=1e-6):
            raise ValueError(f"{path}: {name} must have probabilities whose sum is 1")
    return Model(transition, start, clinicians, _read_admissible(text, states), measurements, sofa)


def _read_admissible(path: Path, states: int) -> np.ndarray:
    """Read which actions are admissible, ``[states, 25]``: a line of their numbers, then a line for each state."""
    try:
        lines = [[int(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:  # Text in another encoding is a UnicodeDecodeError, which is a ValueError.
        raise ValueError(f"{path} is not a text of whole numbers: {error}") from error
    admissible = np.zeros((states, LEVELS**2), np.bool_)
    counts, rows = lines[:1], lines[1 : states + 1]
    if len(rows) != states or counts != [[len(row) for row in rows]]:
        raise ValueError(f"{path} must have a line with the number of actions of {states} states, and a line for each")
    for state, row in enumerate(rows):
        if not row or min(row) < 0 or max(row) >= LEVELS**2:
            raise ValueError(f"{path}: the actions of state {state} must be from 0 to {LEVELS**2 - 1}, not {row}")
        admissible[state, row] = True
    return admissible


@functools.cache
def _installed() -> Model:
    """Read the MDP from the installed package, which is not imported.

    Raises:
        ModuleNotFoundError: if the package is not installed. The message says what to install.
        ValueError: if its files cannot be read.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: {install_command(PACKAGE)}") from error
    found = next((file for file in files if file.name == DYNAMICS), None)
    if found is None:
        raise ValueError(f"the installed package {PACKAGE} lists no file {DYNAMICS}: install it again")
    return read_model(Path(str(found.locate())).parent)


@struct.dataclass
class Population:
    """A task: a population of patients."""

    response: Array
    """The responses to fluids and to vasopressors, ``[2]`` float32."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class PatientState:
    """The state of an episode."""

    position: Array
    """The index of the MDP's state, ``int32``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Plan(NamedTuple):
    """The best policy of an episode of at most H steps."""

    value: Array
    """The probability of survival from each state at each step, ``[H, S]``."""
    loss: Array
    """The difference of each action's value from that of the best action, ``[H, S, A]``; it is -1 for actions that are
    not admissible."""

    @property
    def action(self) -> Array:
        """The best action in each state at each step, ``[H, S]`` int32."""
        return jnp.argmax(self.loss, axis=-1).astype(jnp.int32)


class Sepsis(Environment):
    """Patients of one population. The admissible actions of all states are the R rows of a table.

    Args:
        model: the MDP.
        horizon: the largest number of steps of an episode.
    """

    caption = "Grey: the prognosis over time. Blue: the level of fluids; red: the level of vasopressors, from 0 to 4."

    def __init__(self, model: Model, horizon: int) -> None:
        self.horizon = horizon
        self.states = len(model.start)
        self.death, self.survival = self.states - 3, self.states - 2
        clinicians = self.survival_of(model.transition, model.clinicians)
        prognosis = np.clip(self._standard(clinicians), -3, 3)
        sofa = self._standard(model.sofa)
        self.leaving = jnp.asarray(clinicians, jnp.float32)
        """The reward of a patient who leaves treatment in each state, ``[S]``; 1 and 0 for survival and death."""
        features = np.concatenate([prognosis[:, None], sofa[:, None], model.measurements], axis=-1)
        self.features = jnp.asarray(np.clip(features, -3, 3), jnp.float32)
        """The prognosis, the SOFA score and the measurements of each state, ``[S, 49]``."""
        self.start = jnp.asarray(model.start, jnp.float32)
        self.clinicians = jnp.asarray(model.clinicians, jnp.float32)

        state, action = np.nonzero(model.admissible)
        rows = model.transition[state, action]
        most = int((rows > 0).sum(axis=-1).max())
        successor = np.argsort(-rows, axis=-1, kind="stable")[:, :most]
        self.successor = jnp.asarray(successor, jnp.int32)
        """The next states of each row, in decreasing order of probability, ``[R, K]``."""
        self.probability = jnp.asarray(np.take_along_axis(rows, successor, axis=-1), jnp.float32)
        """The probabilities of these states if all responses are 0, ``[R, K]``."""
        self.prognosis = jnp.asarray(prognosis[successor], jnp.float32)
        """The prognoses of these states, ``[R, K]``."""
        doses = np.stack(np.divmod(np.arange(LEVELS**2), LEVELS), axis=-1) / (LEVELS - 1)
        number = model.admissible.sum(axis=-1)
        usual = model.admissible @ doses / number[:, None]
        self.dose = jnp.asarray(doses[action] - usual[state], jnp.float32)
        """The doses of each row, relative to the mean of the state's admissible actions, ``[R, 2]``."""
        self.state = jnp.asarray(state, jnp.int32)
        """The state of each row, ``[R]``."""
        self.number = jnp.asarray(number, jnp.int32)
        """The number of admissible actions of each state, ``[S]``. Their rows are consecutive."""
        self.first = jnp.asarray(np.cumsum(number) - number, jnp.int32)
        """The first row of each state, ``[S]``."""
        row = np.full(model.admissible.shape, -1)
        row[state, action] = np.arange(len(state))
        self.row = jnp.asarray(row, jnp.int32)
        """The row of each action in each state, ``[S, 25]``; -1 for an action that is not admissible."""
        self.mean_plan: Plan | None = None
        """The best policy for the mean of training populations; ``with_advice`` sets it."""

    def _standard(self, x: np.ndarray) -> np.ndarray:
        """Scale numbers of states ``[S]`` to mean 0 and variance 1, without the last three; the last one is then 0."""
        treated = x[: self.death]
        scaled = (x - treated.mean()) / max(float(treated.std()), 1e-6)
        return np.where(np.arange(self.states) == self.states - 1, 0.0, scaled)

    def survival_of(self, transition: np.ndarray, policy: np.ndarray) -> np.ndarray:
        """Return the probability of survival of each state under a stationary policy without a time limit, ``[S]``.

        Args:
            transition: P(next state | state, action), ``[S, A, S]``.
            policy: the probabilities of actions, ``[S, A]``.
        """
        treated = slice(None, self.death)
        step = np.einsum("sa,sat->st", policy[treated], transition[treated])
        survive = np.linalg.solve(np.eye(self.death) - step[:, treated], step[:, self.survival])
        return np.concatenate([survive, [0.0, 1.0, 0.0]])

    def tilted(self, response: Array, row: Array | None = None) -> Array:
        """Return the probabilities of the next states ``successor`` in a population.

        Args:
            response: the responses of the population, ``[2]``.
            row: the row; None for all rows.

        Returns:
            Probabilities ``[K]``, or ``[R, K]`` of all rows.
        """
        dose, probability, prognosis = (
            x if row is None else x[row] for x in (self.dose, self.probability, self.prognosis)
        )
        # A product of matrices here is compiled to a wrong result for batches of tasks by jaxlib 0.10.2 on CPUs.
        effect = sum(dose[..., i] * response[i] for i in range(RESPONSES))
        exponent = jnp.where(probability > 0, jnp.asarray(effect)[..., None] * prognosis, -jnp.inf)
        # Without the largest exponent, the exponential overflows for large responses.
        weight = probability * jnp.exp(exponent - jnp.max(exponent, axis=-1, keepdims=True))
        return weight / jnp.sum(weight, axis=-1, keepdims=True)

    def plan(self, probability: Array) -> Plan:
        """Compute the best policy of an episode by backward induction.

        Args:
            probability: the probabilities of ``successor``, ``[R, K]``.
        """
        treated = jnp.arange(self.states) < self.death

        def backup(value: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            action_value = jnp.sum(probability * value[self.successor], axis=-1)
            best = jax.ops.segment_max(action_value, self.state, self.states, indices_are_sorted=True)
            best = jnp.where(treated, best, self.leaving)
            return best, (best, action_value - best[self.state])

        _, (value, loss) = jax.lax.scan(backup, self.leaving, None, length=self.horizon, reverse=True)
        return Plan(value, jnp.where(self.row >= 0, loss[:, self.row], -1.0))

    def value(self, probability: Array, policy: Array) -> Array:
        """Compute the expected return of a policy.

        Args:
            probability: the probabilities of ``successor``, ``[R, K]``.
            policy: the probabilities of actions at each step, ``[H, S, 25]``. An action that is not admissible is
                replaced by a random admissible one.

        Returns:
            The expected return of a new patient.
        """
        admissible, treated = self.row >= 0, jnp.arange(self.states) < self.death

        def backup(value: Array, policy: Array) -> tuple[Array, None]:
            action_value = jnp.sum(probability * value[self.successor], axis=-1)[self.row]
            replaced = jnp.sum(jnp.where(admissible, 0.0, policy), axis=-1) / self.number
            policy = jnp.where(admissible, policy + replaced[:, None], 0.0)
            return jnp.where(treated, jnp.sum(policy * action_value, axis=-1), self.leaving), None

        return self.first_value(jax.lax.scan(backup, self.leaving, policy, reverse=True)[0])

    def first_value(self, value: Array) -> Array:
        """Return the mean of the values ``[S]`` of first states."""
        return self.start @ value

    def _observe(self, state: PatientState) -> Array:
        assert self.mean_plan is not None
        loss = self.mean_plan.loss[jnp.minimum(state.time, self.horizon - 1), state.position]
        passed = (state.time / self.horizon).astype(jnp.float32)
        advice = jnp.maximum(ADVICE_SCALE * loss, -1.0)
        return jnp.concatenate([passed[None], self.features[state.position], advice])

    def place(self, observation: Array) -> tuple[Array, Array]:
        """Return the step and the state of observations ``[T, ...]``, two arrays ``[T]`` int32."""
        step = jnp.round(observation[:, 0] * self.horizon).astype(jnp.int32)
        features = observation[:, 1 : 1 + self.features.shape[-1]]
        # The state with the nearest features: |x - y|^2 = |x|^2 - 2 x y + |y|^2, where |x|^2 is the same for all y.
        distance = jnp.sum(self.features**2, axis=-1) - 2 * features @ self.features.T
        return step, jnp.argmin(distance, axis=-1).astype(jnp.int32)

    def reset_env(self, key: Key, params: Population) -> tuple[Array, PatientState]:
        del params
        cumulative = jnp.cumsum(self.start[: self.death])
        threshold = jax.random.uniform(key, dtype=jnp.float32) * cumulative[-1]
        position = jnp.minimum(jnp.sum(threshold >= cumulative, dtype=jnp.int32), self.death - 1)
        state = PatientState(position, jnp.int32(0))
        return self._observe(state), state

    def step_env(
        self, key: Key, state: PatientState, action: Array, params: Population
    ) -> tuple[Array, PatientState, Array, Array, dict[Any, Any]]:
        key_action, key_next = jax.random.split(key)
        other = jax.random.randint(key_action, (), 0, self.number[state.position], jnp.int32)
        row = self.row[state.position, action]
        row = jnp.where(row >= 0, row, self.first[state.position] + other)
        cumulative = jnp.cumsum(self.tilted(params.response, row))
        threshold = jax.random.uniform(key_next, dtype=jnp.float32) * cumulative[-1]
        index = jnp.minimum(jnp.sum(threshold >= cumulative, dtype=jnp.int32), self.successor.shape[1] - 1)
        after = PatientState(self.successor[row, index], state.time + 1)
        over = after.position >= self.death
        left = jnp.logical_or(over, after.time >= self.horizon)
        reward = jnp.where(left, self.leaving[after.position], 0.0)
        return self._observe(after), after, reward, left, {}

    def action_space(self, params: Population | None = None) -> Discrete:
        del params
        return Discrete(LEVELS**2)

    def observation_space(self, params: Population | None = None) -> Box:
        del params
        return Box(-3.0, 3.0, (1 + self.features.shape[-1] + LEVELS**2,))

    def draw(self, frames: Sequence[Frame], task: Population) -> Image:
        """Draw the prognosis and the doses of the current patient (``drawing.Drawable``)."""
        del task
        picture, canvas = blank()
        width = SIZE / (self.horizon + 1)
        for frame in of_episode(frames):
            left, right = frame.step * width + 2, (frame.step + 1) * width - 2
            survival = float(self.leaving[int(frame.state.position)])
            canvas.rectangle((left, SIZE / 2 * (1 - survival), right, SIZE / 2), fill="lightgrey")
            if frame.action is not None:
                for level, base, colour in zip(
                    divmod(int(frame.action), LEVELS), (0.75, 1.0), ("royalblue", "tomato"), strict=True
                ):
                    top = SIZE * (base - 0.22 * level / (LEVELS - 1))
                    canvas.rectangle((left, top - 2, right, SIZE * base), fill=colour)
        return picture


MEAN_OF = 256
"""The number of training populations of which the mean model is the mean."""


@functools.cache
def _environment(horizon: int, response: float) -> Sepsis:
    # The family may be made while a function is traced, and the cache must not keep traced values.
    with jax.ensure_compile_time_eval():
        return with_advice(_installed(), horizon, response)


def with_advice(model: Model, horizon: int, response: float) -> Sepsis:
    """Make the environment, with the action values of the mean of training populations.

    Args:
        model: the MDP.
        horizon: the largest number of steps of an episode.
        response: the largest response of a training population.
    """
    env = Sepsis(model, horizon)
    responses = jax.random.uniform(jax.random.key(0), (MEAN_OF, RESPONSES), jnp.float32, -response, response)

    @jax.jit
    def mean(responses: Array) -> Array:
        def add(total: Array, response: Array) -> tuple[Array, None]:
            return total + env.tilted(response), None

        return jax.lax.scan(add, jnp.zeros_like(env.probability), responses)[0] / MEAN_OF

    env.mean_plan = jax.jit(env.plan)(mean(responses))
    return env


def _family(env: Sepsis, response: float, shifted: bool) -> EnvFamily:
    def sample(key: Key) -> Population:
        values = jax.random.uniform(key, (RESPONSES,), jnp.float32, -response, response)
        return Population(values, env.horizon)

    def outside(key: Key) -> Population:
        key_sign, key_size = jax.random.split(key)
        size = jax.random.uniform(key_size, (RESPONSES,), jnp.float32, response, 1.5 * response)
        return Population(size * random_signs(key_sign, (RESPONSES,)), env.horizon)

    def success(task: Population, step: Transition) -> Array:
        del task
        # The reward of a patient who leaves is a probability below 1.
        return step.reward >= 1

    def training_reward(task: Population, t: Transition, discount: float) -> Array:
        """Add the change of the value that a state has under the mean model, which makes rewards dense.

        The discounted sum over an episode is its discounted return minus the value of the first state (Ng et al. 1999).
        """
        del task
        assert env.mean_plan is not None
        value = env.mean_plan.value
        after = value[*env.place(t.final_obs)]
        return t.reward + jnp.where(t.terminated, 0.0, discount * after) - value[*env.place(t.inputs.obs)]

    return EnvFamily(
        env=env,
        tasks=TaskDistribution(sample, outside if shifted else sample),
        horizon=env.horizon,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda task: env.first_value(env.plan(env.tilted(task.response)).value[0]),
        privileged=Privileged(training_reward=training_reward),
        success=success,
    )


def make(horizon: int = 15, response: float = 4.0, *, shifted: bool = False) -> EnvFamily:
    """Make a family whose tasks are populations of patients with sepsis.

    Each response is uniform between ``-response`` and ``response``.

    Args:
        horizon: The largest number of steps of an episode. A step is four hours.
        response: The largest response of a training population.
        shifted: Whether held-out tasks are drawn from outside of the range of training tasks. Each response is then
            larger than in training, by a factor of up to 1.5, and has a random sign.

    Raises:
        ModuleNotFoundError: if the package icu-sepsis is not installed.
        ValueError: if a setting is out of range, or the package's files cannot be read.
    """
    horizon, response = positive_int("horizon", horizon), positive_number("response", response)
    shifted = boolean("shifted", shifted)
    return _family(_environment(horizon, response), response, shifted)
