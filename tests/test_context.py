"""The encoder of contexts, and actors and critics on its latent variable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.interfaces.context import Experience
from metarl_jax.networks import context
from metarl_jax.ops.distributions import Categorical, SquashedGaussian
from metarl_jax.types import Array, Box, Discrete, Space

SPACES: list[tuple[Space, Space]] = [
    (Box(-1.0, 1.0, (3,)), Box(-2.0, 1.0, (2,))),
    (Discrete(4), Discrete(3)),
    (Box(0.0, 1.0, (5, 6, 1)), Discrete(2)),
]
STEPS, LATENT = 6, 2


def some(space: Space, key: Array) -> Array:
    if isinstance(space, Discrete):
        return jax.random.randint(key, (STEPS,), 0, space.n)
    return jax.random.uniform(key, (STEPS, *space.shape))


def experience(spaces: tuple[Space, Space]) -> Experience:
    keys = jax.random.split(jax.random.key(1), 4)
    reward = jax.random.normal(keys[0], (STEPS,))
    obs, action, after = some(spaces[0], keys[1]), some(spaces[1], keys[2]), some(spaces[0], keys[3])
    return Experience(obs, action, reward, after, jnp.zeros(STEPS, bool), jnp.ones(STEPS, bool))


@pytest.mark.parametrize("spaces", SPACES, ids=str)
def test_beliefs_do_not_depend_on_order_and_ignore_missing_steps(spaces: tuple[Space, Space]) -> None:
    encoder = context.encoder(*spaces, latent_size=LATENT, hidden_sizes=(5,), next_observation=True)
    params, seen = encoder.init(jax.random.key(0)), experience(spaces)
    belief = encoder.infer(params, seen)
    assert belief.mean.shape == (LATENT,)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    shuffled = encoder.infer(params, jax.tree.map(lambda x: x[order], seen))
    np.testing.assert_allclose(shuffled.mean, belief.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shuffled.log_std, belief.log_std, rtol=1e-5, atol=1e-6)
    half = encoder.infer(params, jax.tree.map(lambda x: x[:3], seen))
    masked = encoder.infer(params, seen._replace(valid=jnp.arange(STEPS) < 3))
    np.testing.assert_allclose(masked.mean, half.mean, rtol=1e-5, atol=1e-6)
    assert bool(jnp.all(belief.log_std < half.log_std))
    nothing = encoder.infer(params, seen._replace(valid=jnp.zeros(STEPS, bool)))
    np.testing.assert_array_equal(nothing.mean, 0.0)
    np.testing.assert_allclose(nothing.log_std, 0.0, atol=1e-6)


def test_the_same_step_n_times_is_the_product_of_n_factors_and_the_prior() -> None:
    """The posterior of n equal factors N(m, s^2) has precision 1 + n / s^2, and mean n m / s^2 divided by it.

    Two values of n determine m and s.
    """
    spaces = SPACES[0]
    encoder = context.encoder(*spaces, latent_size=LATENT, hidden_sizes=(5,))
    params, seen = encoder.init(jax.random.key(0)), experience(spaces)

    def repeated(number: int) -> tuple[np.ndarray, np.ndarray]:
        belief = encoder.infer(params, jax.tree.map(lambda x: jnp.repeat(x[:1], number, axis=0), seen))
        precision = np.exp(-2 * np.asarray(belief.log_std, np.float64))
        return precision, precision * np.asarray(belief.mean)

    one, five = repeated(1), repeated(5)
    np.testing.assert_allclose(five[0] - 1, 5 * (one[0] - 1), rtol=1e-4)
    np.testing.assert_allclose(five[1], 5 * one[1], rtol=1e-4)


@pytest.mark.parametrize("spaces", SPACES, ids=str)
def test_actors_act_in_their_space_and_critics_judge_each_action(spaces: tuple[Space, Space]) -> None:
    encoder = context.encoder(*spaces, latent_size=LATENT, hidden_sizes=(5,))
    networks = context.combine(*spaces, encoder, latent_size=LATENT, hidden_sizes=(6, 7))
    keys, seen = jax.random.split(jax.random.key(0), 4), experience(spaces)
    latent = jax.random.normal(keys[0], (STEPS, LATENT))
    actor, critic = networks.actor.init(keys[1]), networks.critic.init(keys[2])
    distribution = networks.actor.distribution(actor, seen.obs, latent)
    values = networks.critic.values(critic, seen.obs, latent, seen.action)
    for value in values:
        assert value.shape == (STEPS,)
    assert bool(jnp.all(values[0] != values[1]))
    expected, entropy = networks.critic.expected(critic, keys[3], seen.obs, latent, distribution)
    if isinstance(spaces[1], Discrete):
        assert isinstance(distribution, Categorical)
        every = [
            jnp.minimum(*networks.critic.values(critic, seen.obs, latent, jnp.full(STEPS, action, jnp.int32)))
            for action in range(spaces[1].n)
        ]
        probability = jax.nn.softmax(distribution.logits)
        np.testing.assert_allclose(expected, jnp.sum(probability * jnp.stack(every, -1), -1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(entropy, distribution.entropy(), rtol=1e-5)
    else:
        assert isinstance(distribution, SquashedGaussian)
        action, log_prob = distribution.sample_with_log_prob(keys[3])
        assert bool(jnp.all((action > -2) & (action < 1)))
        judged = jnp.minimum(*networks.critic.values(critic, seen.obs, latent, action))
        np.testing.assert_allclose(expected, judged, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(entropy, -log_prob, rtol=1e-5)
    # Single observations give the same results as a batch.
    alone = networks.actor.distribution(actor, seen.obs[2], latent[2])
    np.testing.assert_allclose(jax.tree.leaves(alone)[0], jax.tree.leaves(distribution)[0][2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "actions", [Box(-jnp.inf, jnp.inf, (2,)), Box(-1.0, 1.0, (2, 2)), Box(jnp.array([0.0, -jnp.inf]), 1.0, (2,))]
)
def test_actions_of_another_kind_are_refused(actions: Space) -> None:
    encoder = context.encoder(SPACES[0][0], actions, latent_size=LATENT)
    with pytest.raises(ValueError, match="actions must be discrete, or vectors between finite bounds"):
        context.combine(SPACES[0][0], actions, encoder, latent_size=LATENT)


@pytest.mark.parametrize("setting", ["latent_size", "hidden_sizes"])
def test_sizes_must_be_positive(setting: str) -> None:
    wrong: dict[str, Any] = {"latent_size": 0} if setting == "latent_size" else {"hidden_sizes": (4, -1)}
    with pytest.raises(ValueError, match=setting):
        context.encoder(*SPACES[0], **wrong)
    encoder = context.encoder(*SPACES[0])
    with pytest.raises(ValueError, match=setting):
        context.combine(*SPACES[0], encoder, **wrong)
