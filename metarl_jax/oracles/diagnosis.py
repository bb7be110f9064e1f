"""Reference learners for diagnosis: they plan by backward induction, and differ in what they know of the clinic.

Every factory takes ``(family, episodes)``: a family of ``environments.diagnosis``, and the number of patients of a
trial. All plans are those of ``environments.diagnosis.plan``.

Parameters of the clinic are independent under the prior and, since every diagnosis reveals the condition, under the
posterior. No parameter concerns two results of the same patient. The joint distribution of a patient's condition and
results, given all earlier patients, is therefore exactly that of a clinic with the posterior means as parameters. The
plan for this clinic is the best one for the next patient, but does not order a test only for the sake of later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from metarl_jax.checks import positive_int
from metarl_jax.environments.diagnosis import Clinic, Diagnosis, Prior, place, plan
from metarl_jax.oracles.base import of_trials
from metarl_jax.rollout import episode, joined
from metarl_jax.types import Array, EnvFamily, Inputs, Key, Oracle, Transition

Choose: TypeAlias = Callable[[Prior, Prior, Clinic], tuple[Array, Array]]
"""``(prior, posterior, clinic) ->`` the prevalence and the quality of the tests that are planned for."""


def updated(posterior: Prior, patient: Transition, harms: Array, cost: float) -> Prior:
    """Return the posterior after one more patient.

    Args:
        posterior: the posterior after the patients before.
        patient: the steps of the patient, ``[M + 1, ...]``.
        harms: the harm of a wrong diagnosis in each condition, ``[C]``.
        cost: the cost of a test.

    Returns:
        The posterior with the patient's condition and results counted.
    """
    tests, conditions = posterior.results.shape[:2]
    last = jnp.logical_and(patient.terminated, patient.valid)
    reward = jnp.sum(jnp.where(last, patient.reward, 0.0))
    action = jnp.sum(jnp.where(last, patient.action, 0))
    # A patient without a diagnosis has a test at the last step, whose cost is a part of the reward.
    decided = reward + jnp.where(action < tests, cost, 0.0)
    # A right diagnosis reveals the condition, and the reward of a wrong one is minus its harm.
    wrong = jnp.argmin(jnp.abs(harms + decided))
    condition = jax.nn.one_hot(jnp.where(decided > 0, action - tests, wrong), conditions, dtype=jnp.float32)
    result = jnp.sum(jnp.where(last[:, None], patient.final_obs[:, :tests], 0.0), axis=0)
    seen = jnp.stack([result < 0, result > 0], axis=-1).astype(jnp.float32)
    return Prior(posterior.conditions + condition, posterior.results + seen[:, None] * condition[:, None])


def _make(name: str, family: EnvFamily, episodes: int, choose: Choose) -> Oracle:
    env = family.env
    if not isinstance(env, Diagnosis):
        raise ValueError(f"family must be one of environments.diagnosis, not one of {type(env).__name__}")
    episodes, harms = positive_int("episodes", episodes), jnp.asarray(env.harms, jnp.float32)

    def run(key: Key, task: Clinic) -> tuple[Prior, Transition]:
        def one_patient(posterior: Prior, key: Key) -> tuple[Prior, Transition]:
            best = plan(*choose(env.prior, posterior, task), harms, env.cost).action

            def act(key: Key, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], Array, tuple[()]]:
                del key
                return carry, best[place(inputs.obs)], ()

            _, steps = episode(key, act, (), family, task)
            return updated(posterior, steps, harms, env.cost), steps

        posterior, patients = jax.lax.scan(one_patient, env.prior, jax.random.split(key, episodes))
        return posterior, joined(patients)

    return of_trials(name, episodes, run)


def mean_clinic(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that plans for the mean of training clinics. No policy without a memory of patients is better.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    return _make("best plan for the mean clinic", family, episodes, lambda prior, posterior, clinic: prior.mean)


def counted(prior: Prior, posterior: Prior) -> Prior:
    """Return the posterior that has the counts of ``posterior``, but a flat prior.

    Args:
        prior: the prior of ``posterior``.
        posterior: the posterior after some patients.
    """
    return jax.tree.map(lambda after, before: 1 + after - before, posterior, prior)


def counted_conditions(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that counts conditions, and plans with the mean test qualities of training clinics.

    The prevalence is the share of each condition among all earlier patients and one additional patient of each
    condition. The learner learns nothing about the quality of the tests.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """

    def choose(prior: Prior, posterior: Prior, clinic: Clinic) -> tuple[Array, Array]:
        return counted(prior, posterior).mean[0], prior.mean[1]

    return _make("best plan for counted conditions and mean tests", family, episodes, choose)


def counted_everything(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that counts conditions and results from a flat prior, without knowledge of training clinics.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """

    def choose(prior: Prior, posterior: Prior, clinic: Clinic) -> tuple[Array, Array]:
        return counted(prior, posterior).mean

    return _make("best plan for counts from a flat prior", family, episodes, choose)


def posterior_mean(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that plans each patient with the exact posterior over clinics, given all earlier patients.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """
    name = "best plan for the posterior, one patient ahead"
    return _make(name, family, episodes, lambda prior, posterior, clinic: posterior.mean)


def clinic_known(family: EnvFamily, episodes: int) -> Oracle:
    """Make a learner that knows the clinic.

    Raises:
        ValueError: if the family is another one, or ``episodes`` is not a positive whole number.
    """

    def choose(prior: Prior, posterior: Prior, clinic: Clinic) -> tuple[Array, Array]:
        return clinic.prevalence, clinic.positive

    return _make("best plan, clinic known", family, episodes, choose)
