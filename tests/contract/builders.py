"""Builders of one small instance of every module for the contract tests.

Modules are discovered by their place in the package. A module that is in no table here fails the tests. With a builder,
all contract tests check it.
"""

from __future__ import annotations

import inspect
import pkgutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from probes import probe_family

from metarl_jax import problems
from metarl_jax.algorithms import (
    algorithm_distillation,
    anil,
    cavia,
    decision_pretrained,
    e_maml,
    hyperx,
    imaml,
    in_context,
    maml,
    maml_trpo,
    meta_sgd,
    multi_task,
    multi_task_trpo,
    pearl,
    promp,
    recurrent_sac,
    reptile,
    rl2,
    rl2_asymmetric,
    varibad,
)
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import (
    bandits,
    changing,
    classic_control,
    cross_domain,
    dark_room,
    diagnosis,
    driving,
    from_gymnax,
    gridnavi,
    icu_sepsis,
    linear_quadratic,
    locomotion,
    manipulation,
    markets,
    maze,
    motion_planning,
    moving_goal,
    navix,
    point_robot,
    recommendation,
    t_maze,
    tabular_mdp,
    xland,
)
from metarl_jax.interfaces.asymmetric import AsymmetricNetworks
from metarl_jax.networks import (
    arms,
    belief,
    context,
    fast_weights,
    hypernetwork,
    linear_recurrence,
    meta_network,
    min_gru,
    mlp,
    off_policy,
    recurrent,
    selective,
    set_aggregation,
    snail,
    split_aggregation,
    transformer,
)
from metarl_jax.oracles import bandits as bandit_learners
from metarl_jax.types import Algorithm, Box, Discrete, EnvFamily, Key, Policy, Space, Spaces, Task, TaskDistribution


def modules(package: ModuleType) -> set[str]:
    """Return the names of the modules of a package."""
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def makers(module: ModuleType, returns: str) -> set[str]:
    """Return the public functions of a module whose annotation of the return value is ``returns``."""
    return {
        name
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(function).return_annotation == returns
    }


# ------------------------------------------------------------------------------------------------- environments


def _cartpole() -> EnvFamily:
    import gymnax

    defaults = gymnax.make("CartPole-v1")[1]

    def sample(key: Key) -> Task:
        gravity, pole, length = jax.random.uniform(key, (3,), minval=0.5, maxval=1.5)
        masspole, length = defaults.masspole * pole, defaults.length * length
        return defaults.replace(
            gravity=defaults.gravity * gravity,
            masspole=masspole,
            length=length,
            total_mass=defaults.masscart + masspole,
            polemass_length=masspole * length,
        )

    return from_gymnax.make("CartPole-v1", sample, horizon=30)


def _pendulum() -> EnvFamily:
    import gymnax

    env, defaults = gymnax.make("Pendulum-v1")

    def sample(key: Key) -> Task:
        m, l = jax.random.uniform(key, (2,), minval=0.5, maxval=1.5)  # noqa: E741
        return defaults.replace(m=m, l=l)

    return from_gymnax.make(env, sample, sample, horizon=12)


def _xland() -> EnvFamily:
    """Make rulesets whose goal is to pick up an object. Each has two objects, which differ between rulesets."""
    from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles
    from xminigrid.core.goals import AgentHoldGoal
    from xminigrid.core.rules import EmptyRule
    from xminigrid.types import RuleSet

    shapes, colours = (Tiles.BALL, Tiles.SQUARE, Tiles.STAR), (Colors.RED, Colors.GREEN, Colors.BLUE)
    tiles = [TILES_REGISTRY[shape, colour] for shape in shapes for colour in colours]
    rulesets = [
        RuleSet(AgentHoldGoal(tile).encode(), EmptyRule().encode()[None], jnp.stack([tile, other]))
        for tile in tiles
        for other in tiles
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *rulesets)
    return xland.make(stacked, "XLand-MiniGrid-R1-9x9", horizon=12)


def _from_ratings() -> EnvFamily:
    stars = np.random.default_rng(0).integers(1, 6, (20, 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        rows = [f"{user},{item},{rating}" for (user, item), rating in np.ndenumerate(stars)]
        path.write_text("\n".join(["user,item,rating", *rows]))
        return recommendation.from_ratings(path, least=2)


def _from_prices() -> EnvFamily:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prices.csv"
        prices = np.exp(np.cumsum(0.1 * np.random.default_rng(0).normal(size=80)))
        rows = [f"2020-{1 + i // 28:02}-{1 + i % 28:02},{price:.6f}" for i, price in enumerate(prices)]
        path.write_text("\n".join(["date,price", *rows]))
        return markets.from_prices(path, horizon=6, window=12)


def _across_domains() -> EnvFamily:
    stars = np.random.default_rng(0).integers(1, 6, (20, 6))
    with tempfile.TemporaryDirectory() as folder:
        path, items = Path(folder) / "ratings.csv", Path(folder) / "items.csv"
        rows = [f"{user},{item},{rating}" for (user, item), rating in np.ndenumerate(stars)]
        path.write_text("\n".join(["user,item,rating", *rows]))
        items.write_text("\n".join(["item,domain", *(f"{item},{item % 2}" for item in range(6))]))
        return cross_domain.from_ratings(path, items, least=2, interactions=3)


# The states of Gymnasium environments are on the host and can be used once (``test_from_gymnasium.py``).
GYMNASIUM = {"gymnasium_family", "gymnasium_host", "gymnasium_spaces"}
# A step of Craftax takes ten seconds to compile (``test_craftax.py``).
NOT_ENVIRONMENTS = {"base", "craftax", "drawing", "physics", "manipulation_skills", *GYMNASIUM}
# These functions call ``xland.make`` with rulesets of their own.
SAME_ENVIRONMENTS = {"made_up_family", "trivial_21k"}
CLASSIC_CONTROL = ("cartpole", "pendulum", "acrobot", "mountain_car", "mountain_car_continuous")
ROBOTS = ("half_cheetah_direction", "half_cheetah_velocity", "ant_direction", "ant_goal", "humanoid_direction")
POINT_ROBOTS = ("maml", "promp", "pearl_dense", "pearl_sparse", "varibad")
ENVIRONMENTS: dict[str, dict[str, Callable[[], EnvFamily]]] = {
    "bandits": {"bernoulli": lambda: bandits.bernoulli(4), "gaussian": lambda: bandits.gaussian(3, noise=0.5)},
    "dark_room": {
        **{name: getattr(dark_room, name) for name in ("decision_pretrained", "algorithm_distillation")},
        "key_to_door": lambda: dark_room.key_to_door(3, 12),
    },
    "gridnavi": {
        "make": lambda: gridnavi.make(3, 6),
        "rare_far_goals": lambda: gridnavi.rare_far_goals(3, 6),
    },
    "locomotion": {
        "make": lambda: locomotion.make(
            locomotion.WALKER,
            5,
            "c",
            lambda readings, control, height: -jnp.abs(readings.observation[0] - height),
            lambda key: jax.random.uniform(key, minval=0.9, maxval=1.3),
        ),
        **{name: partial(getattr(locomotion, name), horizon=6, engine="c") for name in ROBOTS},
        **{
            name: partial(getattr(locomotion, name), tasks=3, heldout_tasks=2, horizon=6, engine="c")
            for name in ("hopper_parameters", "walker_parameters")
        },
    },
    "manipulation": {
        "ml1": lambda: manipulation.ml1("push", horizon=6, tasks=3, heldout_tasks=2, engine="c"),
        "ml10": lambda: manipulation.ml10(horizon=6, tasks=3, heldout_tasks=2),
    },
    "maze": {"tiny": lambda: maze.tiny(9), "small": lambda: maze.small(12), "large": lambda: maze.large(9)},
    "navix": {"make": lambda: navix.make("Navix-Empty-Random-5x5-v0", horizon=12)},
    "point_robot": {name: getattr(point_robot, name) for name in POINT_ROBOTS},
    "recommendation": {"made_up": lambda: recommendation.made_up(6), "from_ratings": _from_ratings},
    "t_maze": {"make": lambda: t_maze.make(4, 1)},
    "tabular_mdp": {"make": lambda: tabular_mdp.make(states=4, actions=3, horizon=5)},
    "classic_control": {
        **{name: partial(getattr(classic_control, name), "in_range", 30) for name in CLASSIC_CONTROL},
        "cartpole[out of range]": lambda: classic_control.cartpole("out_of_range", 30),
    },
    "xland": {"make": _xland},
    "from_gymnax": {"make[CartPole]": _cartpole, "make[Pendulum]": _pendulum},
    "linear_quadratic": {"make": lambda: linear_quadratic.make(3, 2, 5)},
    "changing": {
        "switching": lambda: changing.switching(3, 8),
        "drifting": lambda: changing.drifting(3, 8),
        "interests": lambda: changing.interests(6, 2, 8),
    },
    "moving_goal": {"make": lambda: moving_goal.make(3, 10)},
    "markets": {"autoregressive": lambda: markets.autoregressive(6), "from_prices": _from_prices},
    "motion_planning": {"rooms": lambda: motion_planning.rooms(6)},
    "cross_domain": {
        "made_up": lambda: cross_domain.made_up(4, 2, 3, "mixed"),
        "from_ratings": _across_domains,
    },
    "diagnosis": {"make": lambda: diagnosis.make(2, 2)},
    "icu_sepsis": {"make": lambda: icu_sepsis.make(horizon=4)},
    "driving": {"motorway": lambda: driving.motorway(6, 3, 2)},
}

# ----------------------------------------------------------------------------------------------------- networks

# These modules are parts of networks, networks for supervised tasks, or networks for families with finitely many states
# only. They have tests of their own.
NOT_NETWORKS = {
    *("arms", "belief", "context", "convolutional", "estimated_values", "estimates", "gated", "heads"),
    *("normalisation", "off_policy", "scans", "windows"),
}
NETWORKS: dict[str, dict[str, Callable[[Space, Space], Policy]]] = {
    "fast_weights": {
        "make": lambda obs, act: fast_weights.make(
            Spaces(obs, act), fast_weights.Settings(embedding_size=9, key_size=4, value_size=6, readout_size=5)
        ),
    },
    "linear_recurrence": {
        "make": lambda obs, act: linear_recurrence.make(
            Spaces(obs, act), linear_recurrence.Settings(model_size=7, hidden_size=5)
        )
    },
    "meta_network": {
        "make": lambda obs, act: meta_network.make(
            Spaces(obs, act),
            meta_network.Settings(
                window=4, embedding_size=7, hidden_size=8, key_size=3, readout_size=6, generator_size=8
            ),
        ),
    },
    "mlp": {
        "policy": lambda obs, act: mlp.policy(obs, act, hidden_sizes=(7, 6)),
        "make": lambda obs, act: mlp.make(Spaces(obs, act), mlp.Settings(units=7, layers=1)),
    },
    "recurrent": {
        "make[gru]": lambda obs, act: recurrent.make(
            Spaces(obs, act), recurrent.Settings(cell="gru", hidden_size=6, embedding_size=9)
        ),
        "make[gru, previous observation]": lambda obs, act: recurrent.make(
            Spaces(obs, act),
            recurrent.Settings(hidden_size=6, embedding_size=9, readout_size=5, previous_observation=True),
        ),
        "make[gru, no embedding]": lambda obs, act: recurrent.make(
            Spaces(obs, act), recurrent.Settings(hidden_size=6, embedding_size=None)
        ),
        "make[lstm]": lambda obs, act: recurrent.make(
            Spaces(obs, act), recurrent.Settings(cell="lstm", hidden_size=6, embedding_size=9, readout_size=5)
        ),
    },
    "snail": {
        "make": lambda obs, act: snail.make(
            Spaces(obs, act), snail.Settings(window=8, blocks=1, embedding_size=6, filters=4, key_size=3, value_size=5)
        ),
        # The window is shorter than the trials of the contract, so earlier steps are forgotten.
        "make[short window]": lambda obs, act: snail.make(
            Spaces(obs, act), snail.Settings(window=3, embedding_size=6, filters=4, key_size=3, value_size=5)
        ),
        "make[attention first]": lambda obs, act: snail.make(
            Spaces(obs, act),
            snail.Settings(
                window=8, blocks=1, embedding_size=6, filters=4, key_size=3, value_size=5, attention_first=True
            ),
        ),
    },
    "transformer": {
        "make[rotary]": lambda obs, act: transformer.make(
            Spaces(obs, act), transformer.Settings(window=4, model_size=8, heads=2)
        ),
        "make[learned]": lambda obs, act: transformer.make(
            Spaces(obs, act), transformer.Settings(window=8, layers=1, model_size=6, heads=3, positions="learned")
        ),
    },
    "hypernetwork": {
        "make": lambda obs, act: hypernetwork.make(
            Spaces(obs, act),
            hypernetwork.Settings(
                hidden_size=5,
                embedding_size=6,
                latent_size=4,
                policy_units=3,
                memory_input=True,
                previous_observation=True,
            ),
        ),
    },
    "set_aggregation": {
        f"make[{aggregate}]": partial(
            lambda aggregate, obs, act: set_aggregation.make(
                Spaces(obs, act),
                set_aggregation.Settings(aggregate=aggregate, embedding_size=6, hidden_size=5, readout_size=4),
            ),
            aggregate,
        )
        for aggregate in ("mean", "max")
    },
    "selective": {
        "make": lambda obs, act: selective.make(
            Spaces(obs, act), selective.Settings(layers=1, model_size=6, hidden_size=5, state_size=3)
        ),
    },
    "min_gru": {
        "make": lambda obs, act: min_gru.make(
            Spaces(obs, act), min_gru.Settings(layers=1, model_size=6, hidden_size=5)
        ),
    },
    "split_aggregation": {
        "make": lambda obs, act: split_aggregation.make(
            Spaces(obs, act), split_aggregation.Settings(hidden_size=6, embedding_size=9, readout_size=5)
        ),
    },
}
SPACES: dict[str, tuple[Space, Space]] = {
    "nothing seen, discrete actions": (Box(0.0, 1.0, (0,)), Discrete(5)),
    "matrix seen, vector actions": (Box(-1.0, 1.0, (2, 3)), Box(-1.0, 1.0, (2,))),
    "index seen, one real action": (Discrete(4), Box(-2.0, 2.0, (1,))),
    "image seen, discrete actions": (Box(-1.0, 1.0, (6, 7, 2)), Discrete(3)),
}

# --------------------------------------------------------------------------------------------------- algorithms


class Case(NamedTuple):
    """An algorithm on a small problem."""

    make: Callable[..., Algorithm]
    """Make the algorithm; keywords override settings of its ``Config``."""
    tasks: TaskDistribution
    learning_rate: str
    """The name of the setting that is the outer step size."""
    rate: float
    """The value of this setting unless it is overridden."""
    params: Callable[[Any], Any]
    """Returns the trainable parameters in a state."""
    adaptation_scores: int
    """The number of scores on one task: one for each episode; or one before gradient steps and one after each."""


def _rl2(family: EnvFamily, network: Callable[[Space, Space], Policy], episodes: int) -> Case:
    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": episodes, "trials": 8, "minibatches": 2, "iterations": 50}
        policy = network(family.observation_space, family.action_space)
        return rl2.make(family, policy, rl2.Config(**(sizes | settings)))

    rate = rl2.Config().learning_rate
    return Case(make, family.tasks, "learning_rate", rate, lambda state: state.params, episodes)


def _rl2_informed() -> Case:
    family = bandits.bernoulli(3)
    policy = snail.make(family, snail.Settings(window=4, blocks=1, embedding_size=6, filters=4), critic=False)
    assert family.privileged is not None
    assert family.privileged.arm is not None
    networks = AsymmetricNetworks(policy, arms.critic(family.privileged.arm, units=6))

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": 4, "trials": 8, "minibatches": 2, "iterations": 50}
        return rl2_asymmetric.make(family, networks, rl2_asymmetric.Config(**(sizes | settings)))

    rate = rl2_asymmetric.Config().learning_rate
    return Case(make, family.tasks, "learning_rate", rate, lambda state: (state.params, state.critic), 4)


def _recurrent_sac(family: EnvFamily, network: Callable[[Space, Space], Policy]) -> Case:
    memory = network(family.observation_space, family.action_space)
    networks = off_policy.make(family, memory, off_policy.Settings(head_units=6, head_layers=1))

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": 2, "trials": 8, "initial_trials": 4, "replay_trials": 10}
        sizes |= {"gradient_steps": 2, "batch_trials": 5, "iterations": 50}
        return recurrent_sac.make(family, networks, recurrent_sac.Config(**(sizes | settings)))

    def trained(state: recurrent_sac.State) -> Any:
        """Return the parameters without the heads of the memories, which are not used."""
        heads = [one.memory["params"] for one in (state.learned.actor, state.learned.critic)]
        without = [{name: part for name, part in params.items() if name != "head"} for params in heads]
        return without, state.learned.actor.reader, state.learned.critic.reader, state.learned.log_temperature

    return Case(make, family.tasks, "learning_rate", recurrent_sac.Config().learning_rate, trained, 2)


def _imitation(module: ModuleType, learner: Callable[[EnvFamily, Policy], Any]) -> Case:
    family = bandits.bernoulli(3)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=6, embedding_size=9), critic=False)

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": 4, "trials": 8, "iterations": 50}
        return module.make(family, learner(family, policy), module.Config(**(sizes | settings)))

    rate = module.Config().learning_rate
    return Case(make, family.tasks, "learning_rate", rate, lambda state: state.params, 4)


def _distillation() -> Case:
    def learner(family: EnvFamily, policy: Policy) -> Any:
        return problems.imitation(family, policy, bandit_learners.thompson_sampling)

    return _imitation(algorithm_distillation, learner)


def _belief(module: ModuleType, **own: Any) -> Case:
    family = gridnavi.make(3, 4)
    spaces = family.observation_space, family.action_space
    encoder = belief.encoder(*spaces, latent_size=2, hidden_size=5, embedding_size=6)
    decoder = belief.grid_decoder(family.observation_space, latent_size=2, hidden_sizes=(6,))
    networks = belief.combine(*spaces, encoder, decoder, latent_size=2, hidden_sizes=(7,))

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": 2, "trials": 8, "minibatches": 2, "iterations": 50}
        sizes |= {"adaptation_episodes": 3, "model_trials": 4, "model_updates": 2, "buffer_trials": 16}
        return module.make(family, networks, module.Config(**(sizes | own | settings)))

    rate = module.Config().learning_rate
    return Case(make, family.tasks, "learning_rate", rate, lambda state: (state.policy, state.model), 3)


def _pearl(family: EnvFamily) -> Case:
    spaces = family.observation_space, family.action_space
    encoder = context.encoder(*spaces, latent_size=2, hidden_sizes=(6,))
    networks = context.combine(*spaces, encoder, latent_size=2, hidden_sizes=(7,))

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"training_tasks": 6, "tasks": 2, "prior_episodes": 2, "posterior_episodes": 1}
        sizes |= {"initial_episodes": 3, "replay_episodes": 6, "gradient_steps": 2, "meta_batch": 4, "batch_size": 5}
        sizes |= {"context_size": 8, "automatic_temperature": True, "adaptation_episodes": 3, "iterations": 50}
        return pearl.make(family, networks, pearl.Config(**(sizes | settings)))

    rate = pearl.Config().learning_rate
    return Case(make, family.tasks, "learning_rate", rate, lambda state: state.learned, 3)


def _few_shot(module: ModuleType, context_size: int | None = None, **own: Any) -> Case:
    network = mlp.predictor(1, 1, hidden_sizes=(6, 5), context_size=context_size)
    problem = problems.few_shot(
        sinusoid.maml(shots=3, queries=4), network, problems.FewShotSettings(batch_size=2, heldout_batch_size=2)
    )

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"tasks": 8, "inner_steps": 2, "adaptation_steps": 3, "iterations": 50}
        return module.make(problem, module.Config(**(sizes | own | settings)))

    name = "learning_rate" if hasattr(module.Config, "learning_rate") else "outer_rate"
    rate = own.get(name, getattr(module.Config(), name))
    return Case(make, problem.tasks, name, rate, lambda state: state.params, 4)


def _reading() -> Case:
    learner = snail.in_context_learner(
        (1,), 1, classes=False, window=4, attentions=[(3, 4), (5, 2)], filters=3, embedding_size=6
    )
    problem = problems.in_context(sinusoid.maml(shots=3, queries=4), learner)

    def make(**settings: Any) -> Algorithm:
        return in_context.make(problem, in_context.Config(**({"tasks": 8, "iterations": 50} | settings)))

    rate = in_context.Config().learning_rate
    return Case(make, problem.tasks, "learning_rate", rate, lambda state: state.params, 1)


def _reinforcement(module: ModuleType, family: EnvFamily, estimator: problems.Estimator, **own: Any) -> Case:
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(7, 6), history=False, critic=False)

    def make(gae_lambda: float = own.pop("gae_lambda", 1.0), **settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"tasks": 8, "inner_steps": 2, "adaptation_steps": 3, "iterations": 50}
        # There are enough episodes to determine the linear baseline. With fewer it would depend on rounding.
        chosen = problems.PolicyGradientSettings(episodes=10, estimator=estimator, gae_lambda=gae_lambda)
        problem = problems.policy_gradient(family, policy, chosen)
        return module.make(problem, module.Config(**(sizes | own | settings)))

    # A trust region has no learning rate, but its step depends on the inner step size.
    name = "learning_rate" if hasattr(module.Config, "learning_rate") else "inner_rate"
    rate = own.get(name, getattr(module.Config(), name))
    return Case(make, family.tasks, name, rate, lambda state: state.params, 4)


def _multi_task_trpo() -> Case:
    case = _reinforcement(multi_task_trpo, probe_family(), "dice", damping=0.1, gae_lambda=0.5)
    # A step within a trust region is finite for all settings of the algorithm. It depends on a setting of the
    # advantages.
    return case._replace(learning_rate="gae_lambda", rate=0.5)


ALGORITHMS: dict[str, dict[str, Callable[[], Case]]] = {
    "algorithm_distillation": {"make": _distillation},
    "anil": {"make": lambda: _few_shot(anil)},
    "cavia": {"make": lambda: _few_shot(cavia, context_size=2, inner_rate=0.1)},
    "decision_pretrained": {"make": lambda: _imitation(decision_pretrained, lambda family, policy: policy)},
    "e_maml": {
        "make": lambda: _reinforcement(
            e_maml,
            tabular_mdp.make(states=4, actions=3, horizon=5),
            "log_likelihood",
            exploration_credit=1.0,
            damping=0.1,
            inner_steps=1,
        ),
    },
    "hyperx": {"make": lambda: _belief(hyperx, novelty_units=6, novelty_features=3, novelty_batch=8)},
    "in_context": {"make": _reading},
    # The proximal term is strong enough for the linear system to be positive definite. The step size is small, because
    # Adam's step has the same size even if the gradient is only rounding of the solver.
    "imaml": {"make": lambda: _few_shot(imaml, strength=20.0, learning_rate=1e-4)},
    "maml": {
        "make[exact, rematerialised]": lambda: _few_shot(maml, rematerialise=True),
        "make[epochs]": lambda: _few_shot(maml, epochs=2),
    },
    "maml_trpo": {"make": lambda: _reinforcement(maml_trpo, probe_family(), "dice", damping=0.1)},
    "meta_sgd": {"make": lambda: _few_shot(meta_sgd)},
    "multi_task": {"make": lambda: _few_shot(multi_task)},
    "multi_task_trpo": {"make": _multi_task_trpo},
    "pearl": {
        "make": lambda: _pearl(probe_family()),
    },
    "promp": {
        "make": lambda: _reinforcement(promp, probe_family(), "likelihood_ratio", adaptive_weight=True, inner_steps=1),
    },
    "recurrent_sac": {"make": lambda: _recurrent_sac(probe_family(), NETWORKS["recurrent"]["make[lstm]"])},
    "reptile": {"make": lambda: _few_shot(reptile)},
    "rl2": {
        "make[bandit]": lambda: _rl2(bandits.bernoulli(3), NETWORKS["recurrent"]["make[gru]"], 4),
        "make[continuous]": lambda: _rl2(probe_family(), NETWORKS["recurrent"]["make[lstm]"], 2),
    },
    "rl2_asymmetric": {"make": _rl2_informed},
    "varibad": {"make": lambda: _belief(varibad)},
}


def flat(table: dict[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return the pairs ``(name, builder)`` of a table, for parametrised tests."""
    return [(f"{module}.{name}", builder) for module, builders in table.items() for name, builder in builders.items()]
