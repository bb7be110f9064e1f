"""Bias and variance of estimators of the meta-gradient, against exact derivatives: the comparison of ProMP.

On random tabular MDPs the expected return of a policy is a sum over the model, and with it its Hessian and the
meta-gradient, the derivative of the return after one exact inner step. What a sampled estimator gives is compared with
these, averaged over many batches: "bias" is the distance of its mean from the exact value, "error of the bias" how far
it would lie if it were unbiased, and "noise" the root mean squared distance of one sample from the mean; all as
fractions of the exact value's norm. (Rothfuss et al. 2019, arXiv 1810.06784; Foerster et al. 2018, arXiv 1802.05098;
Liu et al. 2019, arXiv 1906.03926.)

    python benchmarks/gradient_estimators.py --episodes 10 40 160 --samples 4096

The mean of a meta-gradient's estimator differs from the exact value also because it adapts to a finite sample: that
part of the bias shrinks with the number of episodes, an estimator's own does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from results_file import provenance, write_row

from metarl_jax import problems
from metarl_jax.environments import tabular_mdp
from metarl_jax.meta_gradient import Learner, collect, explicit
from metarl_jax.networks import mlp
from metarl_jax.ops.inner_loop import step_sizes
from metarl_jax.types import Inputs

STATES, ACTIONS, HORIZON = 4, 3, 5
INNER_RATE = 10.0
"""Of the return per step; large, so that what the estimators disagree on matters."""
ESTIMATORS: tuple[problems.Estimator, ...] = ("dice", "likelihood_ratio", "log_likelihood")


class Summary(NamedTuple):
    """Of an estimator, as fractions of the exact value's norm."""

    bias: float
    bias_error: float
    noise: float
    cosine: float
    """Between the estimator's mean and the exact value."""


def summarise(samples: jax.Array, exact: jax.Array) -> Summary:
    """From samples ``[N, D]`` of an estimator of ``exact`` ``[D]``."""
    mean = jnp.mean(samples, axis=0)
    noise = jnp.sqrt(jnp.sum(jnp.var(samples, axis=0, ddof=1)))
    size = jnp.linalg.norm(exact)
    cosine = jnp.vdot(mean, exact) / (jnp.linalg.norm(mean) * size)
    bias = jnp.linalg.norm(mean - exact)
    return Summary(
        *(float(x) for x in (bias / size, noise / jnp.sqrt(samples.shape[0]) / size, noise / size, cosine))
    )


def in_batches(one: Callable[[jax.Array], jax.Array], key: jax.Array, samples: int, batch: int) -> jax.Array:
    """``[samples, D]`` of ``one``, ``batch`` at a time."""
    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=batch))(jax.random.split(key, samples))


def measure(episodes: int, samples: int, hessian_samples: int, mdps: int) -> list[dict[str, Any]]:
    """A row for each quantity and estimator: means over the MDPs, each with a policy of its own."""
    family = tabular_mdp.make(STATES, ACTIONS, HORIZON)
    policy = mlp.make(family.observation_space, family.action_space, hidden_sizes=(8,), history=False, critic=False)
    found: dict[tuple[str, str], list[Summary]] = {}
    for index in range(mdps):
        keys = jax.random.split(jax.random.key(index), 5)
        task = family.tasks.sample(keys[0])
        # The policy's last layer starts near zero, that is near uniform: away from it.
        start, structure = ravel_pytree(policy.init(keys[1]))
        start = start + 0.5 * jax.random.normal(keys[2], start.shape)

        def exact_return(flat: jax.Array, structure: Any = structure, task: Any = task) -> jax.Array:
            """Expected reward per step, by the model."""
            inputs = Inputs(
                jnp.eye(STATES), jnp.zeros(STATES, jnp.int32), *jnp.zeros((2, STATES)), jnp.zeros(STATES, bool)
            )
            act = jax.nn.softmax(policy.unroll(structure(flat), (), inputs)[1].distribution.logits)
            value = jnp.zeros(STATES)
            for _ in range(HORIZON):
                value = jnp.sum(act * (task.reward_mean + task.transition @ value), axis=-1)
            return value[0] / HORIZON

        def after_a_step(flat: jax.Array, exact_return: Callable[[jax.Array], jax.Array] = exact_return) -> jax.Array:
            return exact_return(flat + INNER_RATE * jax.grad(exact_return)(flat))

        exact = {
            "hessian": jax.jit(jax.hessian(exact_return))(start).reshape(-1),
            "meta-gradient": jax.jit(jax.grad(after_a_step))(start),
        }
        for estimator in ESTIMATORS:
            problem = problems.policy_gradient(
                family,
                policy,
                episodes=episodes,
                discount=1.0,
                estimator=estimator,
                baseline="none",
                normalise_advantages=False,
            )
            learner = Learner(
                init=problem.init,
                start=lambda meta: meta,
                params=lambda meta, adapting: adapting,
                loss=lambda meta, problem=problem: problem.inner_loss,
                rates=lambda meta, steps: step_sizes(INNER_RATE, meta, steps),
            )
            adapted = explicit(learner, "exact", False)

            def hessian(key: jax.Array, problem: Any = problem, structure: Any = structure, task: Any = task) -> Any:
                batch = problem.support(key, structure(start), task)
                return -jax.hessian(lambda flat: problem.inner_loss(structure(flat), batch))(start).reshape(-1)

            def gradient(
                key: jax.Array,
                problem: Any = problem,
                learner: Learner = learner,
                adapted: Any = adapted,
                structure: Any = structure,
                task: Any = task,
            ) -> jax.Array:
                data = collect(key, problem, learner, structure(start), task, 1)

                def gain(flat: jax.Array) -> jax.Array:
                    return -problem.outer_loss(adapted(structure(flat), data.supports), data.query)

                return jax.grad(gain)(start)

            for quantity, one, count, batch in (
                ("hessian", hessian, hessian_samples, 16),
                ("meta-gradient", gradient, samples, 64),
            ):
                summary = summarise(in_batches(one, keys[3], count, batch), exact[quantity])
                found.setdefault((quantity, estimator), []).append(summary)
    rows = []
    for (quantity, estimator), summaries in found.items():
        mean = Summary(*(sum(column) / len(column) for column in zip(*summaries, strict=True)))
        rows.append({"quantity": quantity, "estimator": estimator, "episodes": episodes, **mean._asdict()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, nargs="+", default=[10, 40, 160], help="in each batch")
    parser.add_argument("--samples", type=int, default=4096, help="of the meta-gradient, an MDP")
    parser.add_argument("--hessian-samples", type=int, default=1024, help="of the Hessian, an MDP")
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
