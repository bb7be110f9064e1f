"""Every algorithm refuses wrong families and networks before anything compiles."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from builders import ALGORITHMS, Case, flat
from probes import probe_family

from metarl_jax import problems
from metarl_jax.algorithms import pearl, rl2, rl2_asymmetric, varibad
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import bandits, gridnavi, tabular_mdp
from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
from metarl_jax.interfaces.few_shot import InContextProblem
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.networks import arms, belief, context, mlp, recurrent, snail
from metarl_jax.types import Algorithm, Array, Box, Discrete, EnvFamily, Key, Spaces, TaskDistribution

CASES = flat(ALGORITHMS)


class Broken:
    """The environment of a family with a Python ``if`` in its ``step``."""

    def __init__(self, env: Any) -> None:
        self.reset, self.right = env.reset, env.step

    def step(self, key: Key, state: Any, action: Array, params: Any) -> Any:
        if jnp.all(action == 0):
            return self.right(key, state, action, params)
        return self.right(key, state, action + 1, params)


def branching(key: Key) -> Array:
    return jnp.float32(1 if jax.random.uniform(key) > 0.5 else 0)


@pytest.fixture(params=CASES, ids=[name for name, _ in CASES])
def made(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[..., Algorithm], tuple[Any, ...]]:
    """Return the algorithm's ``make``, and correct arguments of it."""
    name, builder = request.param
    case: Case = builder()
    module = importlib.import_module(f"metarl_jax.algorithms.{name.partition('.')[0]}")
    make, arguments = module.make, []
    with monkeypatch.context() as patch:
        patch.setattr(module, "make", lambda *a: arguments.append(a))
        case.make()
    return make, arguments[0]


def wrong_ones(right: Any) -> list[tuple[Any, str]]:
    """Families and problems with one fault each, and the expected messages."""
    match right:
        case EnvFamily():
            other = Box(-1.0, 1.0, (7,)) if isinstance(right.action_space, Box) else Discrete(7)
            return [
                (right._replace(env=Broken(right.env)), "env.step of Broken cannot be compiled"),
                (right._replace(tasks=TaskDistribution(branching, branching)), "tasks.sample cannot be compiled"),
                (right._replace(horizon=0), "horizon must be a positive whole number, not 0"),
                (right._replace(action_space=other), "but env.action_space(task) is "),
                (sinusoid.maml(2, 2), "family must be a metarl_jax.types.EnvFamily"),
            ]
        case InnerProblem():
            fault = (
                right._replace(score=lambda params, batch: jnp.zeros(3)),
                "problem.score must return a real scalar",
            )
            if right.policy is not None:
                wrong = right.policy._replace(play=lambda key, params, task: float(task))
                fault = (right._replace(policy=wrong), "problem.policy.play fails")
            return [
                (right._replace(tasks=TaskDistribution(branching, branching)), "tasks.sample cannot be compiled"),
                fault,
                (probe_family(), "problem must be a metarl_jax.interfaces.gradient.InnerProblem"),
            ]
        case InContextProblem():
            return [
                (right._replace(tasks=TaskDistribution(branching, branching)), "tasks.sample cannot be compiled"),
                (right._replace(score=lambda prediction, y: jnp.zeros(3)), "problem.score must return a real scalar"),
                (probe_family(), "problem must be a metarl_jax.interfaces.few_shot.InContextProblem"),
            ]
    raise AssertionError(type(right))


def test_every_algorithm_refuses_wrong_families_in_one_line(
    made: tuple[Callable[..., Algorithm], tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    make, (right, *others) = made
    make(right, *others)
    caplog.clear()
    for wrong, message in wrong_ones(right):
        with jax.log_compiles(), caplog.at_level(logging.DEBUG), pytest.raises(ValueError) as raised:
            make(wrong, *others)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not [record for record in caplog.records if "Compiling" in record.getMessage()]


def test_every_problem_refuses_wrong_families() -> None:
    family, waves = probe_family(), sinusoid.maml(3, 4)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(5,), history=False)
    for wrong, message in wrong_ones(family):
        with pytest.raises(ValueError) as raised:
            problems.policy_gradient(wrong, policy)
        assert message in str(raised.value)
    predictor = mlp.predictor(1, 1, hidden_sizes=(5,))
    learner = snail.in_context_learner(
        (1,), 1, classes=False, window=4, attentions=[(3, 4)], filters=3, embedding_size=6
    )
    wrong_draw = waves._replace(draw=lambda key, task: waves.draw(key, task).support)
    for make, network in ((problems.few_shot, predictor), (problems.in_context, learner)):
        make(waves, network)  # pyright: ignore[reportArgumentType]
        for training, heldout in ((wrong_draw, None), (waves, wrong_draw)):
            with pytest.raises(ValueError, match=r"draw must return a metarl_jax\.interfaces\.few_shot\.FewShotTask"):
                make(training, network, heldout=heldout)  # pyright: ignore[reportArgumentType]


# ----------------------------------------------------------------------------------------------------------- networks

SMALL: dict[str, Any] = {"hidden_sizes": (5,)}


def policies(family: EnvFamily, other: EnvFamily) -> list[tuple[Callable[..., Any], Any]]:
    """Algorithms and problems that take a policy refuse a policy of another family."""
    spaces = other.observation_space, other.action_space
    with_memory = recurrent.make(Spaces(*spaces), recurrent.Settings(hidden_size=4, embedding_size=3))
    reactive = mlp.policy(*spaces, history=False, **SMALL)
    return [
        (lambda policy: rl2.make(family, policy, rl2.Config(trials=4, minibatches=2)), with_memory),
        (lambda policy: problems.policy_gradient(family, policy), reactive),
    ]


MEND = ": make it with the spaces of this family"


@pytest.mark.parametrize(
    ("family", "other", "message", "by_shapes"),
    [
        (
            bandits.bernoulli(4),
            bandits.bernoulli(7),
            "the policy was made for actions in Discrete(n=7), but those of the family are in Discrete(n=4)",
            "the policy chooses among 7 actions, but the family has 4 actions: make it with the action space of",
        ),
        (
            probe_family(),
            probe_family()._replace(action_space=Box(-1.0, 1.0, (3,))),
            "the policy was made for actions in a Box of shape (3,), but those of the family are in a Box of shape "
            "(2,)",
            "the policy gives actions float32[3], but the family has actions of shape (2,)",
        ),
        (
            bandits.bernoulli(4),
            bandits.bernoulli(4)._replace(action_space=Box(-1.0, 1.0, (3,))),
            "the policy was made for actions in a Box of shape (3,), but those of the family are in Discrete(n=4)",
            "the policy gives actions float32[3], but the family has 4 actions",
        ),
        (
            probe_family(),
            probe_family()._replace(action_space=Discrete(4)),
            "the policy was made for actions in Discrete(n=4), but those of the family are in a Box of shape (2,)",
            "the policy chooses among 4 actions, but the family has actions of shape (2,)",
        ),
        (
            tabular_mdp.make(states=4, actions=3, horizon=2),
            tabular_mdp.make(states=6, actions=3, horizon=2),
            "the policy was made for observations in a Box of shape (6,), but those of the family are in a Box of "
            "shape (4,)",
            "policy.step fails",
        ),
        (
            # For an index beyond its observation space, a network gets zeros, and no shape is wrong.
            gridnavi.make(4, 3),
            gridnavi.make(3, 3),
            "the policy was made for observations in Discrete(n=9), but those of the family are in Discrete(n=16)",
            None,
        ),
    ],
)
def test_a_policy_of_other_spaces(family: EnvFamily, other: EnvFamily, message: str, by_shapes: str | None) -> None:
    for make, policy in policies(family, other):
        with pytest.raises(ValueError) as raised:
            make(policy)
        assert str(raised.value) == message + MEND
        if by_shapes is None:
            continue
        # A user's policy need not state the spaces that it was made for.
        with pytest.raises(ValueError) as raised:
            make(policy._replace(spaces=None))
        said = str(raised.value)
        assert "\n" not in said
        # A network with a memory fails at the encoding of the previous action, before its own actions are checked.
        assert by_shapes in said or said.startswith("policy.step fails")


def test_a_user_policy_whose_parts_do_not_fit() -> None:
    family = bandits.bernoulli(3)
    right = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=3))

    def refused(policy: Any) -> str:
        with pytest.raises(ValueError) as raised:
            rl2.make(family, policy, rl2.Config(trials=4, minibatches=2))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def remembers_more(params: Any, carry: Any, inputs: Any) -> Any:
        return jax.tree.map(lambda x: jnp.append(x, 0.0), right.step(params, carry, inputs)[0]), None

    def values_twice(params: Any, carry: Any, inputs: Any) -> Any:
        carry, output = right.step(params, carry, inputs)
        return carry, output._replace(value=jnp.stack([output.value, output.value]))

    def rounds(params: Any, carry: Any, inputs: Any) -> Any:
        return right.step(params, carry, inputs._replace(prev_reward=float(inputs.prev_reward)))

    said = refused(right._replace(step=remembers_more))
    assert "the memory of the policy must keep its structure, shapes and dtypes: " in said
    assert "float32[4]" in said
    assert "float32[5]" in said
    said = refused(right._replace(step=values_twice))
    assert said == "the policy's value at one step must be a scalar, not float32[2]"
    assert "policy.step cannot be compiled" in refused(right._replace(step=rounds))
    assert "policy must be a metarl_jax.types.Policy, not EnvFamily" in refused(family)


def _beliefs(latents: tuple[int, int, int], family: EnvFamily, steps: bool) -> Any:
    """VariBAD's networks must agree in the number of latent variables of encoder, decoder and policy."""
    spaces = family.observation_space, family.action_space
    encoder = belief.encoder(*spaces, latent_size=latents[0], hidden_size=4, embedding_size=3)
    if steps:
        decoder = belief.step_decoder(*spaces, latent_size=latents[1], **SMALL)
    else:
        decoder = belief.grid_decoder(family.observation_space, latent_size=latents[1], **SMALL)
    return belief.combine(*spaces, encoder, decoder, latent_size=latents[2], **SMALL)


@pytest.mark.parametrize("steps", [False, True], ids=["cells", "steps"])
@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ((3, 5, 5), "latent_size is 5, but the belief of the encoder is over 3 latent variables"),
        ((5, 5, 3), "latent_size is 3, but the belief of the encoder is over 5 latent variables"),
        ((5, 3, 5), "latent_size is 5, but the decoder takes 3 latent variables"),
    ],
)
def test_latent_sizes_of_varibad(latents: tuple[int, int, int], message: str, steps: bool) -> None:
    family = gridnavi.make(3, 4)
    config = varibad.Config(episodes=2, trials=4, minibatches=2, buffer_trials=8)
    varibad.make(family, _beliefs((2, 2, 2), family, steps), config)
    with pytest.raises(ValueError) as raised:
        varibad.make(family, _beliefs(latents, family, steps), config)
    assert str(raised.value) == f"{message}: give all networks the same latent_size"


def test_networks_of_varibad_that_were_made_for_another_family() -> None:
    family, config = gridnavi.make(3, 4), varibad.Config(episodes=2, trials=4, minibatches=2, buffer_trials=8)
    right = _beliefs((2, 2, 2), family, False)

    def refused(networks: Any) -> str:
        with pytest.raises(ValueError) as raised:
            varibad.make(family, networks, config)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    larger = _beliefs((2, 2, 2), gridnavi.make(4, 4), False)
    said = "was made for observations in Discrete(n=16), but those of the family are in Discrete(n=9)" + MEND
    assert refused(right._replace(encoder=larger.encoder)) == f"the encoder {said}"
    assert refused(right._replace(decoder=larger.decoder)) == f"the decoder {said}"
    assert "show gives the policy float32[20], but shown is a Box of shape (13,)" in refused(
        right._replace(show=larger.show)
    )
    shown = "was made for observations in a Box of shape (20,), but those of the family are in a Box of shape (13,)"
    assert shown in refused(right._replace(policy=larger.policy))
    many = _beliefs((2, 2, 2), family._replace(action_space=Discrete(7)), True)
    said = "was made for actions in Discrete(n=7), but those of the family are in Discrete(n=5)" + MEND
    for who in ("encoder", "decoder", "policy"):
        assert refused(right._replace(**{who: getattr(many, who)})) == f"the {who} {said}"
    assert "networks must be a metarl_jax.interfaces.belief.BeliefNetworks, not Policy" in refused(right.policy)


def _contexts(latents: tuple[int, int], family: EnvFamily) -> Any:
    """PEARL's networks must agree in the number of latent variables."""
    spaces = family.observation_space, family.action_space
    return context.combine(
        *spaces, context.encoder(*spaces, latent_size=latents[0], **SMALL), latent_size=latents[1], **SMALL
    )


@pytest.mark.parametrize("family", [gridnavi.make(3, 4), probe_family()], ids=["discrete", "continuous"])
def test_networks_of_pearl(family: EnvFamily) -> None:
    right, other = _contexts((2, 2), family), _contexts((4, 4), family)

    def refused(networks: Any, family: EnvFamily = family) -> str:
        with pytest.raises(ValueError) as raised:
            pearl.make(family, networks, pearl.Config())
        assert "\n" not in str(raised.value)
        return str(raised.value)

    pearl.make(family, right, pearl.Config())
    same = ": give all networks the same latent_size"
    of_encoder = "latent_size is 2, but the belief of the encoder is over 4 latent variables"
    assert refused(_contexts((4, 2), family)) == of_encoder + same
    assert (
        refused(right._replace(actor=other.actor)) == "latent_size is 2, but the actor takes 4 latent variables" + same
    )
    assert (
        refused(right._replace(critic=other.critic))
        == "latent_size is 2, but the critic takes 4 latent variables" + same
    )
    assert "networks must be a metarl_jax.interfaces.context.ContextNetworks, not Actor" in refused(right.actor)
    discrete = isinstance(family.action_space, Discrete)
    changed = family._replace(action_space=Discrete(7) if discrete else Box(-1.0, 1.0, (3,)))
    many = _contexts((2, 2), changed)
    for who in ("encoder", "actor", "critic"):
        assert f"the {who} was made for actions in " in refused(right._replace(**{who: getattr(many, who)}))
    # A user's networks need not state the spaces that they were made for.
    found = (
        "the actor chooses among 7 actions, but the family has 5" if discrete else "the actor gives actions float32[3]"
    )
    assert found in refused(right._replace(actor=many.actor._replace(spaces=None)))
    if not discrete:
        assert "encoder.infer fails" in refused(right._replace(encoder=many.encoder._replace(spaces=None)))
        assert "the critic fails" in refused(right._replace(critic=many.critic._replace(spaces=None)))


def test_networks_of_asymmetric_rl2() -> None:
    family, config = bandits.bernoulli(3), rl2_asymmetric.Config(episodes=4, trials=8, minibatches=2)
    assert family.privileged is not None
    known = family.privileged.arm
    assert known is not None

    def networks(number: int = 3, arm: Any = known) -> AsymmetricNetworks:
        spaces = family.observation_space, Discrete(number)
        return AsymmetricNetworks(
            recurrent.make(Spaces(*spaces), recurrent.Settings(hidden_size=4, embedding_size=3)),
            arms.critic(arm, units=4),
        )

    def refused(networks: Any) -> str:
        with pytest.raises(ValueError) as raised:
            rl2_asymmetric.make(family, networks, config)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    rl2_asymmetric.make(family, networks(), config)
    assert "the policy was made for actions in Discrete(n=7)" in refused(networks(7))
    features = known.features
    other = known._replace(features=lambda belief: jnp.concatenate([features(belief)] * 2))
    said = refused(networks(arm=other))
    assert "critic.value fails" in said
    assert "privileged.arm.features gives 4 numbers: was the critic made for another arm?" in said
    assert "networks must be a metarl_jax.interfaces.asymmetric.AsymmetricNetworks, not Policy" in refused(
        networks().policy
    )


def test_networks_of_few_shot_tasks() -> None:
    waves = sinusoid.maml(3, 4)

    def refused(make: Callable[..., Any], network: Any) -> str:
        with pytest.raises(ValueError) as raised:
            make(waves, network)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    predictor = mlp.predictor(1, 1, **SMALL)
    assert (
        refused(problems.few_shot, mlp.predictor(1, 2, **SMALL)) == "the network has 2 outputs, and the tasks ask for 1"
    )
    said = refused(problems.few_shot, mlp.predictor(2, 1, **SMALL))
    assert "network.apply fails" in said
    assert "the support's x is float32[3, 1]: was the network made for other examples?" in said
    flat = predictor._replace(apply=lambda params, x: predictor.apply(params, x)[:, 0])
    assert refused(problems.few_shot, flat) == "predictions for 3 examples must be [3, 1], not float32[3]"
    settings: dict[str, Any] = {
        "classes": False,
        "window": 4,
        "attentions": [(3, 4)],
        "filters": 3,
        "embedding_size": 6,
    }
    learner = snail.in_context_learner((1,), 1, **settings)
    assert refused(problems.in_context, snail.in_context_learner((1,), 2, **settings)) == (
        "the network has 2 outputs, and the tasks ask for 1"
    )
    # The learner's own number of outputs is wrong, or its predictions are.
    assert refused(problems.in_context, snail.in_context_learner((1,), 2, **settings)._replace(outputs=1))
    assert "network.predict fails" in refused(problems.in_context, snail.in_context_learner((2,), 1, **settings))
    problems.in_context(waves, learner)
