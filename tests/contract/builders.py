"""How the contract tests build one small instance of everything.

Modules are discovered by their place in the package. A module that is in no table here fails the tests: add its
builder, and every clause of the contract is checked on it.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metarl_jax import problems
from metarl_jax.algorithms import maml, rl2
from metarl_jax.datasets import sinusoid
from metarl_jax.environments import bandits, from_gymnax, tabular_mdp
from metarl_jax.networks import mlp, recurrent
from metarl_jax.types import Algorithm, Box, Discrete, EnvFamily, Key, Policy, Space, Task, TaskDistribution


def modules(package: ModuleType) -> set[str]:
    """The names of a package's modules."""
    return {module.name for module in pkgutil.iter_modules(package.__path__)}


def makers(module: ModuleType, returns: str) -> set[str]:
    """The public functions of a module whose annotation says that they return ``returns``."""
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


NOT_ENVIRONMENTS = {"base"}
ENVIRONMENTS: dict[str, dict[str, Callable[[], EnvFamily]]] = {
    "bandits": {"bernoulli": lambda: bandits.bernoulli(4), "gaussian": lambda: bandits.gaussian(3, noise=0.5)},
    "tabular_mdp": {"make": lambda: tabular_mdp.make(states=4, actions=3, horizon=5)},
    "from_gymnax": {"make[CartPole]": _cartpole, "make[Pendulum]": _pendulum},
}

# ----------------------------------------------------------------------------------------------------- networks

NOT_NETWORKS = {"heads"}
NETWORKS: dict[str, dict[str, Callable[[Space, Space], Policy]]] = {
    "mlp": {"make": lambda obs, act: mlp.make(obs, act, hidden_sizes=(7, 6))},
    "recurrent": {
        "make[gru]": lambda obs, act: recurrent.make(obs, act, cell="gru", hidden_size=6, embedding_size=9),
        "make[gru, previous observation]": lambda obs, act: recurrent.make(
            obs, act, hidden_size=6, embedding_size=9, readout_size=5, previous_observation=True
        ),
        "make[gru, no embedding]": lambda obs, act: recurrent.make(obs, act, hidden_size=6, embedding_size=0),
        "make[lstm]": lambda obs, act: recurrent.make(
            obs, act, cell="lstm", hidden_size=6, embedding_size=9, readout_size=5
        ),
    },
}
SPACES: dict[str, tuple[Space, Space]] = {
    "nothing seen, discrete actions": (Box(0.0, 1.0, (0,)), Discrete(5)),
    "matrix seen, vector actions": (Box(-1.0, 1.0, (2, 3)), Box(-1.0, 1.0, (2,))),
    "index seen, one real action": (Discrete(4), Box(-2.0, 2.0, (1,))),
}

# --------------------------------------------------------------------------------------------------- algorithms


class Case(NamedTuple):
    """An algorithm on a small problem."""

    make: Callable[..., Algorithm]
    """Settings of its ``Config`` to override, by keyword."""
    tasks: TaskDistribution
    learning_rate: str
    """The setting that is the outer step size."""
    params: Callable[[Any], Any]
    """The trainable parameters in a state."""
    adaptation_scores: int
    """Of one task: a score for each episode, or for each gradient step and none."""


def _rl2(family: EnvFamily, network: Callable[[Space, Space], Policy], episodes: int) -> Case:
    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"episodes": episodes, "trials": 8, "minibatches": 2, "iterations": 50}
        policy = network(family.observation_space, family.action_space)
        return rl2.make(family, policy, rl2.Config(**(sizes | settings)))

    return Case(make, family.tasks, "learning_rate", lambda state: state.params, episodes)


def _maml(**own: Any) -> Case:
    problem = problems.few_shot(sinusoid.maml(shots=3, queries=4), mlp.predictor(1, 1, hidden_sizes=(6, 5)))

    def make(**settings: Any) -> Algorithm:
        sizes: dict[str, Any] = {"tasks": 8, "inner_steps": 2, "adaptation_steps": 3, "iterations": 50}
        return maml.make(problem, maml.Config(**(sizes | own | settings)))

    return Case(make, problem.tasks, "learning_rate", lambda state: state.params, 4)


ALGORITHMS: dict[str, dict[str, Callable[[], Case]]] = {
    "maml": {
        "make[exact, rematerialised]": lambda: _maml(rematerialise=True),
        "make[first order]": lambda: _maml(gradient="first_order"),
        "make[implicit]": lambda: _maml(gradient="implicit"),
    },
    "rl2": {
        "make[bandit]": lambda: _rl2(bandits.bernoulli(3), NETWORKS["recurrent"]["make[gru]"], 4),
        "make[continuous]": lambda: _rl2(probe_family(), NETWORKS["recurrent"]["make[lstm]"], 2),
    },
}


# ------------------------------------------------------------------------------------------------------- probes


class ProbeParams(NamedTuple):
    """A task of the probe environment."""

    target: jax.Array
    """``[2]``: the action that is wanted."""


class ProbeState(NamedTuple):
    time: jax.Array


class Probe:
    """Continuous actions, episodes that end at random: reward minus the squared distance to a hidden target."""

    horizon = 5

    def reset(self, key: Key, params: ProbeParams) -> tuple[jax.Array, ProbeState]:
        del params
        return jax.random.normal(key, (3,)), ProbeState(jnp.int32(0))

    def step(self, key: Key, state: ProbeState, action: jax.Array, params: ProbeParams) -> tuple[Any, ...]:
        key_end, key_obs, key_reset = jax.random.split(key, 3)
        time = state.time + 1
        terminated = jax.random.bernoulli(key_end, 0.3)
        truncated = time >= self.horizon
        done = terminated | truncated
        final = jax.random.normal(key_obs, (3,))
        obs, fresh = self.reset(key_reset, params)
        state = ProbeState(jnp.where(done, fresh.time, time))
        reward = -jnp.mean((action - params.target) ** 2)
        return jnp.where(done, obs, final), state, reward, terminated, truncated, {"final_observation": final}

    def action_space(self, params: ProbeParams | None = None) -> Box:
        del params
        return Box(-1.0, 1.0, (2,))

    def observation_space(self, params: ProbeParams | None = None) -> Box:
        del params
        return Box(-jnp.inf, jnp.inf, (3,))


def probe_family() -> EnvFamily:
    """The probe, as a family."""
    env = Probe()

    def sample(key: Key) -> ProbeParams:
        return ProbeParams(jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0))

    return EnvFamily(env, TaskDistribution(sample, sample), env.horizon, env.observation_space(), env.action_space())


def flat(table: dict[str, dict[str, Any]]) -> list[tuple[str, Any]]:
    """``[(name, builder)]`` of a table, for parametrising tests."""
    return [(f"{module}.{name}", builder) for module, builders in table.items() for name, builder in builders.items()]
