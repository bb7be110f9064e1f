"""Any gymnax environment as a family of tasks, by a sampler over its parameters.

    from metarl_jax.environments import from_gymnax

    def sample(key):  # poles of 0.25 to 1 metres
        import gymnax

        length = jax.random.uniform(key, minval=0.25, maxval=1.0)
        params = gymnax.make("CartPole-v1")[1]
        return params.replace(length=length, polemass_length=params.masspole * length)

    family = from_gymnax.make("CartPole-v1", sample, horizon=200)

gymnax takes seconds to import, so it is imported by ``make`` and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax

from metarl_jax.checks import did_you_mean, positive_int
from metarl_jax.precision import without_64_bits
from metarl_jax.types import Box, Discrete, EnvFamily, Key, Space, Task, TaskDistribution


def make(
    name_or_env: Any,
    sample: Callable[[Key], Task],
    sample_heldout: Callable[[Key], Task] | None = None,
    *,
    sample_validation: Callable[[Key], Task] | None = None,
    horizon: int | None = None,
) -> EnvFamily:
    """A family whose tasks are parameters of a gymnax environment.

    Some parameters of gymnax's environments are derived from others (CartPole's ``total_mass`` and
    ``polemass_length``): a sampler that changes one must change both. Environments that draw a task of their own at
    each reset (gymnax's meta-environments) keep doing so. The environment computes in 32 bits, also where JAX's 64-bit
    types are enabled: some of gymnax's fail with them.

    Args:
        name_or_env: a name that ``gymnax.make`` knows, or an environment.
        sample: draws the environment's ``EnvParams`` of one meta-training task.
        sample_heldout: the same for held-out tasks; ``sample`` if None.
        sample_validation: the same for validation tasks (``TaskDistribution``); ``sample`` if None.
        horizon: the most steps of an episode; the default parameters' limit if None. Every task gets this limit,
            whatever the sampler says.

    Returns:
        The family. Bounds of its spaces are those under the default parameters.

    Raises:
        ValueError: for an unknown name (near ones are named), a horizon that is no positive whole number, or a space
            that is neither discrete nor a box.
        TypeError: if a sampler does not return parameters of this environment.
    """
    env = _without_64_bits(_environment(name_or_env))
    defaults = env.default_params
    if horizon is None:
        horizon = int(defaults.max_steps_in_episode)
    steps = positive_int("horizon", horizon)

    def limited(sampler: Callable[[Key], Task]) -> Callable[[Key], Task]:
        drawn = jax.eval_shape(sampler, jax.random.key(0))
        if type(drawn) is not type(defaults):
            raise TypeError(
                f"the sampler must return {env.name}'s {type(defaults).__module__}.{type(defaults).__qualname__}, "
                f"not {type(drawn).__module__}.{type(drawn).__qualname__}"
            )
        return lambda key: sampler(key).replace(max_steps_in_episode=steps)

    train = limited(sample)
    test = train if sample_heldout is None else limited(sample_heldout)
    validation = None if sample_validation is None else limited(sample_validation)
    return EnvFamily(
        env=env,
        tasks=TaskDistribution(train, test, validation),
        horizon=steps,
        observation_space=_space(env.observation_space(defaults), f"{env.name}'s observation space"),
        action_space=_space(env.action_space(defaults), f"{env.name}'s action space"),
    )


def _environment(name_or_env: Any) -> Any:
    import gymnax
    from gymnax.environments.environment import Environment

    if isinstance(name_or_env, Environment):
        return name_or_env
    if not isinstance(name_or_env, str):
        raise TypeError(f"name_or_env must be a name or a gymnax environment, not {type(name_or_env).__qualname__}")
    if name_or_env not in gymnax.registered_envs:
        near = did_you_mean(name_or_env, gymnax.registered_envs)
        raise ValueError(f"gymnax has no environment {name_or_env!r}{near}")
    return gymnax.make(name_or_env)[0]


def _without_64_bits(env: Any) -> Any:
    """The same environment, computing in 32 bits: with 64-bit types some of gymnax's fail, such as Pendulum."""
    env = copy.copy(env)
    for name in ("step", "reset", "step_env", "reset_env"):
        # A class without ``step_env`` of its own may set it to None (``types.Environment``).
        if (method := getattr(env, name)) is not None:
            object.__setattr__(env, name, without_64_bits(method))
    return env


def _space(space: Any, what: str) -> Space:
    from gymnax.environments import spaces

    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        return Box(space.low, space.high, tuple(space.shape))
    raise ValueError(f"{what} must be discrete or a box, not {type(space).__name__}")
