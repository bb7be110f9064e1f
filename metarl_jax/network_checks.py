"""Checks that networks fit a family of tasks, their algorithm, and each other.

Every check traces the network's functions with the shapes that the algorithm passes to them. Nothing compiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metarl_jax.family_checks import Shapes
from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
from metarl_jax.interfaces.belief import BeliefNetworks
from metarl_jax.interfaces.context import Actor, ContextNetworks, Experience, TwinCritic
from metarl_jax.interfaces.few_shot import FewShotTask, InContextLearner
from metarl_jax.interfaces.gradient import Predictor
from metarl_jax.interfaces.off_policy import OffPolicyNetworks
from metarl_jax.tracing import (
    abstract,
    abstract_action,
    abstract_key,
    abstract_transition,
    describe,
    describe_space,
    difference,
    explain,
    is_array,
    stacked,
    trace,
)
from metarl_jax.types import Box, Discrete, EnvFamily, Policy, Space

LARGEST_LATENT = 128
"""The largest number of latent variables that a check tries, in order to name the valid number in a message."""
# The numbers of samples of the latent variables, of trials and of steps are different primes, so that axes cannot be
# confused.
SAMPLES, TRIALS, STEPS = 2, 3, 7
SAME = "give all networks the same latent_size"


def check_policy(policy: Policy, family: EnvFamily, shapes: Shapes) -> None:
    """Check that a policy takes the observations of a family and returns its actions.

    Args:
        policy: the policy.
        family: the family of tasks.
        shapes: the shapes of the family (``family_checks.check_shapes``).

    Raises:
        ValueError: in one line that says what does not fit. If a function raised an error, it is the cause.
    """
    if not isinstance(policy, Policy):
        raise ValueError(f"policy must be a metarl_jax.types.Policy, not {type(policy).__name__}")
    _check_spaces("the policy", policy.spaces, family)
    key = abstract_key()
    params = trace("policy.init", policy.init, key)
    carry = trace("policy.initial_carry", policy.initial_carry, params)
    inputs = abstract_transition(shapes.observation, shapes.action).inputs
    after, output = trace("policy.step", policy.step, params, carry, inputs, hint=_hint(family, shapes))
    _check_memory("policy", carry, after)
    if not is_array(output.value) or output.value.shape != ():
        found = describe(output.value) if is_array(output.value) else type(output.value).__name__
        raise ValueError(f"the policy's value at one step must be a scalar, not {found}")
    _check_distribution("the policy", output.distribution, family.action_space)


def _check_spaces(who: str, spaces: tuple[Space, Space | None] | None, family: EnvFamily) -> None:
    """Compare the spaces that a network was made for with those of the family. Bounds are not compared."""
    if spaces is None:
        return
    own = family.observation_space, family.action_space
    for what, made, ours in zip(("observations", "actions"), spaces, own, strict=True):
        if made is not None and not _alike(made, ours):
            raise ValueError(
                f"{who} was made for {what} in {describe_space(made)}, but those of the family are in "
                f"{describe_space(ours)}: make it with the spaces of this family"
            )


def _alike(one: Space, other: Space) -> bool:
    if isinstance(one, Box) and isinstance(other, Box):
        return one.shape == other.shape
    return isinstance(one, Discrete) and isinstance(other, Discrete) and one.n == other.n


def _hint(family: EnvFamily, shapes: Shapes) -> str:
    return f"the family has observations {describe(shapes.observation)} and {_said(family.action_space)}"


def _check_memory(who: str, carry: Any, after: Any) -> None:
    differs = difference(f"that of {who}.initial_carry", carry, f"that of {who}.step", after)
    if differs is not None:
        raise ValueError(f"the memory of the {who} must keep its structure, shapes and dtypes: {differs}")


def _said(space: Space) -> str:
    return f"{space.n} actions" if isinstance(space, Discrete) else f"actions of shape {space.shape}"


def _check_distribution(who: str, distribution: Any, space: Space) -> None:
    """Check that a distribution is one over the family's actions of one step."""
    drawn = trace(f"the distribution of {who}", lambda d, key: d.sample(key), distribution, abstract_key())
    logits: Any = getattr(distribution, "logits", None)
    if logits is not None and len(logits.shape) == 1:
        found = f"chooses among {logits.shape[0]} actions"
        right = isinstance(space, Discrete) and logits.shape[0] == space.n
    else:
        found = f"gives actions {describe(drawn)}"
        action = abstract_action(space)
        kind = jnp.integer if isinstance(space, Discrete) else jnp.floating
        right = drawn.shape == action.shape and jnp.issubdtype(drawn.dtype, kind)
    if not right:
        raise ValueError(
            f"{who} {found}, but the family has {_said(space)}: make it with the action space of this family"
        )
    log_prob = trace(f"log_prob of the distribution of {who}", lambda d, a: d.log_prob(a), distribution, drawn)
    if log_prob.shape != ():
        raise ValueError(f"the log-probability of one action of {who} must be a scalar, not {describe(log_prob)}")


def _check_latent(name: str, works: Callable[[int], Any], size: int, hint: str) -> Any:
    """Return the outputs of a network for ``size`` latent variables, ``works(size)``."""
    try:
        return works(size)
    except Exception as error:
        for taken in range(1, LARGEST_LATENT + 1):
            with contextlib.suppress(Exception):
                works(taken)
                message = f"latent_size is {size}, but {name} takes {taken} latent variables: {SAME}"
                break
        else:
            message = explain(name, error, hint)
        raise ValueError(message) from error


def _check_belief(belief: Any, size: int) -> None:
    mean: Any = getattr(belief, "mean", None)
    if not is_array(mean) or mean.shape != (size,):
        found = mean.shape[0] if is_array(mean) and len(mean.shape) == 1 else repr(mean)
        raise ValueError(
            f"latent_size is {size}, but the belief of the encoder is over {found} latent variables: {SAME}"
        )


def check_belief_networks(networks: BeliefNetworks, family: EnvFamily, shapes: Shapes) -> None:
    """Check that VariBAD's networks fit the family, and fit each other.

    Args:
        networks: encoder, decoder and policy.
        family: the family of tasks.
        shapes: the shapes of the family (``family_checks.check_shapes``).

    Raises:
        ValueError: in one line, with the numbers that do not fit. If a function raised an error, it is the cause.
    """
    if not isinstance(networks, BeliefNetworks):
        raise ValueError(
            f"networks must be a metarl_jax.interfaces.belief.BeliefNetworks, not {type(networks).__name__}"
        )
    encoder, decoder, size = networks.encoder, networks.decoder, networks.latent_size
    _check_spaces("the encoder", encoder.spaces, family)
    _check_spaces("the decoder", decoder.spaces, family)
    key, step = abstract_key(), abstract_transition(shapes.observation, shapes.action)
    params = trace("encoder.init", encoder.init, key)
    carry = trace("encoder.initial_carry", encoder.initial_carry, params)
    hint = _hint(family, shapes)
    after, belief = trace("encoder.step", encoder.step, params, carry, step.inputs, hint=hint)
    _check_memory("encoder", carry, after)
    _check_belief(belief, size)
    shown = trace("show", networks.show, shapes.observation, belief)
    if isinstance(networks.shown, Box) and shown.shape != networks.shown.shape:
        raise ValueError(
            f"show gives the policy {describe(shown)}, but shown is a Box of shape {networks.shown.shape}: make the "
            "policy with the observation space and the latent_size of the encoder"
        )
    params = trace("decoder.init", decoder.init, key)
    trials = stacked(step, STEPS, TRIALS)

    def decode(size: int) -> Any:
        latent = abstract((SAMPLES, TRIALS, size))
        found = jax.eval_shape(decoder.log_likelihood, params, latent, trials)
        if found.shape != (SAMPLES, TRIALS):
            raise ValueError(f"log-likelihoods must be [N, B] = [{SAMPLES}, {TRIALS}], not {describe(found)}")
        return found

    _check_latent("the decoder", decode, size, hint)
    check_policy(networks.policy, family._replace(observation_space=networks.shown), shapes._replace(observation=shown))


def check_context_networks(networks: ContextNetworks, family: EnvFamily, shapes: Shapes) -> None:
    """Check that PEARL's networks fit the family, and fit each other.

    Args:
        networks: encoder, actor and critic.
        family: the family of tasks.
        shapes: the shapes of the family (``family_checks.check_shapes``).

    Raises:
        ValueError: in one line, with the numbers that do not fit. If a function raised an error, it is the cause.
    """
    if not isinstance(networks, ContextNetworks):
        raise ValueError(
            f"networks must be a metarl_jax.interfaces.context.ContextNetworks, not {type(networks).__name__}"
        )
    encoder, actor, critic, size = networks
    _check_spaces("the encoder", encoder.spaces, family)
    params = trace("encoder.init", encoder.init, abstract_key())
    steps = _abstract_experience(shapes)
    _check_belief(trace("encoder.infer", encoder.infer, params, steps, hint=_hint(family, shapes)), size)
    _check_actor_and_critic(actor, critic, size, family, shapes)


def check_off_policy_networks(networks: OffPolicyNetworks, family: EnvFamily, shapes: Shapes) -> None:
    """Check that a memory, an actor and critics fit the family, and fit each other.

    Args:
        networks: memory, actor and critic.
        family: the family of tasks.
        shapes: the shapes of the family (``family_checks.check_shapes``).

    Raises:
        ValueError: in one line that says what does not fit. If a function raised an error, it is the cause.
    """
    if not isinstance(networks, OffPolicyNetworks):
        raise ValueError(
            f"networks must be a metarl_jax.interfaces.off_policy.OffPolicyNetworks, not {type(networks).__name__}"
        )
    memory, actor, critic = networks
    check_policy(memory, family, shapes)
    params = trace("memory.init", memory.init, abstract_key())
    carry = trace("memory.initial_carry", memory.initial_carry, params)
    inputs = abstract_transition(shapes.observation, shapes.action).inputs
    features = trace("memory.step", memory.step, params, carry, inputs)[1].features
    if not is_array(features) or features.ndim != 1:
        raise ValueError("the outputs of the memory must have features [F] (Output.features)")
    _check_actor_and_critic(actor, critic, features.shape[0], family, shapes)


def _abstract_experience(shapes: Shapes) -> Experience:
    flag = abstract((), jnp.bool_)
    one = Experience(shapes.observation, shapes.action, abstract(), shapes.observation, flag, flag)
    return stacked(one, STEPS)


def _check_actor_and_critic(actor: Actor, critic: TwinCritic, size: int, family: EnvFamily, shapes: Shapes) -> None:
    """Check that an actor and critics fit a family and take latent variables of a size."""
    for who, network in (("the actor", actor), ("the critic", critic)):
        _check_spaces(who, network.spaces, family)
    key, observation = abstract_key(), shapes.observation
    steps, hint = _abstract_experience(shapes), _hint(family, shapes)
    params = trace("actor.init", actor.init, key)

    def act(size: int) -> Any:
        return jax.eval_shape(actor.distribution, params, observation, abstract((size,)))

    distribution = _check_latent("the actor", act, size, hint)
    _check_distribution("the actor", distribution, family.action_space)
    following = trace("actor.distribution", actor.distribution, params, steps.next_obs, abstract((STEPS, size)))
    params = trace("critic.init", critic.init, key)

    def judge(size: int) -> Any:
        latent = abstract((STEPS, size))
        values = jax.eval_shape(critic.values, params, steps.obs, latent, steps.action)
        return values, jax.eval_shape(critic.expected, params, key, steps.next_obs, latent, following)

    for name, found in zip(("values", "expected"), _check_latent("the critic", judge, size, hint), strict=True):
        if [x.shape for x in found] != [(STEPS,), (STEPS,)]:
            raise ValueError(f"critic.{name} must return two numbers for each step, not {found}")


def check_asymmetric_networks(networks: AsymmetricNetworks, family: EnvFamily, shapes: Shapes) -> None:
    """Check that a policy and a critic of bandit arms fit a family of bandits.

    Args:
        networks: policy and critic.
        family: bandits with discrete actions and an arm (``EnvFamily.privileged.arm``).
        shapes: the shapes of the family (``family_checks.check_shapes``).

    Raises:
        ValueError: in one line, with the numbers that do not fit. If a function raised an error, it is the cause.
    """
    if not isinstance(networks, AsymmetricNetworks):
        raise ValueError(
            f"networks must be a metarl_jax.interfaces.asymmetric.AsymmetricNetworks, not {type(networks).__name__}"
        )
    assert family.privileged is not None
    arm, space = family.privileged.arm, family.action_space
    assert arm is not None
    assert isinstance(space, Discrete)
    check_policy(networks.policy, family, shapes)
    critic, key = networks.critic, abstract_key()
    belief = jax.eval_shape(lambda: arm.prior)
    features = jax.eval_shape(arm.features, belief).shape[-1]
    outcomes = jax.eval_shape(arm.outcomes, belief).reward.shape[-1]
    known = abstract((STEPS, space.n, features))
    then = abstract((STEPS, space.n, outcomes, features))
    left = abstract((STEPS,))
    params = trace("critic.init", critic.init, key)
    hint = f"privileged.arm.features gives {features} numbers: was the critic made for another arm?"
    value = trace("critic.value", critic.value, params, known, left, hint=hint)
    lookahead = trace("critic.lookahead", critic.lookahead, params, known, then, left, hint=hint)
    for name, found, shape in (
        ("value", value, (STEPS,)),
        ("lookahead", lookahead, (STEPS, space.n, outcomes)),
    ):
        if found.shape != shape:
            raise ValueError(f"critic.{name} must return numbers of shape {list(shape)}, not {describe(found)}")


def check_predictor(network: Predictor, episode: FewShotTask, outputs: int) -> None:
    """Check that a network takes the examples of a task and returns ``outputs`` numbers for each.

    Args:
        network: the network that learns.
        episode: the shapes of the examples of a task.
        outputs: the number of outputs for each example.

    Raises:
        ValueError: in one line, with the numbers that do not fit. If a function raised an error, it is the cause.
    """
    params = trace("network.init", network.init, abstract_key())
    for part in ("support", "query"):
        x = getattr(episode, part)[0]
        hint = f"the {part}'s x is {describe(x)}: was the network made for other examples?"
        _check_outputs(trace("network.apply", network.apply, params, x, hint=hint), x, outputs)


def check_in_context_learner(network: InContextLearner, episode: FewShotTask, outputs: int) -> None:
    """Check that an in-context learner takes the examples of a task and returns ``outputs`` numbers for each.

    Args:
        network: the network that learns.
        episode: the shapes of the examples of a task.
        outputs: the number of outputs for each example.

    Raises:
        ValueError: in one line, with the numbers that do not fit. If a function raised an error, it is the cause.
    """
    if network.outputs != outputs:
        raise ValueError(f"the network has {network.outputs} outputs, and the tasks ask for {outputs}")
    params = trace("network.init", network.init, abstract_key())
    x, (shown, y) = episode.query[0], episode.support
    hint = f"the support is {describe(shown)} and {describe(y)}: was the network made for other examples?"
    _check_outputs(trace("network.predict", network.predict, params, episode.support, x, hint=hint), x, outputs)


def _check_outputs(prediction: Any, x: Any, outputs: int) -> None:
    if not is_array(prediction):
        raise ValueError(f"predictions must be one array, not a {type(prediction).__name__}")
    if len(prediction.shape) == 2 and prediction.shape[0] == x.shape[0] and prediction.shape[1] != outputs:
        raise ValueError(f"the network has {prediction.shape[1]} outputs, and the tasks ask for {outputs}")
    if prediction.shape != (x.shape[0], outputs):
        raise ValueError(
            f"predictions for {x.shape[0]} examples must be [{x.shape[0]}, {outputs}], not {describe(prediction)}"
        )
