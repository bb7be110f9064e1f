"""Invalid values raise one clear error before anything compiles."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import checks, experiments, problems
from metarl_jax.algorithms import e_maml, maml, maml_trpo, reptile
from metarl_jax.checks import real
from metarl_jax.datasets import glyphs, sinusoid
from metarl_jax.environments import point_robot
from metarl_jax.evaluation import meta_test
from metarl_jax.networks import mlp
from metarl_jax.oracles import from_scratch, known_task


@pytest.mark.parametrize("value", [0.5, 1, np.float64(0.5), np.array(0.5), jnp.float32(0.5)])
def test_numbers_in_range_pass(value: Any) -> None:
    assert real(above=0, below=2)("rate", value) == pytest.approx(float(value))


@pytest.mark.parametrize(
    "value",
    [np.nan, np.inf, np.array(np.nan), jnp.float32(jnp.nan), jnp.ones(3), np.ones(1), 0, 2, -1.0, True, "1", None],
)
def test_numbers_out_of_range_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match="rate must be a finite number above 0 and below 2, not "):
        real(above=0, below=2)("rate", value)


def test_tracers_pass_if_they_are_scalars() -> None:
    passed = jax.jit(lambda x: real(above=0)("rate", x) * 2)
    assert float(passed(3.0)) == 6.0
    with pytest.raises(ValueError, match="rate must be a finite number above 0"):
        passed(jnp.ones(2))


WAVES = problems.few_shot(sinusoid.maml(5, 5), mlp.predictor(1, 1))


def robots() -> Any:
    family = point_robot.maml()
    policy = mlp.policy(family.observation_space, family.action_space, history=False, critic=False)
    return problems.policy_gradient(family, policy)


def glyph_preset(**changes: Any) -> Any:
    experiment = experiments.get("maml-glyphs-5x1")
    return experiment.build(experiment.with_overrides(changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: problems.few_shot(glyphs.make(10, 1, 1), mlp.classifier(784, 5)),
            "5 outputs, and the tasks ask for 10",
        ),
        (
            lambda: problems.few_shot(glyphs.make(5, 1, 1), mlp.classifier(784, 5), heldout=glyphs.make(20, 1, 1)),
            "5 outputs, and the tasks ask for 20",
        ),
        (
            lambda: reptile.make(WAVES, reptile.Config(second_moment_decay=1.0)),
            "second_moment_decay must be .* below 1",
        ),
        (
            lambda: maml.make(WAVES, maml.Config(first_order="no")),  # pyright: ignore[reportArgumentType]
            "first_order must be True or False, not 'no'",
        ),
        (lambda: glyph_preset(heldout_shots=0), "heldout_shots must be a positive whole number, not 0"),
        (lambda: from_scratch.gradient_descent(WAVES, -1, 0.1), "steps must be a whole number of at least 0, not -1"),
        (lambda: from_scratch.adam(WAVES, 1, float("nan")), "rate must be a finite number above 0, not nan"),
        (lambda: known_task.optimal(point_robot.maml(), 0), "stages must be a positive whole number, not 0"),
        (lambda: e_maml.Config(tasks=1), "tasks must be a whole number of at least 2, not 1"),
        (
            lambda: maml_trpo.make(robots()._replace(policy=None), maml_trpo.Config()),
            "a trust region needs a problem with a policy .*this one has none",
        ),
    ],
)
def test_values_that_do_not_fit_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("wrong", [{"num_tasks": 0}, {"num_seeds": 0}, {"batch_size": 0}, {"num_tasks": 1.5}])
def test_an_evaluation_of_no_tasks_is_refused(wrong: dict[str, Any]) -> None:
    oracle = from_scratch.adam(WAVES, 1, 0.1)
    settings: dict[str, Any] = {"num_tasks": 2, **wrong}
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a positive whole number"):
        meta_test(jax.random.key(0), oracle.adapt, (), WAVES.tasks, **settings)


@pytest.mark.parametrize("seeds", [(0, 1), (0, 2**32), (2**32 - 1, 1), (2**32 - 3, 3)])
def test_seeds_within_the_range_are_returned(seeds: tuple[int, int]) -> None:
    assert checks.seed_range(*seeds) == seeds


@pytest.mark.parametrize(
    ("seed", "seeds", "words"),
    [
        (2**32 - 1, 2, "seeds 4294967295 .. 4294967296 are not all from 0 to 4294967295"),
        (2**32, 1, "seeds 4294967296 .. 4294967296 are not all from 0 to 4294967295"),
        (-1, 2, "seed must be a whole number of at least 0, not -1"),
        (0, 0, "seeds must be a positive whole number, not 0"),
        (0.5, 1, "seed must be a whole number of at least 0, not 0.5"),
    ],
)
def test_seeds_that_would_be_others_are_refused(seed: Any, seeds: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        checks.seed_range(seed, seeds)


def test_names_near_an_unknown_one_are_found_by_their_words() -> None:
    options = ["--help", "--adaptation-episodes", "--value-unit", "--time-limit", "--hidden-size"]
    assert checks.did_you_mean("--episodes", options) == " (did you mean --adaptation-episodes?)"
    assert checks.did_you_mean("--hiden-size", options) == " (did you mean --hidden-size?)"
    assert checks.did_you_mean("--adaptation_episodes", options) == " (did you mean --adaptation-episodes?)"
    # Names that only have dashes in common are not similar.
    assert checks.did_you_mean("--zq", options) == ""
