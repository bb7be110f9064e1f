"""Tasks of classic control: the constants that they change, the range of the factors, and the derived constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import classic_control
from metarl_jax.types import EnvFamily

TASKS = 4000
LINKS = ("mass_1", "mass_2", "length_1", "length_2")
# For each family: gymnax's name, the constants with a factor of their own, and the constant with a random sign.
FAMILIES: dict[str, tuple[Callable[..., EnvFamily], str, tuple[str, ...], str | None]] = {
    "cartpole": (
        classic_control.cartpole,
        "CartPole-v1",
        ("gravity", "masscart", "masspole", "length", "force_mag"),
        "force_mag",
    ),
    "pendulum": (classic_control.pendulum, "Pendulum-v1", ("g", "m", "l"), None),
    "acrobot": (
        classic_control.acrobot,
        "Acrobot-v1",
        (*(f"link_{link}" for link in LINKS), "available_torque"),
        "available_torque",
    ),
    "mountain_car": (classic_control.mountain_car, "MountainCar-v0", ("force", "gravity"), "force"),
    "mountain_car_continuous": (
        classic_control.mountain_car_continuous,
        "MountainCarContinuous-v0",
        ("power", "gravity"),
        "power",
    ),
}


def drawn(name: str, sampler: str, heldout: str = "in_range") -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return the defaults, the tasks, and the factors ``[TASKS]`` of each constant."""
    import gymnax

    make, environment, constants, _ = FAMILIES[name]
    defaults = gymnax.make(environment)[1]
    sample = getattr(make(heldout).tasks, sampler)
    tasks = jax.vmap(sample)(jax.random.split(jax.random.key(0), TASKS))
    # The torques are three numbers, and the first is not zero.
    factors = {
        constant: np.asarray(getattr(tasks, constant)).reshape(TASKS, -1)[:, 0]
        / np.asarray(getattr(defaults, constant)).reshape(-1)[0]
        for constant in constants
    }
    return defaults, tasks, factors


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("sampler", "heldout", "low", "high"),
    [
        ("sample", "out_of_range", 1.0, 2.0),
        ("sample_heldout", "in_range", 1.0, 2.0),
        ("sample_heldout", "out_of_range", 2.0, 3.0),
    ],
)
def test_factors_are_log_uniform_independent_and_in_their_range(
    name: str, sampler: str, heldout: str, low: float, high: float
) -> None:
    direction = FAMILIES[name][3]
    _, _, factors = drawn(name, sampler, heldout)
    logs = []
    for constant, factor in factors.items():
        if constant == direction:
            assert np.mean(factor < 0) == pytest.approx(0.5, abs=4 * 0.5 / TASKS**0.5)
        else:
            assert np.all(factor > 0)
        log = np.log(np.abs(factor))
        size = np.abs(log)
        assert size.min() >= np.log(low) - 1e-5
        assert size.max() <= np.log(high) + 1e-5
        spread = np.log(high) - np.log(low)
        assert size.mean() == pytest.approx((np.log(high) + np.log(low)) / 2, abs=4 * spread / (12 * TASKS) ** 0.5)
        assert np.mean(log > 0) == pytest.approx(0.5, abs=4 * 0.5 / TASKS**0.5)
        logs.append(log)
    off_diagonal = np.corrcoef(logs)[~np.eye(len(logs), dtype=bool)]
    assert np.all(np.abs(off_diagonal) < 5 / TASKS**0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_other_constants_are_the_usual_ones_or_follow(name: str) -> None:
    defaults, tasks, factors = drawn(name, "sample")
    follow = {
        "cartpole": {
            "total_mass": lambda t: t.masscart + t.masspole,
            "polemass_length": lambda t: t.masspole * t.length,
        },
        "acrobot": {
            f"link_com_pos_{i}": lambda t, i=i: (
                getattr(defaults, f"link_com_pos_{i}")
                * getattr(t, f"link_length_{i}")
                / getattr(defaults, f"link_length_{i}")
            )
            for i in (1, 2)
        },
    }.get(name, {})
    for field in vars(defaults):
        value = np.asarray(getattr(tasks, field))
        if field in follow:
            np.testing.assert_allclose(value, follow[field](tasks), rtol=1e-5)
        elif field not in (*factors, "goal_position", "max_steps_in_episode"):
            np.testing.assert_allclose(value, np.broadcast_to(getattr(defaults, field), value.shape), rtol=1e-6)


@pytest.mark.parametrize("name", ["mountain_car", "mountain_car_continuous"])
def test_goals_lie_right_of_the_floor_and_never_behind_the_wall(name: str) -> None:
    defaults, tasks, _ = drawn(name, "sample")
    floor = -np.pi / 6
    way = (np.asarray(tasks.goal_position) - floor) / (defaults.goal_position - floor)
    limit = (defaults.max_position - 0.01 - floor) / (defaults.goal_position - floor)
    assert way.min() == pytest.approx(0.5, abs=0.01)
    assert way.max() == pytest.approx(limit, rel=1e-5)
    # The share of log-uniform factors that would place the goal behind the wall.
    cut = (np.log(2) - np.log(limit)) / np.log(4)
    assert np.mean(way >= limit - 1e-5) == pytest.approx(cut, abs=4 * 0.5 / TASKS**0.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_kind_of_heldout_tasks_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="heldout must be one of in_range, out_of_range, not 'far'"):
        FAMILIES[name][0]("far")


def test_the_direction_turns_the_push() -> None:
    family = classic_control.cartpole()
    task = family.tasks.sample(jax.random.key(0))
    _, state = family.env.reset(jax.random.key(1), task)
    speeds = []
    for sign in (1.0, -1.0):
        turned = task.replace(force_mag=sign * jnp.abs(task.force_mag))
        _, after, *_ = family.env.step(jax.random.key(2), state, jnp.int32(1), turned)
        speeds.append(float(after.x_dot))
    assert speeds[0] > 0 > speeds[1]
