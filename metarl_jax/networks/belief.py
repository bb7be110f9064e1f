"""Networks of VariBAD: an encoder that infers the belief, decoders of trials, and a policy that acts on the belief.

The belief is a distribution over a latent variable m of dimension M. The evidence lower bound of every step decodes the
whole trial, so a decoder computes the log-probability of whole trials under many values of m in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from metarl_jax import settings
from metarl_jax.checks import boolean, positive_int, real
from metarl_jax.interfaces.belief import BeliefEncoder, BeliefNetworks, TrialDecoder
from metarl_jax.networks import mlp
from metarl_jax.networks.heads import dense, encode, example_inputs, observation_features, remembering_policy
from metarl_jax.networks.hypernetwork import Generator, Initialisation
from metarl_jax.networks.recurrent import Memory, RecurrentActorCritic
from metarl_jax.ops.distributions import Categorical, DiagonalGaussian
from metarl_jax.settings import Doc, PositiveInt
from metarl_jax.types import (
    Array,
    Box,
    Carry,
    Discrete,
    HasSpaces,
    Inputs,
    Key,
    Output,
    Params,
    Policy,
    Space,
    Transition,
)

SPREAD = 5.0
"""The log standard deviations of beliefs are clipped to [-SPREAD, SPREAD]."""


class _BeliefHead(nn.Module):
    """A network from features ``[..., F]`` to a Gaussian ``[..., M]``."""

    size: int

    @nn.compact
    def __call__(self, features: Array) -> DiagonalGaussian:
        mean = dense(nn.Dense(self.size, name="mean"), features)
        log_std = dense(nn.Dense(self.size, name="log_std"), features)
        return DiagonalGaussian(mean, jnp.clip(log_std, -SPREAD, SPREAD))


class RecurrentEncoder(RecurrentActorCritic):
    """A recurrent encoder: inputs -> embedding -> memory -> readout -> belief."""

    latent_size: int

    def _head(self) -> nn.Module:
        return _BeliefHead(self.latent_size)


def encoder(
    observation_space: Space,
    action_space: Space,
    *,
    latent_size: int = 5,
    hidden_size: int = 64,
    embedding_size: int | None = 40,
    readout_size: int | None = None,
) -> BeliefEncoder:
    """Make a recurrent encoder (GRU) from the steps of a trial to a belief.

    Its inputs are those of a recurrent policy and the previous observation.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        latent_size: the dimension M of the latent variable.
        hidden_size: units of the memory (64 in Zintgraf et al. 2020, on GridNavi).
        embedding_size: rectified units between the inputs and the memory (40 in Zintgraf et al. 2020, on GridNavi);
            None for no such layer.
        readout_size: rectified units between the memory, together with the embedded inputs, and the belief; None for no
            such layer.

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    hidden_size = positive_int("hidden_size", hidden_size)
    for name, size in (("embedding_size", embedding_size), ("readout_size", readout_size)):
        if size is not None:
            positive_int(name, size)
    network = RecurrentEncoder(
        observation_space,
        action_space,
        "gru",
        hidden_size,
        embedding_size,
        readout_size,
        True,
        False,
        positive_int("latent_size", latent_size),
    )
    seen = observation_features(observation_space)

    def initial_carry() -> Memory:
        return Memory(jnp.zeros(hidden_size, jnp.float32), jnp.zeros(seen, jnp.float32))

    made = remembering_policy(network, initial_carry, observation_space, action_space)
    return BeliefEncoder(made.init, made.initial_carry, made.step, made.unroll, made.spaces)


def grid_decoder(
    observation_space: Space, *, latent_size: int = 5, hidden_sizes: Sequence[int] = (32, 32), threshold: float = 0.0
) -> TrialDecoder:
    """Make a decoder of the probability that a step to an observation has a reward above ``threshold``.

    It has a head for each observation (the multi-head Bernoulli decoder of Zintgraf et al. 2020 on GridNavi). The
    likelihood of a trial depends on how often each observation was rewarded, and not on the order of the steps. Each
    value of m is therefore decoded once, whatever the length of the trial.

    Args:
        observation_space: a discrete space.
        latent_size: the dimension M of the latent variable.
        hidden_sizes: rectified units of each layer.
        threshold: the reward above which a step counts as rewarded.

    Raises:
        ValueError: if the space is not discrete, a size is not a positive whole number, or the threshold is not finite.
    """
    if not isinstance(observation_space, Discrete):
        raise ValueError(
            f"a decoder with a head for each observation needs discrete observations, not {observation_space!r}"
        )
    cells, threshold = observation_space.n, real()("threshold", threshold)
    network = mlp.predictor(positive_int("latent_size", latent_size), cells, hidden_sizes)

    def log_likelihood(params: Params, latent: Array, trials: Transition) -> Array:
        logits = network.apply(params, latent.reshape(-1, latent_size)).reshape(*latent.shape[:-1], cells)
        there = jax.nn.one_hot(trials.final_obs, cells, dtype=jnp.float32) * trials.valid[..., None]
        paid = (trials.reward > threshold)[..., None]
        often, seldom = (jnp.sum(jnp.where(which, there, 0.0), axis=0) for which in (paid, jnp.logical_not(paid)))
        # log(1 - p) = log p - logit.
        return jnp.sum((often + seldom) * jax.nn.log_sigmoid(logits) - seldom * logits, axis=-1)

    def pays(params: Params, latent: Array) -> Array:
        return jax.nn.sigmoid(network.apply(params, latent))

    return TrialDecoder(network.init, log_likelihood, pays, (observation_space, None))


class _StepDecoder(nn.Module):
    """A network from every pair of a latent variable m and a step to the reward, or the next observation."""

    hidden_sizes: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, latent: Array, steps: Array) -> Array:
        """Map latent variables ``[N, B, M]`` and steps ``[T, B, F]`` to ``[N, T, B, outputs]``."""
        first, *others = self.hidden_sizes
        # A layer on the concatenation of both is the sum of a layer on each.
        x = dense(nn.Dense(first), latent)[:, None] + dense(nn.Dense(first, use_bias=False), steps)[None]
        for size in others:
            x = dense(nn.Dense(size), nn.relu(x))
        return dense(nn.Dense(self.outputs, name="head"), nn.relu(x))


def step_decoder(
    observation_space: Space,
    action_space: Space,
    *,
    latent_size: int = 5,
    hidden_sizes: Sequence[int] = (64, 32),
    transitions: bool = False,
) -> TrialDecoder:
    """Make a decoder of the reward and, optionally, of the next observation of each step.

    The reward is decoded from m, the observation, the action and the next observation. The next observation is decoded
    from m, the observation and the action. Rewards, and observations that are vectors, are modelled as Gaussians of
    variance one (up to a constant); discrete observations are categorical. Every step is decoded for every m.

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        latent_size: the dimension M of the latent variable.
        hidden_sizes: rectified units of each layer (64 and 32 in Zintgraf et al. 2020).
        transitions: whether next observations are decoded, too.

    Raises:
        ValueError: if a size is not a positive whole number, or there is no layer.
    """
    sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
    if not sizes:
        raise ValueError("hidden_sizes must contain at least one layer")
    latent_size, transitions = positive_int("latent_size", latent_size), boolean("transitions", transitions)
    example = example_inputs(observation_space, action_space)
    shown, acted = encode(observation_space, example.obs), encode(action_space, example.prev_action)
    reward = _StepDecoder(sizes, 1)
    following = _StepDecoder(sizes, shown.size)

    def init(key: Key) -> Params:
        key_reward, key_following = jax.random.split(key)
        latent, size = jnp.zeros((1, 1, latent_size), jnp.float32), shown.size + acted.size
        params = {"reward": reward.init(key_reward, latent, jnp.zeros((1, 1, size + shown.size), jnp.float32))}
        if transitions:
            params["following"] = following.init(key_following, latent, jnp.zeros((1, 1, size), jnp.float32))
        return params

    def log_likelihood(params: Params, latent: Array, trials: Transition) -> Array:
        before = encode(observation_space, trials.inputs.obs)
        after = encode(observation_space, trials.final_obs)
        step = jnp.concatenate([before, encode(action_space, trials.action)], axis=-1)
        predicted = reward.apply(params["reward"], latent, jnp.concatenate([step, after], axis=-1))
        result = -0.5 * (trials.reward - predicted[..., 0]) ** 2  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        if transitions:
            predicted = following.apply(params["following"], latent, step)
            match observation_space:
                case Discrete():
                    result += Categorical(predicted).log_prob(trials.final_obs)  # pyright: ignore[reportArgumentType]
                case Box():
                    result += -0.5 * jnp.sum((after - predicted) ** 2, axis=-1)  # pyright: ignore[reportOperatorIssue]
        return jnp.sum(jnp.where(trials.valid, result, 0.0), axis=1)

    return TrialDecoder(init, log_likelihood, spaces=(observation_space, action_space))


class _GeneratedActorCritic(nn.Module):
    """An actor-critic on the first ``features`` numbers of an observation; the other numbers generate its weights."""

    features: int
    generator: Generator

    def __call__(self, inputs: Inputs) -> Output:
        seen, condition = jnp.split(inputs.obs, [self.features], axis=-1)
        return self.generator(seen, condition)


def _generated_policy(
    features: int, beliefs: int, action_space: Space, sizes: tuple[int, ...], initialisation: Initialisation
) -> Policy:
    """Make a policy whose weights are generated from the belief, the last numbers of its observation."""
    observation_space = Box(-jnp.inf, jnp.inf, (features + beliefs,))
    network = _GeneratedActorCritic(features, Generator(action_space, sizes, None, initialisation, True))

    def init(key: Key) -> Params:
        return network.init(key, example_inputs(observation_space, action_space))

    def step(params: Params, carry: Carry, inputs: Inputs) -> tuple[Carry, Output]:
        return carry, network.apply(params, inputs)  # pyright: ignore[reportReturnType]

    return Policy(init, lambda params: (), step, step, True, (observation_space, action_space))


def combine(
    observation_space: Space,
    action_space: Space,
    encoder: BeliefEncoder,
    decoder: TrialDecoder,
    *,
    latent_size: int = 5,
    hidden_sizes: Sequence[int] = (32,),
    generated: Initialisation | None = None,
) -> BeliefNetworks:
    """Combine an encoder and a decoder with a policy on the observation and the belief.

    The policy's input is the observation with the mean and the log standard deviation of the belief. Alternatively, the
    belief generates the weights of a policy on the observation (Beck et al. 2022, arXiv 2210.11348).

    Args:
        observation_space: the space of the environment's observations.
        action_space: the space of its actions.
        encoder: the encoder, which infers the belief.
        decoder: the decoder, with which the encoder is trained.
        latent_size: the dimension M of the latent variable of the encoder and of the decoder.
        hidden_sizes: tanh units of each layer of the policy (one of 32 in Zintgraf et al. 2020, on GridNavi).
        generated: the initialisation of the generator, if the belief generates the weights of the policy; None if the
            belief is an input of the policy.

    Raises:
        ValueError: if a size is not a positive whole number.
    """
    size = encode(observation_space, example_inputs(observation_space, action_space).obs).size
    shown = Box(-jnp.inf, jnp.inf, (size + 2 * positive_int("latent_size", latent_size),))
    policy: Policy
    if generated is None:
        policy = mlp.policy(shown, action_space, hidden_sizes=hidden_sizes, history=False)
    else:
        sizes = tuple(positive_int("hidden_sizes", size) for size in hidden_sizes)
        policy = _generated_policy(size, 2 * latent_size, action_space, sizes, generated)

    def show(obs: Array, belief: DiagonalGaussian) -> Array:
        return jnp.concatenate([encode(observation_space, obs), belief.mean, belief.log_std], axis=-1)

    return BeliefNetworks(encoder, decoder, policy, show, shown, latent_size)


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    """Settings of VariBAD's networks; defaults are those of Zintgraf et al. (2020) on MuJoCo."""

    latent_size: Annotated[PositiveInt, Doc("The dimension of the latent variable.")] = 5
    hidden_size: Annotated[PositiveInt, Doc("Units of the encoder's memory.")] = 128
    embedding_size: Annotated[
        PositiveInt | None, Doc("Rectified units between the inputs and the memory; None for no such layer.")
    ] = 64
    decoder: Annotated[
        Literal["step", "observation"],
        Doc(
            'The decoder. "step" decodes the reward of each step. "observation" decodes, for each of finitely many '
            "observations, whether a step to it has a reward above ``reward_threshold`` (in Zintgraf et al. 2020 on "
            "GridNavi)."
        ),
    ] = "step"
    decoder_units: Annotated[
        PositiveInt,
        Doc(
            "Rectified units of the decoder's first layer. The second layer has half as many in the decoder of steps, "
            "and the same number in the decoder of observations."
        ),
    ] = 64
    decode_transitions: Annotated[
        bool, Doc("Whether the decoder of steps decodes next observations in addition to rewards.")
    ] = False
    reward_threshold: Annotated[
        float, Doc("The reward above which a step counts as rewarded, for the decoder of observations.")
    ] = 0.0
    policy_units: Annotated[PositiveInt, Doc("Units of each hidden layer of the policy.")] = 128
    policy_layers: Annotated[PositiveInt, Doc("Hidden layers of the policy.")] = 2
    generated_policy: Annotated[
        Initialisation | None,
        Doc(
            "The initialisation of the generator, if the belief generates the weights of the policy (a hypernetwork, "
            'Beck et al. 2022): "bias-hyperinit", or "kaiming" for comparison. None: the belief is an input of the '
            "policy."
        ),
    ] = None

    def check_relations(self) -> None:
        if self.decode_transitions and self.decoder != "step":
            raise ValueError("decode_transitions needs the decoder 'step'")
        if self.decoder == "step" and self.decoder_units < 2:
            raise ValueError(f"decoder_units must be at least 2 for the decoder 'step', not {self.decoder_units}")


_DEFAULT = Settings()


def make(family: HasSpaces, settings: Settings = _DEFAULT) -> BeliefNetworks:
    """Make VariBAD's networks: an encoder, a decoder, and a policy on the observation and the belief.

    Args:
        family: a task family, or another object that has an observation space and an action space.
        settings: the sizes, and the kind of decoder.

    Raises:
        ValueError: if the decoder is for observations and the observations are not discrete.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.environments.gridnavi.make()
        >>> networks = mrl.networks.belief.make(family, mrl.networks.belief.Settings(latent_size=8))
    """
    spaces, size = (family.observation_space, family.action_space), settings.latent_size
    made = encoder(*spaces, latent_size=size, hidden_size=settings.hidden_size, embedding_size=settings.embedding_size)
    units = settings.decoder_units
    if settings.decoder == "observation":
        decoder = grid_decoder(
            family.observation_space,
            latent_size=size,
            hidden_sizes=(units, units),
            threshold=settings.reward_threshold,
        )
    else:
        decoder = step_decoder(
            *spaces, latent_size=size, hidden_sizes=(units, units // 2), transitions=settings.decode_transitions
        )
    policy_sizes = (settings.policy_units,) * settings.policy_layers
    generated = settings.generated_policy
    return combine(*spaces, made, decoder, latent_size=size, hidden_sizes=policy_sizes, generated=generated)
