"""Task families from any gymnax environment and a sampler of its parameters.

    from metarl_jax.environments import from_gymnax

    def sample(key):  # poles of 0.25 to 1 metres
        import gymnax

        length = jax.random.uniform(key, minval=0.25, maxval=1.0)
        params = gymnax.make("CartPole-v1")[1]
        return params.replace(length=length, polemass_length=params.masspole * length)

    family = from_gymnax.make("CartPole-v1", sample, horizon=200)

gymnax takes seconds to import, so only ``make`` imports it. gymnax's CartPole gets a method ``draw``
(``drawing.Drawable``); environments that have a method ``draw`` keep it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from metarl_jax.checks import did_you_mean, positive_int
from metarl_jax.environments.drawing import SIZE, Drawable, Frame, blank
from metarl_jax.precision import without_64_bits
from metarl_jax.types import Box, Discrete, EnvFamily, Key, Space, Task, TaskDistribution

if TYPE_CHECKING:
    from PIL.Image import Image


def make(
    name_or_env: Any,
    sample: Callable[[Key], Task],
    sample_heldout: Callable[[Key], Task] | None = None,
    *,
    sample_validation: Callable[[Key], Task] | None = None,
    horizon: int | None = None,
) -> EnvFamily:
    """Make a family whose tasks are parameters of a gymnax environment.

    Some parameters of gymnax's environments are derived from others (CartPole's ``total_mass`` and
    ``polemass_length``). A sampler that changes one of them must also change those that are derived from it.
    Environments that draw a task of their own at each reset (gymnax's meta-environments) continue to do so. The
    environment computes in 32 bits, even if JAX's 64-bit types are enabled, because some of gymnax's environments fail
    with 64 bits.

    Args:
        name_or_env: A name that ``gymnax.make`` knows, or an environment.
        sample: A function that draws the environment's ``EnvParams`` of one training task from a key.
        sample_heldout: The same for held-out tasks; ``sample`` if None.
        sample_validation: The same for validation tasks (``TaskDistribution``); ``sample`` if None.
        horizon: The largest number of steps of an episode; the limit of the default parameters if None. Every task gets
            this limit, even if the sampler sets another.

    Returns:
        The family. The bounds of its spaces are those under the default parameters.

    Raises:
        ValueError: if the name is unknown (the message suggests similar names), the horizon is not a positive whole
            number, or a space is not discrete and not a box.
        TypeError: if a sampler does not return parameters of this environment.
    """
    env = _drawable(_without_64_bits(_environment(name_or_env)))
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
    """Return a copy of the environment that computes in 32 bits; some environments fail in 64, such as Pendulum."""
    env = copy.copy(env)
    for name in ("step", "reset", "step_env", "reset_env"):
        # An environment may set ``step_env`` to None (``types.Environment``).
        if (method := getattr(env, name)) is not None:
            object.__setattr__(env, name, without_64_bits(method))
    return env


def draw_cartpole(frames: Sequence[Frame], task: Task) -> Image:
    """Draw CartPole from the side (``drawing.Drawable``): cart and pole on a rail, and an arrow for the action.

    The arrow points to the left for action 0 and to the right for action 1, even if the force of the task is negative.
    """
    furthest = float(task.x_threshold)
    scale = SIZE / (2.2 * furthest)
    rail = 0.7 * SIZE
    picture, canvas = blank()
    position, _, angle, _ = map(float, frames[-1].observation)
    x = SIZE / 2 + position * scale
    canvas.line((0, rail, SIZE, rail), fill="silver", width=2)
    for end in (-furthest, furthest):
        canvas.line((SIZE / 2 + end * scale, rail - 16, SIZE / 2 + end * scale, rail + 16), fill="silver", width=4)
    length = SIZE / 3
    canvas.line((x, rail - 16, x + length * math.sin(angle), rail - 16 - length * math.cos(angle)), "royalblue", 10)
    canvas.rectangle((x - 40, rail - 32, x + 40, rail), fill="navy")
    if frames[-1].action is not None:
        way = 1 if int(frames[-1].action) else -1
        canvas.line((x, rail + 32, x + 60 * way, rail + 32), fill="green", width=6)
        canvas.ellipse((x + 60 * way - 8, rail + 24, x + 60 * way + 8, rail + 40), fill="green")
    return picture


def _drawable(env: Any) -> Any:
    """Return the given environment; gymnax's CartPole is changed and gets a ``draw`` and a ``caption``."""
    if env.name == "CartPole-v1" and not isinstance(env, Drawable):
        object.__setattr__(env, "draw", draw_cartpole)
        caption = "From the side. Green: the action (left or right); some tasks invert the force."
        object.__setattr__(env, "caption", caption)
    return env


def _space(space: Any, what: str) -> Space:
    from gymnax.environments import spaces

    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        return Box(space.low, space.high, tuple(space.shape))
    raise ValueError(f"{what} must be discrete or a box, not {type(space).__name__}")
