"""Estimators of the meta-gradient in reinforcement learning agree with known derivatives on a chain.

The state s0 leads to A with probability sigma(x), else to the end. In A, arm 1 has probability sigma(y) and reward 1.
Every trajectory is enumerated, so that expectations are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from probes import probe_family

from metarl_jax import problems
from metarl_jax.algorithms import e_maml, maml, maml_trpo, promp, reptile
from metarl_jax.environments import bandits, tabular_mdp
from metarl_jax.networks import mlp, recurrent
from metarl_jax.ops.distributions import Categorical, DiagonalGaussian
from metarl_jax.ops.trust_region import metric_product, trust_region_step
from metarl_jax.oracles import from_scratch
from metarl_jax.problems import Rollouts
from metarl_jax.types import Algorithm, Array, Box, Discrete, EnvFamily, Inputs, Output, Policy, TaskDistribution

X = Y = float(np.log(3.0))
ESTIMATORS: tuple[problems.Estimator, ...] = ("dice", "likelihood_ratio", "log_likelihood")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def chain_policy() -> Policy:
    """Make a policy with the logit ``params[s]`` for going on in state s."""

    def step(params: Array, carry: Any, inputs: Inputs) -> tuple[Any, Output]:
        logit = params[inputs.obs]
        return carry, Output(Categorical(jnp.stack([jnp.zeros_like(logit), logit], axis=-1)), jnp.zeros_like(logit))

    return Policy(lambda key: jnp.asarray([X, Y]), lambda params: (), step, step)


class _Chain:
    """A chain of two states.

    Going on leads from the first to the second state; going on there has the reward 1. Any other action ends the
    episode.
    """

    def reset(self, key: Array, params: Any) -> tuple[Array, Array]:
        del key, params
        return jnp.int32(0), jnp.int32(0)

    def step(self, key: Array, state: Array, action: Array, params: Any) -> tuple[Any, ...]:
        del key, params
        goes_on = action == 1
        over = ~goes_on | (state == 1)
        after = jnp.where(over, 0, 1).astype(jnp.int32)
        reward = (goes_on & (state == 1)).astype(jnp.float32)
        return after, after, reward, over, jnp.bool_(False), {"final_observation": jnp.int32(1)}

    def action_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(2)

    def observation_space(self, params: Any = None) -> Discrete:
        del params
        return Discrete(2)


def chain_problem(estimator: problems.Estimator) -> Any:
    family = EnvFamily(
        _Chain(),
        TaskDistribution(lambda key: (), lambda key: ()),
        2,
        Discrete(2),
        Discrete(2),
    )
    return problems.policy_gradient(
        family,
        chain_policy(),
        problems.PolicyGradientSettings(estimator=estimator, baseline="none", normalise_advantages=False, discount=1.0),
    )


def trajectories(theta: Array) -> list[tuple[Array, Rollouts, int]]:
    """Yield ``(probability under theta, the episode as collected by theta, its length)``."""
    found = []
    for actions in ((1, 1), (1, 0), (0, None)):
        length = 2 if actions[1] is not None else 1
        action = jnp.asarray([[actions[0], actions[1] or 0]])
        distribution = Categorical(jnp.stack([jnp.zeros(2), theta], axis=-1)[None])
        log_prob = distribution.log_prob(action)
        valid = jnp.arange(2)[None] < length
        paid = 1.0 if actions == (1, 1) else 0.0
        zero = jnp.zeros((1, 2))
        rollouts = Rollouts(
            inputs=Inputs(jnp.asarray([[0, 1]]), action, zero, zero, zero == 1),
            action=action,
            distribution=distribution,
            log_prob=log_prob,
            reward=jnp.asarray([[0.0, paid]]),
            advantage=jnp.full((1, 2), paid) * valid,
            target=zero,
            valid=valid,
        )
        rollouts = jax.lax.stop_gradient(rollouts)
        found.append((jax.lax.stop_gradient(jnp.exp(jnp.sum(log_prob * valid))), rollouts, length))
    return found


def expected_gain(problem: Any, theta: Array, at: Array) -> Array:
    """Return minus the expected inner loss of episodes collected at ``theta``, as a function of ``at``."""
    # The loss is a mean over steps; multiplied by the length it is a sum.
    return -sum(p * n * problem.inner_loss(at, batch) for p, batch, n in trajectories(theta))  # type: ignore[operator]


def sigma(z: float, order: int = 0) -> float:
    s = 1 / (1 + np.exp(-z))
    return float([s, s * (1 - s), s * (1 - s) * (1 - 2 * s)][order])


GRADIENT = np.array([sigma(X, 1) * sigma(Y), sigma(X) * sigma(Y, 1)])
CROSS = sigma(X, 1) * sigma(Y, 1)
HESSIANS = {
    "dice": np.array([[sigma(X, 2) * sigma(Y), CROSS], [CROSS, sigma(X) * sigma(Y, 2)]]),
    "likelihood_ratio": np.diag([sigma(X, 2) * sigma(Y), sigma(X) * sigma(Y, 2)]),
    "log_likelihood": np.diag([-sigma(X, 1) * sigma(X) * sigma(Y), -sigma(Y, 1) * sigma(X) * sigma(Y)]),
}
META_GRADIENTS = {"dice": 0.130285, "likelihood_ratio": 0.125537, "log_likelihood": 0.120790}


def test_the_closed_forms_are_those_on_paper() -> None:
    np.testing.assert_allclose(GRADIENT, 0.140625)
    np.testing.assert_allclose(HESSIANS["dice"], [[-0.0703125, 0.03515625], [0.03515625, -0.0703125]])
    np.testing.assert_allclose(HESSIANS["log_likelihood"], np.diag([-0.10546875] * 2))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_derivatives_of_each_estimator_on_the_chain(estimator: problems.Estimator) -> None:
    theta, problem = jnp.asarray([X, Y]), chain_problem(estimator)

    def gain(at: Array) -> Array:
        return expected_gain(problem, theta, at)

    gradient, hessian = jax.jit(lambda t: (jax.grad(gain)(t), jax.hessian(gain)(t)))(theta)
    np.testing.assert_allclose(gradient, GRADIENT, rtol=1e-9)
    np.testing.assert_allclose(hessian, HESSIANS[estimator], atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_meta_gradients_of_each_estimator_on_the_chain(estimator: problems.Estimator) -> None:
    """Return the exact meta-gradient: one inner step of size 1, then the gradient of the return."""
    theta, problem = jnp.asarray([X, Y]), chain_problem(estimator)

    def after(at: Array) -> Array:
        adapted = at + jax.grad(lambda t: expected_gain(problem, theta, t))(at)
        return jax.nn.sigmoid(adapted[0]) * jax.nn.sigmoid(adapted[1])

    np.testing.assert_allclose(after(theta), 0.601294, atol=1e-6)
    np.testing.assert_allclose(jax.grad(after)(theta), META_GRADIENTS[estimator], atol=1e-6)


@pytest.mark.slow
def test_with_a_horizon_of_one_the_likelihood_ratio_is_dice() -> None:
    family = bandits.bernoulli(3)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    derivatives = []
    for estimator in ("dice", "likelihood_ratio"):
        problem = problems.policy_gradient(
            family, policy, problems.PolicyGradientSettings(episodes=20, estimator=estimator)
        )
        params = problem.init(jax.random.key(0))
        batch = problem.support(jax.random.key(1), params, family.tasks.sample(jax.random.key(2)))
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def loss(vector: Array, problem: Any = problem, batch: Any = batch, unravel: Any = unravel) -> Array:
            return problem.inner_loss(unravel(vector), batch)

        derivatives.append(jax.jit(lambda v, loss=loss: (jax.grad(loss)(v), jax.hessian(loss)(v)))(flat))
    (gradient, hessian), (gradient_lr, hessian_lr) = derivatives
    assert float(jnp.abs(hessian).max()) > 0.01
    np.testing.assert_allclose(gradient, gradient_lr, atol=1e-6)
    np.testing.assert_allclose(hessian, hessian_lr, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("credit", "clearly_not"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_exploration_credit_completes_the_meta_gradient(credit: float, clearly_not: float) -> None:
    """E-MAML: the return after adaptation also depends on the policy that collects.

    On a bandit of two arms, with one pull to adapt on, all outcomes are enumerated.
    """
    start, paid, rate, tasks = 0.3, np.array([0.2, 0.9]), 0.7, 400_000
    family = bandits.bernoulli(2)
    task = family.tasks.sample(jax.random.key(0)).replace(means=jnp.asarray(paid, jnp.float32))

    def act(params: Array, carry: Any, inputs: Inputs) -> tuple[Any, Output]:
        logit = params + 0.0 * inputs.prev_reward
        return carry, Output(Categorical(jnp.stack([jnp.zeros_like(logit), logit], axis=-1)), jnp.zeros_like(logit))

    policy = Policy(lambda key: jnp.asarray(start), lambda params: (), act, act)
    problem = problems.policy_gradient(
        family._replace(tasks=TaskDistribution(lambda key: task, lambda key: task)),
        policy,
        # The derivative of the loss on the collected data. The credit term adds that of the collecting policy.
        problems.PolicyGradientSettings(
            episodes=1, estimator="log_likelihood", baseline="none", normalise_advantages=False
        ),
    )
    sizes: dict[str, Any] = {"tasks": tasks, "inner_rate": rate}
    if credit:
        algorithm = e_maml.make(problem, e_maml.Config(**sizes, exploration_credit=credit))
    else:
        algorithm = maml_trpo.make(problem, maml_trpo.Config(**sizes))
    _, metrics = jax.jit(algorithm.step)(jax.random.key(1), algorithm.init(jax.random.key(0)))

    def gradient(credit: float) -> float:
        def parts(theta: Array) -> Array:
            p = jax.nn.sigmoid(theta)
            # After a pull without a reward the policy does not change.
            after = [theta + rate * (1 - p), theta - rate * p, theta, theta]
            weight = jnp.stack([p * paid[1], (1 - p) * paid[0], p * (1 - paid[1]), (1 - p) * (1 - paid[0])])
            later = jnp.stack([jax.nn.sigmoid(t) * (paid[1] - paid[0]) + paid[0] for t in after])
            return jnp.stack([weight, later])

        weight, later = parts(jnp.asarray(start))
        by_weight, by_later = jax.jacobian(parts)(jnp.asarray(start))
        return float(weight @ by_later + credit * (by_weight @ later))

    # The standard deviation of one task's gradient is below 1.
    error = 4 / tasks**0.5
    assert abs(float(metrics["gradient_norm"]) - abs(gradient(credit))) < error
    assert abs(gradient(credit) - gradient(clearly_not)) > 2 * error


# --------------------------------------------------------------------------------------------------- trust region


@pytest.mark.slow
def test_the_metric_is_the_divergence_s_hessian() -> None:
    """J' H J equals the Hessian of the mean KL, computed by differentiation twice, for both kinds of policy."""
    x = jax.random.normal(jax.random.key(0), (7, 3))
    for size, make in ((6, lambda z: DiagonalGaussian(z[:, :3], z[:, 3:] / 4)), (4, Categorical)):
        weights = jax.random.normal(jax.random.key(1), (3 * size,))

        def outputs(w: Array, size: int = size, make: Any = make) -> Any:
            return make(jnp.tanh(x @ w.reshape(3, size)))

        old = outputs(weights)

        def divergence(new: Any, old: Any = old) -> Array:
            return jnp.mean(old.kl(new))

        product = metric_product(outputs, divergence, weights)
        got = jax.vmap(product)(jnp.eye(len(weights)))
        twice = jax.hessian(lambda w, outputs=outputs, divergence=divergence: divergence(outputs(w)))(weights)
        assert float(jnp.abs(twice).max()) > 0.01
        np.testing.assert_allclose(got, twice, atol=1e-10)


def test_a_trust_region_step_is_the_natural_gradient_as_long_as_allowed() -> None:
    """On a linear objective and a quadratic divergence: delta = -sqrt(2 d / g'F^-1 g) F^-1 g, KL exactly d."""
    generator = np.random.default_rng(0)
    root = generator.normal(size=(4, 4))
    metric, gradient = jnp.asarray(root @ root.T + np.eye(4)), jnp.asarray(generator.normal(size=4))
    bound = 0.02
    # Just inside the bound, so that rounding does not reject the full step.
    params, info = trust_region_step(
        lambda theta: (gradient @ theta, 0.5 * theta @ metric @ theta * (1 - 1e-9)),
        jnp.zeros(()),
        gradient,
        lambda v: metric @ v,
        jnp.zeros(4),
        max_divergence=bound,
        iterations=10,
        damping=0.0,
    )
    natural = jnp.linalg.solve(metric, gradient)
    np.testing.assert_allclose(params, -jnp.sqrt(2 * bound / (gradient @ natural)) * natural, rtol=1e-6)
    np.testing.assert_allclose(info["divergence"], bound, rtol=1e-6)
    assert float(info["step_fraction"]) == 1.0


@pytest.mark.parametrize("share", [0.5, 0.01, 1e-6])
def test_a_metric_estimated_too_small_takes_the_step_beyond_the_bound_and_back(share: float) -> None:
    """The second try is at 0.9 of the length that a quadratic divergence allows, but not below a tenth of the first."""
    bound, gradient = 0.02, jnp.asarray([1.0, -2.0])
    params, info = trust_region_step(
        lambda theta: (gradient @ theta, 0.5 * theta @ theta),
        jnp.zeros(()),
        gradient,
        lambda v: share * v,
        jnp.zeros(2),
        max_divergence=bound,
        iterations=10,
        damping=0.0,
    )
    fraction, cut = 1.0, 0
    while fraction**2 > share:
        fraction, cut = fraction * max(0.1, min(0.8, 0.9 * share**0.5 / fraction)), cut + 1
    assert cut >= 1
    assert float(info["step_fraction"]) == pytest.approx(fraction, rel=1e-6)
    assert float(info["divergence"]) == pytest.approx(bound * fraction**2 / share, rel=1e-6)
    length = fraction * (2 * bound / share / 5) ** 0.5
    np.testing.assert_allclose(params, -length * gradient, rtol=1e-6)


@pytest.mark.parametrize("moved", [0.0, float("nan"), float("inf")])
def test_a_trust_region_step_that_cannot_improve_stays(moved: float) -> None:
    params, info = trust_region_step(
        lambda theta: (jnp.sum(theta**2), jnp.sum(theta**2) + moved),
        jnp.zeros(()),
        jnp.ones(3),
        lambda v: 2 * v,
        jnp.zeros(3),
        max_divergence=0.1,
        iterations=5,
        damping=0.0,
    )
    np.testing.assert_array_equal(params, 0.0)
    assert float(info["step_fraction"]) == float(info["divergence"]) == 0.0


# ------------------------------------------------------------------------------------------------------- problems


def test_rollouts_and_advantages_follow_their_definitions() -> None:
    # Environments have single precision.
    with jax.enable_x64(False):
        _check_rollouts()


def _check_rollouts() -> None:
    family = probe_family()
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    problem = problems.policy_gradient(
        family,
        policy,
        problems.PolicyGradientSettings(episodes=6, discount=0.9, baseline="none", normalise_advantages=False),
    )
    params, task = problem.init(jax.random.key(0)), family.tasks.sample(jax.random.key(1))
    batch = problem.support(jax.random.key(2), params, task)
    valid, reward = np.asarray(batch.valid), np.asarray(batch.reward)
    assert valid.shape == (6, family.horizon)
    assert valid[:, 0].all()
    assert not valid.all()
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()
    assert (reward[~valid] == 0).all()
    expected = np.zeros_like(reward)
    for t in reversed(range(family.horizon)):
        following = expected[:, t + 1] if t + 1 < family.horizon else 0.0
        expected[:, t] = reward[:, t] + 0.9 * following
    np.testing.assert_allclose(batch.advantage, np.where(valid, expected, 0.0), rtol=1e-5)
    np.testing.assert_allclose(problem.score(params, batch), reward.sum(axis=1).mean(), rtol=1e-5)
    done = np.all((np.asarray(batch.action) > 0) == (np.asarray(task.target) > 0), axis=-1)
    assert 0 < (done & valid).any(axis=1).mean() < 1
    np.testing.assert_array_equal(batch.success, (done & valid).any(axis=1))
    # At the parameters that collected, the divergence is zero and ratios are one.
    assert problem.policy is not None
    moved = problem.policy.divergence(problem.policy.distribution(params, batch), batch)
    assert float(moved) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(problem.outer_loss(params, batch), -expected[valid].mean(), rtol=1e-5)


def test_the_environment_gets_actions_in_its_own_units() -> None:
    """Actions are scaled by 10 and clipped. Log-probabilities and gradients are those of the policy's own actions."""
    with jax.enable_x64(False):
        _check_action_scale()


def _check_action_scale() -> None:
    family = probe_family()
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    problem = problems.policy_gradient(
        family, policy, problems.PolicyGradientSettings(episodes=64, baseline="none", action_scale=2.0)
    )
    params, task = problem.init(jax.random.key(0)), family.tasks.sample(jax.random.key(1))
    functions = problem.policy
    assert functions is not None
    sent = jax.vmap(lambda key: functions.play(key, params, task))(jax.random.split(jax.random.key(2), 64)).action
    batch = problem.support(jax.random.key(2), params, task)
    space = family.action_space
    assert isinstance(space, Box)
    np.testing.assert_allclose(sent, np.clip(np.asarray(batch.action) / 2.0, space.low, space.high), rtol=1e-6)
    assert float(jnp.mean(jnp.abs(batch.action) > 2.0)) > 0.01, "no action was beyond the bounds"
    np.testing.assert_allclose(batch.log_prob, batch.distribution.log_prob(batch.action), rtol=1e-5)
    with pytest.raises(ValueError, match=r"action_scale is for continuous actions: it must be 1 for Discrete\(n=3\)"):
        discrete = bandits.bernoulli(3)
        feed_forward = mlp.policy(discrete.observation_space, discrete.action_space, history=False)
        problems.policy_gradient(discrete, feed_forward, problems.PolicyGradientSettings(action_scale=10.0))


@pytest.mark.parametrize("learner", ["maml", "reptile", "from scratch"])
def test_successes_are_of_the_episodes_that_are_scored(learner: str) -> None:
    """On bandits with one pull, where a reward is a success, successes equal the mean return at each stage."""
    with jax.enable_x64(False):
        _check_successes(learner)


def _check_successes(learner: str) -> None:
    family = bandits.bernoulli(arms=3)._replace(success=lambda task, step: step.reward > 0)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(3,), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=8, baseline="none"))
    adapt, state = from_scratch.gradient_descent(problem, 2, 0.5).adapt, ()
    if learner != "from scratch":
        module = {"maml": maml, "reptile": reptile}[learner]
        algorithm = module.make(problem, module.Config(tasks=2, inner_steps=1, adaptation_steps=2, iterations=2))
        adapt, state = algorithm.adapt, algorithm.init(jax.random.key(0))
    found = jax.jit(adapt)(jax.random.key(1), state, family.tasks.sample(jax.random.key(2)))
    assert found.success is not None
    assert 0 < found.score.mean() < 1
    np.testing.assert_array_equal(found.success, found.score)


def test_the_linear_baseline_fits_returns_that_are_linear_in_its_features() -> None:
    """A linear function of the features is fitted exactly, independently of examples with the weight 0."""
    from metarl_jax.ops.baselines import fit_linear, linear_features

    time = jnp.tile(jnp.arange(20), (5, 1))
    observation = jax.random.normal(jax.random.key(0), (5, 20, 2))
    target = 3.0 + 2 * observation[..., 0] - observation[..., 1] ** 2 + (time / 20) ** 3
    features = linear_features(observation, time, 20).reshape(100, -1)
    weight = (jnp.arange(100) % 7 > 0).astype(float)
    coefficients = fit_linear(features, target.reshape(-1) + 100.0 * (1 - weight), weight, ridge=1e-12)
    np.testing.assert_allclose((features @ coefficients)[weight > 0], target.reshape(-1)[weight > 0], atol=1e-6)


def test_advantages_are_the_scaled_residuals_of_the_linear_baseline() -> None:
    with jax.enable_x64(False):
        _check_linear_baseline()


def _check_linear_baseline() -> None:
    from metarl_jax.ops.baselines import linear_features

    family = probe_family()
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(8,), history=False, critic=False)
    given: dict[str, Any] = {"episodes": 30, "discount": 0.9}
    alone = problems.policy_gradient(
        family, policy, problems.PolicyGradientSettings(baseline="none", normalise_advantages=False, **given)
    )
    plain = problems.policy_gradient(
        family, policy, problems.PolicyGradientSettings(normalise_advantages=False, **given)
    )
    scaled = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(**given))
    params, task = alone.init(jax.random.key(0)), family.tasks.sample(jax.random.key(1))
    returns, left, unit = (p.support(jax.random.key(2), params, task) for p in (alone, plain, scaled))
    valid = np.asarray(returns.valid)
    observation = np.asarray(returns.inputs.obs, np.float32).reshape(30, family.horizon, -1)
    time = jnp.broadcast_to(jnp.arange(family.horizon), (30, family.horizon))
    features = np.asarray(linear_features(jnp.asarray(observation), time, family.horizon), np.float64)[valid]
    target = np.asarray(returns.advantage, np.float64)[valid]
    fitted = features @ np.linalg.lstsq(features, target, rcond=None)[0]
    assert 0 < (target - fitted).std() < 0.95 * target.std(), "the baseline explains something, and not all"
    np.testing.assert_allclose(np.asarray(left.advantage)[valid], target - fitted, atol=0.02 * target.std())
    np.testing.assert_allclose(np.asarray(left.advantage)[~valid], 0)
    advantage = np.asarray(unit.advantage)[valid]
    np.testing.assert_allclose([advantage.mean(), advantage.std()], [0, 1], atol=1e-4)


def test_a_critic_is_the_baseline_of_returns_and_is_trained_by_both_losses() -> None:
    with jax.enable_x64(False):
        _check_critic()


def _check_critic() -> None:
    family = probe_family()
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(8,), history=False)
    given: dict[str, Any] = {"episodes": 6, "discount": 0.9, "normalise_advantages": False}
    alone = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(baseline="none", **given))
    problem = problems.policy_gradient(
        family, policy, problems.PolicyGradientSettings(baseline="critic", value_coefficient=3.0, **given)
    )
    params, task = problem.init(jax.random.key(0)), family.tasks.sample(jax.random.key(1))
    batch, without = (p.support(jax.random.key(2), params, task) for p in (problem, alone))
    left = np.array([sum(0.9**k for k in range(family.horizon - t)) for t in range(family.horizon)])
    value = np.asarray(policy.unroll(params, (), batch.inputs)[1].value)
    returns, valid = np.asarray(without.advantage), np.asarray(batch.valid)
    assert np.abs(value).max() > 0.01
    np.testing.assert_allclose(batch.target[valid], (returns / left)[valid], rtol=1e-5)
    np.testing.assert_allclose(batch.advantage[valid], (returns - value * left)[valid], rtol=1e-4, atol=1e-5)
    error = 3.0 * np.mean((value - returns / left)[valid] ** 2)
    for loss in ("inner_loss", "outer_loss"):
        more = getattr(problem, loss)(params, batch) - getattr(alone, loss)(params, batch)
        np.testing.assert_allclose(more, error, rtol=1e-4)
    blind = mlp.policy(family.observation_space, family.action_space, history=False, critic=False)
    with pytest.raises(ValueError, match="baseline 'critic' needs a policy with a critic"):
        problems.policy_gradient(family, blind, problems.PolicyGradientSettings(baseline="critic"))
    for module in (maml_trpo, e_maml):
        with pytest.raises(ValueError, match="a trust region does not bound a critic"):
            module.make(problem, module.Config())


@pytest.mark.slow
def test_clipping_is_that_of_the_outer_loss() -> None:
    family = tabular_mdp.make(states=3, actions=2, horizon=4)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    params, task = policy.init(jax.random.key(0)), family.tasks.sample(jax.random.key(1))
    losses = []
    for clip in (None, 0.1):
        problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=5, clip=clip))
        batch = problem.support(jax.random.key(2), params, task)
        moved = jax.tree.map(lambda p: p + jax.random.normal(jax.random.key(3), p.shape, p.dtype), params)
        assert problem.policy is not None
        ratio = np.exp(problem.policy.distribution(moved, batch).log_prob(batch.action) - batch.log_prob)
        cut = ratio if clip is None else np.clip(ratio, 1 - clip, 1 + clip)
        gain = np.minimum(ratio * batch.advantage, cut * batch.advantage)
        np.testing.assert_allclose(problem.outer_loss(moved, batch), -gain.mean(), atol=1e-6)
        losses.append(float(problem.outer_loss(moved, batch)))
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_promp_s_weight_follows_the_divergence() -> None:
    """The weight is halved far below the target divergence, and doubled far above it.

    It is constant unless it is adaptive.
    """
    family = tabular_mdp.make(states=3, actions=2, horizon=4)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=5, clip=0.3))
    for adaptive in (True, False):

        def algorithm(target: Any, adaptive: bool = adaptive) -> Algorithm:
            settings = {"divergence_weight": 0.25, "adaptive_weight": adaptive, "target_divergence": target}
            return promp.make(problem, promp.Config(tasks=2, epochs=2, **settings))

        step = jax.jit(lambda key, state, target, make=algorithm: make(target).step(key, state))
        for target, factor in ((1e3, 0.5), (1e-9, 2.0)):
            state = algorithm(target).init(jax.random.key(0))
            for seed in range(2):
                state, metrics = step(jax.random.key(seed), state, target)
                assert 1e-9 * 1.5 < float(metrics["inner_divergence"]) < 1e3 / 1.5
                assert float(metrics["divergence_weight"]) == float(state.divergence_weight)
            assert float(state.divergence_weight) == (0.25 * factor**2 if adaptive else 0.25)


@pytest.mark.slow
def test_promp_s_penalty_holds_back_the_policy_that_collects() -> None:
    """A large weight reduces the divergence to less than half of that without the penalty."""
    family = tabular_mdp.make(states=3, actions=2, horizon=4)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(4,), history=False, critic=False)
    problem = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=5, clip=0.3))
    moved = []
    for weight in (0.0, 100.0):
        config = promp.Config(tasks=2, epochs=20, learning_rate=0.01, divergence_weight=weight)
        algorithm = promp.make(problem, config)
        _, metrics = jax.jit(algorithm.step)(jax.random.key(0), algorithm.init(jax.random.key(0)))
        moved.append(float(metrics["inner_divergence"]))
    assert 0 < moved[1] < 0.5 * moved[0]


def test_bad_problems_are_named() -> None:
    family = bandits.bernoulli(3)
    with pytest.raises(ValueError, match=r"estimator must be one of dice, likelihood_ratio, .*did you mean dice"):
        problems.PolicyGradientSettings(estimator="dise")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="policy must be feed-forward"):
        problems.policy_gradient(family, recurrent.make(family, recurrent.Settings(hidden_size=4)))
    with pytest.raises(ValueError, match="episodes must be a positive whole number, not 0"):
        problems.PolicyGradientSettings(episodes=0)
    with pytest.raises(ValueError, match="activation must be one of tanh, relu"):
        mlp.policy(Box(0, 1, (2,)), Discrete(2), activation="gelu")  # pyright: ignore[reportArgumentType]
