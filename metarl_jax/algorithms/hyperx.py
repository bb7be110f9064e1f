"""HyperX (Zintgraf et al. 2021, arXiv 2010.01062): VariBAD with bonuses for exploration during meta-training.

With a sparse reward, the policy of VariBAD seldom meets a reward, and beliefs stay uninformative. HyperX adds two
bonuses to the rewards from which the policy learns (equation 6 of the paper). Both weights fall to zero in training.

* The novelty of the state and the belief after the step: the error of a network that is trained to predict the outputs
  of a fixed random network (random network distillation, Burda et al. 2018, arXiv 1810.12894).
* The error by which the decoder reconstructs the reward of the step (and the next observation, if it decodes
  observations) from the belief after the step. It is large where the belief has yet to be learned.

Each bonus is divided by the running standard deviation of its discounted sums, as in the authors' code. Neither bonus
is a part of a reported return or of an input of the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from metarl_jax import belief_learning, ppo
from metarl_jax.belief_learning import Bonus, Model, State
from metarl_jax.interfaces.belief import BeliefNetworks
from metarl_jax.ops.distributions import DiagonalGaussian
from metarl_jax.ops.policy_gradients import masked_mean
from metarl_jax.ops.running_statistics import RunningStatistics, initial_statistics, normalise, observe
from metarl_jax.settings import Doc, NonNegativeFloat, PositiveFloat, PositiveInt
from metarl_jax.types import Algorithm, Array, Box, EnvFamily, Key, Metrics, Params, Transition


@dataclass(frozen=True, kw_only=True)
class Config(belief_learning.Config):
    """Settings of HyperX: those of VariBAD, and those of the bonuses.

    The weights are those of the authors' code on sparse point robots. The defaults of the random networks are smaller
    than published.
    """

    novelty_weight: Annotated[
        NonNegativeFloat, Doc("Weight of the novelty of states and beliefs at the start of training.")
    ] = 0.01
    error_weight: Annotated[
        NonNegativeFloat, Doc("Weight of the decoder's reconstruction error at the start of training.")
    ] = 0.1
    bonus_decay: Annotated[
        PositiveFloat,
        Doc(
            "Share of training over which both weights fall linearly to zero (1 in the authors' code). Above 1: a part "
            "of the bonuses remains at the end."
        ),
    ] = 1.0
    novelty_units: Annotated[
        PositiveInt,
        Doc("Units of both hidden layers of the random network and of its predictor (256 as published)."),
    ] = 64
    novelty_features: Annotated[PositiveInt, Doc("Outputs of the random network (128 as published).")] = 32
    novelty_learning_rate: Annotated[PositiveFloat, Doc("Adam's step size of the predictor (1e-4 as published).")] = (
        1e-4
    )
    novelty_updates: Annotated[
        PositiveInt, Doc("Number of gradient steps of the predictor per meta-iteration (1 as published).")
    ] = 1
    novelty_batch: Annotated[
        PositiveInt,
        Doc("Number of steps in each of these gradient steps, drawn from the newest trials (128 as published)."),
    ] = 128


class _Features(nn.Module):
    """A network with two rectified layers."""

    units: int
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = nn.relu(nn.Dense(self.units)(x))
        return nn.Dense(self.outputs)(x)


class Novelty(NamedTuple):
    """The state of random network distillation."""

    target: Params
    """The parameters of the random network, which never change."""
    predictor: Params
    optimizer: optax.OptState
    inputs: RunningStatistics
    """The statistics by which states and beliefs are normalised."""


class BonusState(NamedTuple):
    """The state of both bonuses."""

    novelty: Novelty
    novelty_sums: RunningStatistics
    """The statistics of discounted sums of the novelty."""
    error_sums: RunningStatistics
    """The statistics of discounted sums of the reconstruction error."""


class Record(NamedTuple):
    """The bonuses of a trial, before they are divided by a standard deviation."""

    shown: Array
    """The state and the belief after each step, as a vector ``[T, F]``."""
    novelty: Array
    """``[T]``."""
    error: Array
    """``[T]``."""
    valid: Array
    """``[T]``: whether the step belongs to the trial."""


LARGEST_INPUT = 5.0
"""The number of standard deviations from the mean at which the inputs of the random network are clipped, as in Burda et
al. (2018)."""


def bonus_weight(config: Config, iteration: Array) -> Array:
    """Return the factor of both weights at a meta-iteration: 1 at the first one, and 0 from the end of the decay on."""
    progress = iteration / jnp.maximum(config.bonus_decay * (config.iterations - 1), 1)
    return jnp.clip(1 - progress, 0.0, 1.0).astype(jnp.float32)


def discounted_sums(x: Array, discount: float | Array) -> Array:
    """Return ``y_t = x_t + discount y_(t-1)`` of a sequence ``[T]``: what was received up to each step."""
    return jax.lax.scan(lambda y, x: (x + discount * y,) * 2, jnp.float32(0), x)[1]


def make_bonus(networks: BeliefNetworks, config: Config) -> Bonus:
    """Make the sum of both bonuses.

    Args:
        networks: the networks of the belief. The bonuses use ``show`` and the decoder.
        config: the settings.

    Raises:
        ValueError: if the policy does not observe a vector of real numbers.
    """
    if not isinstance(networks.shown, Box) or len(networks.shown.shape) != 1:
        raise ValueError(f"HyperX needs a policy that observes a vector of real numbers, not {networks.shown!r}")
    network, (size,) = _Features(config.novelty_units, config.novelty_features), networks.shown.shape
    optimizer = optax.adam(config.novelty_learning_rate)

    def init(key: Key) -> BonusState:
        example = jnp.zeros(size, jnp.float32)
        target, predictor = (network.init(k, example) for k in jax.random.split(key))
        novelty = Novelty(target, predictor, optimizer.init(predictor), initial_statistics((size,)))
        return BonusState(novelty, initial_statistics(()), initial_statistics(()))

    def errors(predictor: Params, novelty: Novelty, shown: Array) -> Array:
        """Return the predictor's mean squared error at each vector ``[..., F]``."""
        x = normalise(novelty.inputs, shown, LARGEST_INPUT)
        difference = jnp.asarray(network.apply(predictor, x)) - jnp.asarray(network.apply(novelty.target, x))
        return jnp.mean(difference**2, axis=-1)

    def reward(
        key: Key, state: BonusState, model: Model, t: Transition, after: DiagonalGaussian, iteration: Array
    ) -> tuple[Array, Record]:
        shown = jax.vmap(networks.show)(t.final_obs, after)
        novelty = errors(state.novelty.predictor, state.novelty, shown)
        # Every step is a trial of one step, with the belief after it.
        one_step = jax.tree.map(lambda x: x[None], t)
        error = -networks.decoder.log_likelihood(model.decoder, after.sample(key)[None], one_step)[0]
        novelty, error = (jnp.where(t.valid, x, 0.0) for x in (novelty, error))
        total = config.novelty_weight * novelty * jax.lax.rsqrt(state.novelty_sums.variance + 1e-8)
        total += config.error_weight * error * jax.lax.rsqrt(state.error_sums.variance + 1e-8)
        return bonus_weight(config, iteration) * total, Record(shown, novelty, error, t.valid)

    def update(key: Key, state: BonusState, records: Record, iteration: Array) -> tuple[BonusState, Metrics]:
        novelty, valid = state.novelty, records.valid.astype(jnp.float32)
        shown, weight = records.shown.reshape(-1, size), valid.reshape(-1)

        def gradient_step(
            carry: tuple[Params, optax.OptState], key: Key
        ) -> tuple[tuple[Params, optax.OptState], Array]:
            predictor, optimizer_state = carry
            which = jax.random.randint(key, (config.novelty_batch,), 0, len(shown), jnp.int32)

            def loss(predictor: Params) -> Array:
                error = jnp.where(weight[which] > 0, errors(predictor, novelty, shown[which]), 0.0)
                return jnp.sum(error) / jnp.maximum(jnp.sum(weight[which]), 1)

            value, gradient = jax.value_and_grad(loss)(predictor)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, predictor)
            return (optax.apply_updates(predictor, updates), optimizer_state), value

        keys = jax.random.split(key, config.novelty_updates)
        (predictor, optimizer_state), losses = jax.lax.scan(gradient_step, (novelty.predictor, novelty.optimizer), keys)

        def summed(statistics: RunningStatistics, bonus: Array) -> RunningStatistics:
            sums = jax.vmap(discounted_sums, in_axes=(0, None))(bonus, config.discount)
            return observe(statistics, sums, valid)

        after = BonusState(
            Novelty(novelty.target, predictor, optimizer_state, observe(novelty.inputs, records.shown, valid)),
            summed(state.novelty_sums, records.novelty),
            summed(state.error_sums, records.error),
        )
        metrics = {
            "novelty": masked_mean(records.novelty, valid),
            "novelty_loss": jnp.mean(losses),
            "reconstruction_error": masked_mean(records.error, valid),
            "bonus_weight": bonus_weight(config, iteration),
        }
        return after, metrics

    return Bonus(init, reward, update)


def make(
    family: EnvFamily, networks: BeliefNetworks, config: Config, *, auxiliary: ppo.Auxiliary | None = None
) -> Algorithm:
    """Make HyperX on a family of tasks.

    ``adapt`` plays one trial of ``config.adaptation_episodes`` episodes, and its scores are the returns of the
    episodes, which do not include bonuses. The learner is the encoder's memory at the end. With both weights zero, the
    policy and the model of beliefs are those of VariBAD.

    Args:
        family: the tasks.
        networks: encoder, decoder and policy.
        config: the settings.
        auxiliary: a loss to add to the policy's loss; ``State.policy`` is then ``ppo.WithAuxiliary``. Its gradient,
            like that of the policy's loss, does not reach the encoder.

    Raises:
        ValueError: if the configuration has a training reward that the family does not have, if the family is wrong
            (``family_checks``), if the networks do not fit the family or each other, or if the policy does not observe
            a vector of real numbers.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.point_robot.varibad()
        >>> config = mrl.algorithms.hyperx.Config(episodes=2, trials=8, buffer_trials=16, iterations=2)
        >>> algorithm = mrl.algorithms.hyperx.make(family, mrl.networks.belief.make(family), config)
        >>> algorithm.iterations
        2
    """
    bonus = make_bonus(networks, config) if isinstance(networks, BeliefNetworks) else None
    return belief_learning.make(family, networks, config, auxiliary=auxiliary, bonus=bonus)


__all__ = ["Config", "State", "make"]
