"""The random reference learner: all actions have the same probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import probe_family

from metarl_jax.environments import bandits
from metarl_jax.oracles import at_random
from metarl_jax.types import Box


def test_arms_are_pulled_equally_often() -> None:
    """The expected reward of a random pull is the mean of the arms' means."""
    family, pulls = bandits.bernoulli(3), 4000
    task = family.tasks.sample(jax.random.key(0))
    score = jax.jit(at_random.uniform(family, pulls).adapt)(jax.random.key(1), (), task).score
    assert score.shape == (pulls,)
    assert abs(float(jnp.mean(score) - jnp.mean(task.means))) < 4 * 0.5 / np.sqrt(pulls)


def test_vectors_are_uniform_between_their_bounds() -> None:
    """The probe's reward is minus the squared distance of an action to a target, whose mean has a closed form."""
    family = probe_family()
    task = family.tasks.sample(jax.random.key(0))
    adapt = jax.jit(jax.vmap(at_random.uniform(family, 1).adapt, (0, None, None)))
    number = 4000
    scores = adapt(jax.random.split(jax.random.key(1), number), (), task).score[:, 0]
    # Episodes last 1, 2, ... 5 steps, and continue after each step with probability 0.7.
    steps = sum(0.7**i for i in range(5))
    expected = -steps * float(jnp.mean(1 / 3 + task.target**2))
    assert abs(float(jnp.mean(scores)) - expected) < 4 * float(jnp.std(scores)) / np.sqrt(number)


def test_actions_without_bounds_have_no_uniform_distribution() -> None:
    family = probe_family()._replace(action_space=Box(-jnp.inf, jnp.inf, (2,)))
    with pytest.raises(ValueError, match="need an action space with finite bounds"):
        at_random.uniform(family, 1)
    with pytest.raises(ValueError, match="episodes"):
        at_random.uniform(probe_family(), 0)
