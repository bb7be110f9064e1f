"""Driving: the model against NumPy and closed forms, collisions, and drivers without meta-learning."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import bandits, driving
from metarl_jax.environments.drawing import Frame
from metarl_jax.environments.driving import Motorway, Traffic, TrafficState
from metarl_jax.oracles import driving as oracles
from metarl_jax.rollout import trial
from metarl_jax.types import Inputs, Oracle, Transition

FAMILY = driving.motorway()
assert isinstance(FAMILY.env, Motorway)
ENV: Motorway = FAMILY.env
STEP = jax.jit(ENV.step_env)
KEY = jax.random.key(0)


def traffic(**changes: Any) -> Traffic:
    numbers: dict[str, Any] = {
        "speed": 18.0, "headway": 1.5, "politeness": 0.2, "braking": 4.0, "grip": 0.8, "length": 500.0
    }  # fmt: skip
    numbers = {name: jnp.float32(changes.pop(name, x)) for name, x in numbers.items()}
    lanes, blocked = jnp.int32(changes.pop("lanes", 3)), jnp.bool_(changes.pop("blocked", False))
    assert not changes
    return Traffic(**numbers, lanes=lanes, blocked=blocked, max_steps_in_episode=40)


def state(cars: list[tuple[float, float, int, float]], task: Traffic, time: int = 0) -> TrafficState:
    """Make a state from tuples (position in metres, speed, lane, desired speed); the first one is the ego car."""
    place, speed, lane, desired = zip(*cars, strict=True)
    return TrafficState(
        jnp.array(place, jnp.float32) / task.length,
        jnp.array(speed, jnp.float32),
        jnp.array(lane, jnp.int32),
        jnp.array(desired, jnp.float32),
        jnp.float32(0),
        jnp.int32(time),
    )


def far_away(number: int = 9) -> list[tuple[float, float, int, float]]:
    """Return cars that do not matter to an ego car in lane 0, up to lane 2."""
    return [(250.0 + 20 * i, 10.0, 2, 10.0) for i in range(number)]


# ------------------------------------------------------------------------------------- an implementation in NumPy


def numpy_idm(task: Traffic, speed: float, desired: float, gap: float, ahead: float) -> float:
    """Compute the acceleration of IDM by the equations of Treiber et al. (2000), in float64."""
    a, b = min(1.5, 4.0 * float(task.grip)), min(2.0, 4.0 * float(task.grip))
    wanted = 2.0 + max(0.0, speed * float(task.headway) + speed * (speed - ahead) / (2 * np.sqrt(a * b)))
    return a * (1 - (speed / max(desired, 0.1)) ** 4 - (wanted / max(gap, 0.5)) ** 2)


def numpy_step(before: TrafficState, action: int, task: Traffic) -> tuple[Any, Any, Any, float, bool]:
    """Return places, speeds, lanes, reward and whether there is a collision, computed car by car in float64."""
    numbers: Any = [np.asarray(x, np.float64) for x in (before.place, before.speed, before.desired)]
    place, speed, desired = numbers
    lane: Any = np.array(before.lane)
    length, cars = float(task.length), len(place)

    def distance(i: Any, j: Any) -> float:
        return float(place[j] - place[i]) % 1.0 * length

    def ahead(i: int, on: int) -> int | None:
        return min((j for j in range(cars) if j != i and lane[j] == on), key=lambda j: distance(i, j), default=None)

    def behind(i: int, on: int) -> int | None:
        return min((j for j in range(cars) if j != i and lane[j] == on), key=lambda j: distance(j, i), default=None)

    def acceleration(i: int, j: int | None) -> float:
        """Return the acceleration of car i behind car j."""
        gap, front = (1000.0, speed[i]) if j is None else (distance(i, j) - 5.0, speed[j])
        return numpy_idm(task, speed[i], desired[i], gap, front)

    target = lane[0] + {4: 1, 5: -1}.get(action, 0)
    changed = 0 <= target < int(task.lanes) and target != lane[0]
    lane[0] = target if changed else lane[0]
    hardest = min(float(task.braking), 8.0 * float(task.grip))

    i = 1 + int(before.time) % (cars - 1)
    best, side = 0.2, 0
    for way in (1, -1):
        on = lane[i] + way
        if not 0 <= on < int(task.lanes):
            continue
        new, follower, old, left = ahead(i, on), behind(i, on), ahead(i, lane[i]), behind(i, lane[i])
        if new is not None and (distance(i, new) <= 5.0 or distance(follower, i) <= 5.0):
            continue
        gain = acceleration(i, new) - acceleration(i, old)
        for car, sign, other in ((follower, 1, new), (left, -1, old)):
            # A car that is alone in its lane would follow itself.
            if car is not None:
                gap = length - 5.0 if other == car else distance(car, other) - 5.0
                without = numpy_idm(task, speed[car], desired[car], gap, speed[other])
                gain += sign * float(task.politeness) * (acceleration(car, i) - without)
        safe = follower is None or acceleration(follower, i) >= -min(3.0, hardest)
        if safe and gain > best:
            best, side = gain, way
    if desired[i] > 0.1:
        lane[i] += side

    leader = [ahead(i, lane[i]) for i in range(cars)]
    gap = [1000.0 if j is None else distance(i, j) - 5.0 for i, j in enumerate(leader)]
    of_ego = [i for i in range(cars) if i == 0 or leader[i] == 0]
    hit, way = any(gap[i] < 0 for i in of_ego), np.zeros(cars)
    for _ in range(2):
        after = np.zeros(cars)
        for i, j in enumerate(leader):
            front = speed[i] if j is None else speed[j]
            a = max(numpy_idm(task, speed[i], desired[i], gap[i], front), -hardest)
            if i == 0:
                a = [0.0, min(2.0, 4 * float(task.grip)), -min(2.0, 8 * float(task.grip)), -8 * float(task.grip), 0, 0]
                a = a[action]
            after[i] = min(max(speed[i] + 0.5 * a, 0), desired[i])
            if i not in of_ego and j is not None:
                after[i] = min(after[i], max(2 * gap[i] + (speed[j] - speed[i]) / 2, 0))
        moved = 0.25 * (speed + after)
        gap = [g if j is None else g + moved[j] - moved[i] for i, (g, j) in enumerate(zip(gap, leader, strict=True))]
        way, speed = way + moved, after
        hit = hit or any(gap[i] < 0 for i in of_ego)
    cost = 0.002 * (speed[0] - float(before.speed[0])) ** 2 + 0.02 * changed + 10.0 * hit
    return (place + way / length) % 1.0, speed, lane, way[0] / 100 - cost, hit


def random_trial(seed: Any, steps: int = 12) -> tuple[Traffic, Any]:
    """Play one episode at random; return the task, and states, actions, states after, rewards and collisions."""
    keys = jax.random.split(jax.random.key(seed), 3)
    task = FAMILY.tasks.sample(keys[0])
    # Dense traffic has more interactions.
    task = dataclasses.replace(task, length=0.4 * task.length)

    def step(state: TrafficState, key: Any) -> tuple[TrafficState, Any]:
        action = jax.random.randint(key, (), 0, 6, jnp.int32)
        _, after, reward, hit, _ = ENV.step_env(key, state, action, task)
        return after, (state, action, after, reward, hit)

    return task, jax.lax.scan(step, ENV.reset_env(keys[1], task)[1], jax.random.split(keys[2], steps))[1]


def test_a_step_is_that_of_an_independent_implementation() -> None:
    tasks, played = jax.jit(jax.vmap(random_trial))(jnp.arange(40))
    tasks, played = jax.tree.map(np.asarray, (tasks, played))
    changes, hits = 0, 0
    for i in range(40):
        task = jax.tree.map(lambda x, i=i: x[i], tasks)
        for t in range(12):
            before, action, after, reward, hit = jax.tree.map(lambda x, i=i, t=t: x[i, t], played)
            place, speed, lane, expected, collides = numpy_step(before, int(action), task)
            np.testing.assert_array_equal(after.lane, lane)
            np.testing.assert_allclose(np.cos(2 * np.pi * after.place), np.cos(2 * np.pi * place), atol=1e-5)
            np.testing.assert_allclose(after.speed, speed, atol=2e-3)
            assert hit == collides
            assert reward == pytest.approx(expected, abs=1e-3)
            changes, hits = changes + int(np.any(after.lane[1:] != before.lane[1:])), hits + int(hit)
    assert changes > 30
    assert hits > 5


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("speed", "headway", "grip"), [(10.0, 1.5, 0.8), (17.0, 1.0, 0.1), (0.0, 2.0, 1.0)])
def test_idm_does_not_accelerate_at_the_equilibrium_gap(speed: float, headway: float, grip: float) -> None:
    who = driving.driver(jnp.float32(headway), jnp.float32(grip))
    # The equilibrium of Treiber et al. (2000), equation (8).
    gap = (2 + speed * headway) / np.sqrt(1 - (speed / 20) ** 4)
    found = [float(driving.idm(who, *map(jnp.float32, (speed, 20.0, gap + d, speed)))) for d in (-1, 0, 1)]
    assert found[0] < -1e-3
    assert found[1] == pytest.approx(0, abs=1e-5)
    assert found[2] > 1e-3
    free = driving.idm(who, *map(jnp.float32, (speed, 20.0, 1e6, speed)))
    assert float(free) == pytest.approx(min(1.5, 4 * grip) * (1 - (speed / 20) ** 4), rel=1e-4)


def test_a_platoon_settles_at_the_speed_of_the_equilibrium() -> None:
    # Only the lane 0 is open. The ego car is in another one.
    task = traffic(lanes=1, length=200.0)
    cars = [(0.0, 0.0, 2, 30.0), *((20.0 * i + 2 * (i % 3), 10.0, 0, 20.0) for i in range(10))]
    start = state(cars, task)
    end = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: (ENV.step_env(KEY, s, jnp.int32(0), task)[1], None), s, None, 400)[0]
    )(start)
    speed = np.asarray(end.speed[1:], np.float64)
    np.testing.assert_allclose(speed, speed[0], atol=0.02)
    assert (2 + 1.5 * speed[0]) / np.sqrt(1 - (speed[0] / 20) ** 4) == pytest.approx(200 / 10 - 5, abs=0.05)


@pytest.mark.parametrize("grip", [0.1, 0.35, 1.0])
def test_the_stopping_distance_is_inverse_to_the_grip(grip: float) -> None:
    task = traffic(grip=grip, length=5000.0)
    now = state([(0.0, 20.0, 0, 30.0), *far_away(10)], task)
    start = float(now.place[0])
    for _ in range(40):
        now = STEP(KEY, now, jnp.int32(driving.BRAKE), task)[1]
    distance = (float(now.place[0]) - start) * 5000
    assert float(now.speed[0]) == 0
    # The last part of a second, in which the car stops, is longer by at most 8 * grip / 8 metres.
    assert distance == pytest.approx(20**2 / (2 * 8 * grip), abs=8 * grip / 8 + 0.01)


# ------------------------------------------------------------------------------------------------ changes of lanes


def decision(cars: list[tuple[float, float, int, float]], **changes: Any) -> int:
    """Return the change of the lane of the first other car; the ego car is far away in lane 2."""
    task = traffic(**changes)
    everyone = [(450.0, 10.0, 2, 30.0), *cars, *((470.0, 10.0, 2, 10.0),) * (10 - len(cars))]
    after = STEP(KEY, state(everyone, task), jnp.int32(0), task)[1]
    return int(after.lane[1]) - cars[0][2]


def test_drivers_overtake_slow_cars_if_the_new_follower_can_brake() -> None:
    slow, fast = (120.0, 8.0, 0, 8.0), (100.0, 15.0, 0, 25.0)
    assert decision([fast, slow]) == 1
    # A car next to the driver, and a faster one that is close behind, forbid the change; one that is far does not.
    assert decision([fast, slow, (102.0, 15.0, 1, 15.0)]) == 0
    assert decision([fast, slow, (85.0, 25.0, 1, 25.0)]) == 0
    assert decision([fast, slow, (20.0, 15.0, 1, 25.0)]) == 1
    # Nobody changes to a lane that is closed, or without an advantage.
    assert decision([fast, slow], lanes=1) == 0
    assert decision([fast, (220.0, 25.0, 0, 25.0)]) == 0


def test_polite_drivers_let_others_pass() -> None:
    # The driver ahead of a fast car gains little on the left lane, and loses nothing.
    me, pusher, front = (100.0, 14.0, 0, 15.0), (85.0, 15.0, 0, 28.0), (180.0, 14.0, 0, 14.0)
    assert decision([me, pusher, front], politeness=0.0) == 0
    assert decision([me, pusher, front], politeness=0.5) == 1


def test_a_car_that_has_broken_down_does_not_move_much_or_change_lanes() -> None:
    task = traffic(blocked=True)
    reset = jax.jit(lambda task: ENV.reset_env(jax.random.key(1), task)[1])
    now = reset(task)
    assert float(now.desired[-1]) == pytest.approx(0.1)
    for _ in range(20):
        after = STEP(KEY, now, jnp.int32(driving.BRAKE), task)[1]
        assert int(after.lane[-1]) == int(now.lane[-1])
        assert float(after.speed[-1]) <= 0.1 + 1e-6
        now = after
    assert float(jnp.min(reset(traffic()).desired)) > 7


# ------------------------------------------------------------------------------------------------------ collisions


def outcome(action: int, cars: list[tuple[float, float, int, float]], **changes: Any) -> tuple[float, bool]:
    task = traffic(**changes)
    _, _, reward, hit, _ = STEP(KEY, state([*cars, *far_away(11 - len(cars))], task, 5), jnp.int32(action), task)
    return float(reward), bool(hit)


def test_collisions_end_the_episode_and_cost() -> None:
    ego, standing = (0.0, 20.0, 0, 30.0), (23.0, 0.0, 0, 0.1)
    reward, hit = outcome(driving.KEEP, [ego, standing])
    assert hit
    assert reward == pytest.approx(0.2 - 10, abs=1e-3)
    # The gap of 18 m is enough for the first second of braking, and not for 20 m.
    assert not outcome(driving.BRAKE, [ego, standing])[1]
    # A change of the lane avoids the car, but not one that is next to the ego car.
    reward, hit = outcome(driving.LEFT, [ego, standing])
    assert not hit
    assert reward == pytest.approx(0.2 - 0.02, abs=1e-3)
    for beside in (2.0, -2.0 + 500):
        assert outcome(driving.LEFT, [ego, (beside, 20.0, 1, 20.0)])[1]
    # There is no lane to the right of the rightmost one, so that nothing happens.
    assert outcome(driving.RIGHT, [ego, (2.0, 20.0, 1, 20.0)]) == (pytest.approx(0.2, abs=1e-3), False)


def test_drivers_who_brake_hard_let_the_ego_car_in() -> None:
    ego, follower = (0.0, 10.0, 0, 30.0), (500.0 - 17, 20.0, 1, 20.0)

    def collides(braking: float, grip: float = 1.0) -> bool:
        task = traffic(braking=braking, grip=grip)
        now = state([ego, follower, *far_away()], task, 5)
        hits = []
        for action in (driving.LEFT, *[driving.KEEP] * 6):
            _, now, _, hit, _ = STEP(KEY, now, jnp.int32(action), task)
            hits.append(bool(hit))
        return any(hits)

    # 12 m are enough if the deceleration is at least 10^2 / (2 * 12) = 4.2.
    assert collides(3.5)
    assert not collides(5.5)
    assert collides(5.5, grip=0.3)


def test_other_cars_do_not_pass_through_each_other() -> None:
    tasks, (before, _, after, _, hit) = jax.jit(jax.vmap(lambda seed: random_trial(seed, 40)))(jnp.arange(100, 140))
    valid = np.cumsum(np.asarray(hit), axis=1) == 0
    length = np.asarray(tasks.length)[:, None, None, None]
    apart = np.asarray(after.place[..., 1:, None] - after.place[..., None, 1:])
    apart = np.abs(apart - np.round(apart)) * length
    same = np.asarray(after.lane[..., 1:, None] == after.lane[..., None, 1:]) & ~np.eye(10, dtype=bool)
    assert apart[same & valid[..., None, None]].min() > 4.5
    assert np.all(np.asarray(after.lane) < np.asarray(tasks.lanes)[:, None, None])
    assert np.all(np.asarray(after.speed) <= np.asarray(before.desired) + 1e-6)


# ---------------------------------------------------------------------------------------------------------- tasks


def test_held_out_roads_are_in_the_training_range_or_outside_of_it() -> None:
    keys = jax.random.split(jax.random.key(0), 1000)
    same = jax.vmap(FAMILY.tasks.sample_heldout)(keys)
    assert 0.06 - 1e-6 <= float(same.grip.min()) < 0.08
    assert 0.9 < float(same.grip.max()) <= 1 + 1e-6
    assert {2, 3} == set(np.asarray(same.lanes).tolist())
    assert 0.4 < np.mean(same.blocked) < 0.6
    shifted = driving.motorway(shifted=True)
    assert float(jax.vmap(shifted.tasks.sample)(keys).grip.min()) >= 0.06 - 1e-6
    other = jax.vmap(shifted.tasks.sample_heldout)(keys)
    for name, bound in (("grip", 0.06), ("braking", 1.0), ("headway", 1.0), ("politeness", 0.0)):
        assert np.asarray(getattr(other, name)).max() <= bound + 1e-6


def test_observations_show_the_nearest_cars() -> None:
    task = traffic(lanes=2)
    cars = [
        (0.0, 20.0, 0, 30.0),
        (30.0, 15.0, 0, 15.0),
        (50.0, 1.0, 0, 1.0),
        (480.0, 22.0, 1, 25.0),
        (3.0, 9.0, 1, 9.0),
    ]
    near, speed, change = ENV.seen(ENV._observe(state([*cars, *far_away(6)], task), task))  # pyright: ignore
    assert float(speed) == pytest.approx(20)
    assert float(change) == 0
    np.testing.assert_allclose(near.gap_ahead[:2], [25, -2], atol=1e-3)
    np.testing.assert_allclose(near.ahead[:2], [15, 9], atol=1e-3)
    np.testing.assert_allclose(near.gap_behind, [driving.FAR, 15, driving.FAR], atol=1e-3)
    assert float(near.behind[1]) == pytest.approx(22, abs=1e-3)
    assert near.is_open.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 0),
        ("cars", 0),
        ("lanes", 1),
        ("lowest_grip", 0.0),
        ("highest_grip", 0.05),
        ("lowest_braking", 0.0),
        ("highest_braking", 0.5),
        ("shortest_ring", 80.0),
        ("longest_ring", 300.0),
        ("blocked_share", 1.5),
        ("collision_cost", -1.0),
        ("shifted", 1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        driving.motorway(**{field: value})


def test_the_road_is_drawn() -> None:
    task = traffic()
    obs, start = ENV.reset_env(KEY, task)
    after = STEP(KEY, start, jnp.int32(driving.LEFT), task)[1]
    frames = [
        Frame(np.asarray(obs), jax.tree.map(np.asarray, shown), None, 0, i, 0.0, False)
        for i, shown in enumerate((start, after))
    ]
    pictures = [ENV.draw(frames[: i + 1], task) for i in (0, 1)]
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() != pictures[1].tobytes()


# ----------------------------------------------------------------------------------------------------- references


def test_bounds_of_the_grip_follow_from_accelerations() -> None:
    bounds = oracles.Estimate(jnp.float32(0.1), jnp.float32(1.0), jnp.int32(driving.FASTER))

    def after(action: int, speed: float, change: float) -> tuple[float, float]:
        found = bounds._replace(action=jnp.int32(action)).observe(jnp.float32(speed), jnp.float32(change))
        return float(found.low), float(found.high)

    assert after(driving.FASTER, 12.0, 1.2) == pytest.approx((0.3, 0.3))
    assert after(driving.FASTER, 12.0, 2.0) == pytest.approx((0.5, 1.0))
    assert after(driving.SLOWER, 12.0, -2.0) == pytest.approx((0.25, 1.0))
    assert after(driving.BRAKE, 12.0, -4.0) == pytest.approx((0.5, 0.5))
    # A car that stops, is at its top speed or keeps its speed shows nothing.
    for action, speed, change in ((driving.BRAKE, 0.0, -1.0), (driving.FASTER, 30.0, 0.3), (driving.KEEP, 9.0, 0.0)):
        assert after(action, speed, change) == pytest.approx((0.1, 1.0))


def test_the_rule_brakes_for_cars_overtakes_and_limits_the_speed() -> None:
    def chosen(cars: list[tuple[float, float, int, float]], lanes: int = 3, grip: float = 0.8) -> int:
        task = traffic(lanes=lanes, grip=grip)
        near, speed, _ = ENV.seen(ENV._observe(state([*cars, *far_away(11 - len(cars))], task), task))  # pyright: ignore
        return int(oracles.decide(oracles.rule_of(task), near, speed))

    ego = (0.0, 20.0, 0, 30.0)
    assert chosen([ego], lanes=1) == driving.FASTER
    assert chosen([ego, (30.0, 8.0, 0, 8.0)], lanes=1) == driving.BRAKE
    assert chosen([ego, (30.0, 8.0, 0, 8.0)]) == driving.LEFT
    # On ice the car has to be so slow that it can stop within its sight.
    assert chosen([ego], lanes=1, grip=0.1) in (driving.SLOWER, driving.BRAKE)
    rule = oracles.rule_of(traffic(grip=0.1))
    assert float(oracles.speed_limit(rule)) == pytest.approx(0.4 * 18 + np.sqrt(2 * 0.8 * 60), rel=1e-5)


def test_the_planner_imagines_what_it_sees() -> None:
    task = traffic()
    cars = [(0.0, 20.0, 1, 30.0), (30.0, 15.0, 1, 15.0), (480.0, 22.0, 2, 25.0), (3.0, 9.0, 0, 9.0)]
    others = [(250.0 + 20 * i, 10.0, 2, 10.0) for i in range(7)]
    obs = ENV._observe(state([*cars, *others], task), task)  # pyright: ignore
    near, speed, _ = ENV.seen(obs)
    imagined, around = oracles.imagined(near, speed, task)
    np.testing.assert_allclose(ENV._observe(imagined, around), obs.at[16].set(-0.7), atol=1e-3)  # pyright: ignore


def test_the_planner_swerves_where_the_rule_collides() -> None:
    task = traffic(lanes=2, grip=0.3)
    plan = jax.jit(lambda near, speed: oracles.look_ahead(ENV, near, speed, task))
    # The car ahead stands, and the ego car cannot stop. On the left lane, a car that is as fast follows closely.
    cars = [(0.0, 20.0, 0, 30.0), (40.0, 0.0, 0, 0.1), (486.6, 26.0, 1, 26.0)]
    near, speed, _ = ENV.seen(ENV._observe(state([*cars, *far_away(8)], task), task))  # pyright: ignore
    assert int(oracles.decide(oracles.rule_of(task), near, speed)) == driving.BRAKE
    assert int(plan(near, speed)) == driving.LEFT


def test_other_families_are_refused() -> None:
    for make in (
        oracles.mean,
        oracles.fixed,
        oracles.measured,
        oracles.planned_measured,
        oracles.known,
        oracles.planned,
    ):
        with pytest.raises(ValueError, match=r"environments\.driving, not one of Bandit"):
            make(bandits.bernoulli(3), 2)
    with pytest.raises(ValueError, match="episodes"):
        oracles.known(FAMILY, 0)


@pytest.mark.slow
def test_drivers_are_ordered_by_what_they_know() -> None:
    def score(oracle: Oracle) -> np.ndarray:
        def one(key: Any) -> Any:
            key_task, key_trial = jax.random.split(key)
            return oracle.adapt(key_trial, (), FAMILY.tasks.sample_heldout(key_task)).score.sum()

        return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 1000)))

    makers = oracles.mean, oracles.fixed, oracles.measured, oracles.planned
    mean, fixed, measured, planned = (score(make(FAMILY, 2)) for make in makers)
    # Neighbours in this order differ by less than the error of 1000 trials.
    for better, worse in ((measured, mean), (planned, fixed)):
        gain = better - worse
        assert gain.mean() > 1.64 * gain.std() / np.sqrt(len(gain))


def test_measured_grips_reach_the_truth() -> None:
    def act(key: Any, carry: Any, inputs: Inputs) -> tuple[Any, Any, tuple[()]]:
        del key, inputs
        return carry, jnp.int32(driving.BRAKE), ()

    def shown(task: Traffic) -> Transition:
        return trial(KEY, act, (), FAMILY, task, 1)[1]

    grips = jnp.array([0.12, 0.3, 0.9], jnp.float32)
    steps = jax.jit(jax.vmap(lambda grip: shown(dataclasses.replace(traffic(), grip=grip))))(grips)
    _, speed, change = jax.vmap(ENV.seen)(steps.final_obs[:, 0])
    bounds = oracles.Estimate(jnp.float32(0.1), jnp.float32(1.0), jnp.int32(driving.BRAKE))
    found = jax.vmap(lambda speed, change: bounds.observe(speed, change).grip)(speed, change)
    np.testing.assert_allclose(found, grips, rtol=1e-3)
