"""Controllers without meta-learning, as reference learners for ``environments.linear_quadratic``.

Every factory takes ``(family, episodes)``: a family of plants, and the number of episodes of a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metarl_jax.checks import positive_int
from metarl_jax.environments.linear_quadratic import (
    LIMIT,
    LinearQuadratic,
    Plant,
    PlantState,
    Prior,
    Riccati,
    riccati,
)
from metarl_jax.oracles.base import at_first_use, of_trials
from metarl_jax.rollout import trial
from metarl_jax.types import Array, Carry, EnvFamily, Inputs, Key, Oracle, Transition

PLANTS = 512
"""The number of training plants on which a fixed gain is optimised, and of others on which it is chosen."""
SPREAD = 0.5
"""The standard deviation of every entry of A and B that ``least_squares`` assumes."""


def _environment(family: EnvFamily) -> LinearQuadratic:
    if not isinstance(family.env, LinearQuadratic):
        message = f"family must be one of environments.linear_quadratic, not one of {type(family.env).__name__}"
        raise ValueError(message)
    return family.env


def _time(memory: Array, inputs: Inputs) -> Array:
    """Return the index of this step in its episode, given that of the step before."""
    start = jnp.logical_or(inputs.first, inputs.prev_done > 0.5)
    return jnp.where(start, 0, memory + 1)


def _feedback(name: str, family: EnvFamily, episodes: int, gains: Callable[[Plant], Array]) -> Oracle:
    """Make the linear controller ``u = -gains(task)[t] x``."""
    episodes = positive_int("episodes", episodes)

    def run(key: Key, task: Plant) -> tuple[Carry, Transition]:
        controller = gains(task)

        def act(key: Key, memory: Array, inputs: Inputs) -> tuple[Array, Array, tuple[()]]:
            time = _time(memory, inputs)
            return time, -controller[time] @ inputs.obs, ()

        return trial(key, act, jnp.int32(0), family, task, episodes)

    return of_trials(name, episodes, run)


def known_plant(family: EnvFamily, episodes: int) -> Oracle:
    """Make the optimal controller of the known plant, by the Riccati recursion.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    effort = _environment(family).effort

    def gains(task: Plant) -> Array:
        return riccati(task.dynamics, task.gains, effort, family.horizon).gains

    return _feedback("Riccati controller, plant known", family, episodes, gains)


def nominal(family: EnvFamily, episodes: int) -> Oracle:
    """Make the controller that would be optimal for the nominal plant.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    controller = _nominal(family).gains
    return _feedback("Riccati controller of the nominal plant", family, episodes, lambda task: controller)


def _nominal(family: EnvFamily) -> Riccati:
    env = _environment(family)
    dynamics, gains = jnp.asarray(env.prior.dynamics, jnp.float32), jnp.asarray(env.prior.gains, jnp.float32)
    return riccati(dynamics, gains, env.effort, family.horizon)


def robust_gain(family: EnvFamily, steps: int = 300) -> np.ndarray:
    """Optimise a fixed linear controller ``u = -gain x`` for the distribution of training plants.

    Adam maximises the mean return on a sample of training plants through their simulation. It starts from zero, and
    from the long-run gain of the nominal plant. The result is the best of both solutions and both starts on other
    training plants.

    Args:
        family: a family of ``environments.linear_quadratic``.
        steps: the number of gradient steps.

    Returns:
        The gain, ``[M, N]``.
    """
    env = _environment(family)

    def mean_return(gain: Array, key: Key) -> Array:
        def one(key: Key) -> Array:
            key_plant, key_reset, key_steps = jax.random.split(key, 3)
            plant = family.tasks.sample(key_plant)

            def step(state: PlantState, key: Key) -> tuple[PlantState, Array]:
                _, state, reward, _, _ = env.step_env(key, state, -gain @ state.position, plant)
                return state, reward

            start = env.reset_env(key_reset, plant)[1]
            return jnp.sum(jax.lax.scan(step, start, jax.random.split(key_steps, family.horizon))[1])

        return jnp.mean(jax.vmap(one)(jax.random.split(key, PLANTS)))

    key_fit, key_choose = jax.random.split(jax.random.key(0))
    optimiser = optax.adam(0.02)

    def fit(start: Array) -> Array:
        def update(loop: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
            gain, state = loop
            gradient = jax.grad(lambda gain: -mean_return(gain, key_fit))(gain)
            change, state = optimiser.update(gradient, state)
            return (optax.apply_updates(gain, change), state), None  # pyright: ignore[reportReturnType]

        return jax.lax.scan(update, (start, optimiser.init(start)), None, length=steps)[0][0]

    starts = jnp.stack([jnp.zeros((env.inputs, env.states), jnp.float32), _nominal(family).gains[0]])
    candidates = jnp.concatenate([starts, jax.jit(jax.vmap(fit))(starts)])
    scores = jax.jit(jax.vmap(mean_return, (0, None)))(candidates, key_choose)
    return np.asarray(candidates[jnp.argmax(scores)])


def robust(family: EnvFamily, episodes: int) -> Oracle:
    """Make the best fixed linear controller for the distribution of training plants (``robust_gain``).

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    _environment(family)
    episodes, gain = positive_int("episodes", episodes), at_first_use(lambda: robust_gain(family))

    def controller(task: Plant) -> Array:
        del task
        return jnp.broadcast_to(jnp.asarray(gain()), (family.horizon, *gain().shape))

    return _feedback("robust fixed gain", family, episodes, controller)


class Belief(NamedTuple):
    """The posterior of a plant. Each row of [A B] is normally distributed, and the rows have equal covariances."""

    precision: Array
    """The inverse of the covariance of a row, ``[N + M, N + M]``."""
    moment: Array
    """The precision times the transposed mean of [A B], ``[N + M, N]``."""

    @property
    def mean(self) -> Array:
        """The mean of [A B], ``[N, N + M]``."""
        return jnp.linalg.solve(self.precision, self.moment).T


def prior_belief(prior: Prior) -> Belief:
    """Return the belief before the first step for a distribution of plants."""
    spread = np.repeat([prior.dynamics_spread, prior.gains_spread], prior.gains.shape)
    precision = np.diag(spread**-2.0)
    moment = precision @ np.concatenate([prior.dynamics, prior.gains], axis=1).T
    return Belief(jnp.asarray(precision, jnp.float32), jnp.asarray(moment, jnp.float32))


def observe(belief: Belief, before: Array, control: Array, after: Array, noise: float) -> Belief:
    """Return the posterior after a step, by Bayesian linear regression with known noise.

    Args:
        belief: the belief before the step.
        before: the state before the step, ``[N]``.
        control: the input, ``[M]``.
        after: the state after the step, ``[N]``.
        noise: the standard deviation of the noise.
    """
    regressors = jnp.concatenate([before, control])
    precision = belief.precision + jnp.outer(regressors, regressors) / noise**2
    return Belief(precision, belief.moment + jnp.outer(regressors, after) / noise**2)


class _Memory(NamedTuple):
    belief: Belief
    obs: Array
    """The state at the step before, ``[N]``."""
    time: Array
    """The index of the step before in its episode."""


def _certainty_equivalence(name: str, family: EnvFamily, episodes: int, prior: Prior) -> Oracle:
    """Make a controller that is optimal for the posterior mean of the plant, given a prior distribution."""
    env, episodes = _environment(family), positive_int("episodes", episodes)

    def run(key: Key, task: Plant) -> tuple[Carry, Transition]:
        def act(key: Key, memory: _Memory, inputs: Inputs) -> tuple[_Memory, Array, tuple[()]]:
            time = _time(memory.time, inputs)
            control = jnp.clip(inputs.prev_action, -LIMIT, LIMIT)
            after = observe(memory.belief, memory.obs, control, inputs.obs, env.noise)
            # The observation after the end of an episode is the first one of the next episode.
            linear = jnp.logical_and(time > 0, jnp.all(jnp.abs(inputs.obs) < LIMIT))
            belief = jax.tree.map(lambda new, old: jnp.where(linear, new, old), after, memory.belief)
            dynamics, gains = jnp.split(belief.mean, [env.states], axis=1)
            controller = riccati(dynamics, gains, env.effort, family.horizon).gains[time]
            return _Memory(belief, inputs.obs, time), -controller @ inputs.obs, ()

        start = _Memory(prior_belief(prior), jnp.zeros(env.states, jnp.float32), jnp.int32(0))
        return trial(key, act, start, family, task, episodes)

    return of_trials(name, episodes, run)


def certainty_equivalence(family: EnvFamily, episodes: int) -> Oracle:
    """Make a controller that is optimal for the posterior mean of the plant, at every step.

    The posterior is exact given the transitions between observed states; steps that reach a stop are left out. The
    controller does not explore, and does not allow for the uncertainty of the plant, so it is not Bayes-optimal.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    name = "certainty equivalence, exact posterior"
    return _certainty_equivalence(name, family, episodes, _environment(family).prior)


def least_squares(family: EnvFamily, episodes: int) -> Oracle:
    """Make the certainty-equivalence controller of a plant that is estimated by regularised least squares.

    The controller knows the nominal plant, the cost and the standard deviation of the noise, but not how much the
    plants of a family differ. The ridge penalty pulls the estimate of each entry of A and B to the nominal plant: it is
    the prior of a normal distribution with the standard deviation ``SPREAD``. Steps that reach a stop are left out.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    prior = _environment(family).prior._replace(dynamics_spread=SPREAD, gains_spread=SPREAD)
    return _certainty_equivalence("certainty equivalence, least squares", family, episodes, prior)
