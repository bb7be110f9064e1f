"""Bias and variance of estimators of the meta-gradient, compared with exact derivatives, as in the paper of ProMP.

On random tabular MDPs, the expected return of a policy is a sum over the model. Its Hessian and the meta-gradient can
therefore be computed exactly. The meta-gradient is the derivative of the return after one exact inner step. The samples
of an estimator over many batches are compared with these exact values:

- "bias" is the distance between the mean of the samples and the exact value,
- "error of the bias" is the expected distance for an unbiased estimator,
- "noise" is the root mean squared distance between one sample and the mean.

All three are fractions of the norm of the exact value. (Rothfuss et al. 2019, arXiv 1810.06784; Foerster et al. 2018,
arXiv 1802.05098; Liu et al. 2019, arXiv 1906.03926.)

    python benchmarks/gradient_estimators.py --episodes 10 40 160 --samples 4096

The estimator of a meta-gradient has two sources of bias. One is that it adapts to a finite sample, and this part
shrinks with the number of episodes. The other is the bias of the estimator itself, which does not shrink.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from results_file import provenance, write_row

from metarl_jax import problems
from metarl_jax.environments import tabular_mdp
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.meta_gradient import DifferentiationConfig, InnerLoopConfig, collect, make_learner, unrolled
from metarl_jax.networks import mlp
from metarl_jax.types import Inputs, Params, Policy, Task

STATES, ACTIONS, HORIZON = 4, 3, 5
INNER_RATE = 2.0
"""The inner step size for the gradient of the return per step. It is so large that the estimators differ visibly."""
ESTIMATORS: tuple[problems.Estimator, ...] = ("dice", "likelihood_ratio", "log_likelihood")


Structure: TypeAlias = Callable[[jax.Array], Params]
"""A function from a flat vector to parameters."""
Sampler: TypeAlias = Callable[[jax.Array], jax.Array]
"""A function from a random key to one sample, as a flat vector."""


class Summary(NamedTuple):
    """The statistics of an estimator. All except the cosine are fractions of the norm of the exact value."""

    bias: float
    """The distance between the mean of the samples and the exact value."""
    bias_error: float
    """The expected distance between the mean and the exact value for an unbiased estimator."""
    noise: float
    """The root mean squared distance between one sample and the mean."""
    cosine: float
    """The cosine of the angle between the mean of the samples and the exact value."""


def summarise(samples: jax.Array, exact: jax.Array) -> Summary:
    """Compute the statistics of samples ``[N, D]`` of an estimator of ``exact`` ``[D]``."""
    mean = jnp.mean(samples, axis=0)
    noise = jnp.sqrt(jnp.sum(jnp.var(samples, axis=0, ddof=1)))
    size = jnp.linalg.norm(exact)
    cosine = jnp.vdot(mean, exact) / (jnp.linalg.norm(mean) * size)
    bias = jnp.linalg.norm(mean - exact)
    return Summary(*(float(x) for x in (bias / size, noise / jnp.sqrt(samples.shape[0]) / size, noise / size, cosine)))


def in_batches(one: Sampler, key: jax.Array, samples: int, batch: int) -> jax.Array:
    """Draw samples ``[samples, D]`` with ``one``, in batches of ``batch``."""
    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch))(jax.random.split(key, samples))


def exact_return(policy: Policy, task: tabular_mdp.TabularMDPParams, params: Params) -> jax.Array:
    """Compute the expected reward per step from the model."""
    nothing = jnp.zeros(STATES)
    inputs = Inputs(jnp.eye(STATES), nothing.astype(jnp.int32), nothing, nothing, nothing == 1)
    act = jax.nn.softmax(policy.unroll(params, (), inputs)[1].distribution.logits)
    value = nothing
    for _ in range(HORIZON):
        value = jnp.sum(act * (task.reward_mean + task.transition @ value), axis=-1)
    return value[0] / HORIZON


def hessian_sample(problem: InnerProblem, task: Task, start: jax.Array, structure: Structure) -> Sampler:
    """Return a sampler of the Hessian of the return."""

    def sample(key: jax.Array) -> jax.Array:
        batch = problem.support(key, structure(start), task)
        return -jax.hessian(lambda flat: problem.inner_loss(structure(flat), batch))(start).reshape(-1)

    return sample


def gradient_sample(problem: InnerProblem, task: Task, start: jax.Array, structure: Structure) -> Sampler:
    """Return a sampler of the gradient of the return after an inner step."""
    learner = make_learner(problem, InnerLoopConfig(inner_rate=INNER_RATE))
    adapted = unrolled(learner, DifferentiationConfig())

    def sample(key: jax.Array) -> jax.Array:
        data = collect(key, problem, learner, structure(start), task, 1)
        return jax.grad(lambda flat: -problem.outer_loss(adapted(structure(flat), data.supports), data.query))(start)

    return sample


def compare(seed: int, episodes: int, samples: int, hessian_samples: int) -> dict[tuple[str, str], Summary]:
    """Compute the statistics of every estimator of both quantities, on one MDP with one policy."""
    family = tabular_mdp.make(STATES, ACTIONS, HORIZON)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(8,), history=False, critic=False)
    key_task, key_init, key_noise, key_samples = jax.random.split(jax.random.key(seed), 4)
    task = family.tasks.sample(key_task)
    # The last layer of a new policy is near zero, so the policy is near uniform. The noise moves it away from there.
    start, structure = ravel_pytree(policy.init(key_init))
    start = start + 0.5 * jax.random.normal(key_noise, start.shape)

    def gain(flat: jax.Array) -> jax.Array:
        return exact_return(policy, task, structure(flat))

    def gain_after_a_step(flat: jax.Array) -> jax.Array:
        return gain(flat + INNER_RATE * jax.grad(gain)(flat))

    hessian, gradient = jax.jit(jax.hessian(gain))(start), jax.jit(jax.grad(gain_after_a_step))(start)
    found = {}
    for estimator in ESTIMATORS:
        problem = problems.policy_gradient(
            family,
            policy,
            problems.PolicyGradientSettings(
                episodes=episodes, discount=1.0, estimator=estimator, baseline="none", normalise_advantages=False
            ),
        )
        given = (problem, task, start, structure)
        drawn = in_batches(hessian_sample(*given), key_samples, hessian_samples, 16)
        found["hessian", estimator] = summarise(drawn, hessian.reshape(-1))
        drawn = in_batches(gradient_sample(*given), key_samples, samples, 64)
        found["meta-gradient", estimator] = summarise(drawn, gradient)
    return found


def measure(episodes: int, samples: int, hessian_samples: int, mdps: int) -> list[dict[str, Any]]:
    """Return a row for each quantity and estimator, with means over MDPs. Each MDP has a separate policy."""
    found = [compare(seed, episodes, samples, hessian_samples) for seed in range(mdps)]
    rows = []
    for quantity, estimator in found[0]:
        columns = zip(*(one[quantity, estimator] for one in found), strict=True)
        mean = Summary(*(sum(column) / mdps for column in columns))
        rows.append({"quantity": quantity, "estimator": estimator, "episodes": episodes, **mean._asdict()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[10, 40, 160], help="numbers of episodes of a batch")
    parser.add_argument("--samples", type=int, default=4096, help="samples of the meta-gradient for each MDP")
    parser.add_argument("--hessian-samples", type=int, default=1024, help="samples of the Hessian for each MDP")
    parser.add_argument("--mdps", type=int, default=4)
    arguments = parser.parse_args()
    print(f"{'quantity':14} {'estimator':17} episodes    bias   (error)   noise  cosine")
    for episodes in arguments.episodes:
        for row in measure(episodes, arguments.samples, arguments.hessian_samples, arguments.mdps):
            print(
                f"{row['quantity']:14} {row['estimator']:17} {episodes:8d} {row['bias']:7.3f} {row['bias_error']:9.3f}"
                f" {row['noise']:7.2f} {row['cosine']:7.3f}",
                flush=True,
            )
            experiment = f"{row['quantity']}-{row['estimator']}-{episodes}-episodes"
            sizes = {key: getattr(arguments, key) for key in ("samples", "hessian_samples", "mdps")}
            write_row(
                "gradient_estimators", {"experiment": experiment, "metric": "bias", **row, **sizes, **provenance()}
            )


if __name__ == "__main__":
    main()
