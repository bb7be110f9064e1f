"""Treatment of sepsis: the data of ICU-Sepsis, transitions of populations, plans, and reference learners."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import icu_sepsis
from metarl_jax.oracles import icu_sepsis as oracles
from metarl_jax.rollout import trial
from metarl_jax.types import Inputs

STATES, HORIZON = 9, 4


def small_model(seed: int = 0) -> icu_sepsis.Model:
    """Make an MDP of six treated states, with a few admissible actions each."""
    random = np.random.default_rng(seed)
    admissible = np.zeros((STATES, 25), np.bool_)
    for state in range(STATES):
        admissible[state, random.choice(25, 1 + state % 4, replace=False)] = True
    rows = random.dirichlet(np.full(STATES - 1, 0.5), (STATES, 25))
    rows = np.concatenate([rows, np.zeros((STATES, 25, 1))], axis=-1)
    rows[:, :, :-1] *= random.uniform(size=(STATES, 25, STATES - 1)) < 0.7
    rows[:, :, 6] += 0.1
    rows /= rows.sum(axis=-1, keepdims=True)
    rows[STATES - 3 :] = np.eye(STATES)[-1]
    for state in range(STATES):
        rows[state, ~admissible[state]] = rows[state, admissible[state]].mean(axis=0)
    start = np.append(random.dirichlet(np.ones(6)), np.zeros(3))
    clinicians = random.dirichlet(np.ones(25), STATES)
    return icu_sepsis.Model(
        rows, start, clinicians, admissible, random.normal(size=(STATES, 47)), random.uniform(0, 18, STATES)
    )


def transitions(model: icu_sepsis.Model, response: np.ndarray) -> np.ndarray:
    """Compute the transition probabilities ``[S, A, S]`` of a population by the formula of the module's docstring."""
    treated = STATES - 3
    step = np.einsum("sa,sat->st", model.clinicians, model.transition)[:treated]
    survival = np.zeros(STATES)
    survival[-2] = 1
    for _ in range(3000):
        survival[:treated] = step @ survival
    mean, deviation = survival[:treated].mean(), survival[:treated].std()
    prognosis = np.clip((survival - mean) / deviation, -3, 3)
    prognosis[-1] = 0
    levels = np.array([(a // 5, a % 5) for a in range(25)]) / 4
    found = np.array(model.transition)
    for state in range(treated):
        actions = np.flatnonzero(model.admissible[state])
        for action in actions:
            effect = response @ (levels[action] - levels[actions].mean(axis=0))
            weight = model.transition[state, action] * np.exp(effect * prognosis)
            found[state, action] = weight / weight.sum()
        found[state, ~model.admissible[state]] = found[state, actions].mean(axis=0)
    return found


def values(model: icu_sepsis.Model, transition: np.ndarray, policy: np.ndarray | None = None) -> np.ndarray:
    """Compute the values of first states ``[S]`` of the best policy, or of a stationary one, by backward induction."""
    value = values_of_leaving(model)
    last = value.copy()
    for _ in range(HORIZON):
        action_value = transition @ value
        value = action_value.max(axis=-1) if policy is None else np.sum(policy * action_value, axis=-1)
        value[STATES - 3 :] = last[STATES - 3 :]
    return value


def values_of_leaving(model: icu_sepsis.Model) -> np.ndarray:
    step = np.einsum("sa,sat->st", model.clinicians, model.transition)
    value = np.zeros(STATES)
    for _ in range(3000):
        value = step @ value
        value[-3:] = [0, 1, 0]
    return value


RESPONSES = np.array([[0, 0], [1.5, -1.0], [-2.0, 2.0], [2.0, 0.5]], np.float32)


def test_populations_have_the_transitions_and_values_of_the_formula() -> None:
    model = small_model()
    env = icu_sepsis.with_advice(model, HORIZON, 2.0)
    tilted = jax.jit(jax.vmap(env.tilted))(jnp.asarray(RESPONSES))
    plans = jax.jit(jax.vmap(env.plan))(tilted)
    policy = np.full((STATES, 25), 1 / 25)
    evaluate = jax.jit(jax.vmap(env.value, (0, None)))
    found = evaluate(tilted, jnp.full((HORIZON, STATES, 25), 1 / 25))
    for i, response in enumerate(RESPONSES):
        expected = transitions(model, response.astype(np.float64))
        dense = np.zeros((len(env.state), STATES))
        np.add.at(dense, (np.arange(len(env.state))[:, None], np.asarray(env.successor)), np.asarray(tilted[i]))
        state, action = np.nonzero(model.admissible)
        np.testing.assert_allclose(dense[state < 6], expected[state, action][state < 6], atol=1e-5)
        np.testing.assert_allclose(plans.value[i, 0], values(model, expected), atol=1e-5)
        np.testing.assert_allclose(found[i], model.start @ values(model, expected, policy), atol=1e-5)


def test_large_responses_have_finite_probabilities() -> None:
    env = icu_sepsis.with_advice(small_model(), HORIZON, 2.0)
    tilted = np.asarray(jax.jit(jax.vmap(env.tilted))(jnp.array([[300.0, -300.0], [-300.0, 300.0]])))
    assert np.all(np.isfinite(tilted))
    np.testing.assert_allclose(tilted.sum(axis=-1), 1, atol=1e-5)
    assert np.all(tilted[:, np.asarray(env.probability) == 0] == 0)


def test_the_mean_model_is_the_mean_of_training_populations() -> None:
    model = small_model()
    env = icu_sepsis.with_advice(model, HORIZON, 2.0)
    drawn = jax.random.uniform(jax.random.key(0), (icu_sepsis.MEAN_OF, 2), jnp.float32, -2.0, 2.0)
    mean = np.mean([transitions(model, np.asarray(response, np.float64)) for response in drawn], axis=0)
    assert env.mean_plan is not None
    np.testing.assert_allclose(env.mean_plan.value[0], values(model, mean), atol=1e-4)


@pytest.mark.parametrize("response", [RESPONSES[1], RESPONSES[2]])
def test_steps_follow_the_transitions_also_after_inadmissible_actions(response: np.ndarray) -> None:
    model = small_model()
    env = icu_sepsis.with_advice(model, HORIZON, 2.0)
    task = icu_sepsis.Population(jnp.asarray(response), HORIZON)
    expected = transitions(model, response.astype(np.float64))
    leaving = values_of_leaving(model)
    keys = jax.random.split(jax.random.key(0), 20_000)
    step = jax.jit(
        lambda position, time, action: jax.vmap(
            lambda key: env.step_env(key, icu_sepsis.PatientState(position, time), action, task)
        )(keys)
    )
    for position in (2, 3):
        for action in (int(np.flatnonzero(model.admissible[position])[0]), int(np.argmin(model.admissible[position]))):
            _, after, reward, over, _ = step(jnp.int32(position), jnp.int32(0), jnp.int32(action))
            shares = np.bincount(np.asarray(after.position), minlength=STATES) / len(keys)
            np.testing.assert_allclose(shares, expected[position, action], atol=4 * 0.5 / np.sqrt(len(keys)))
            np.testing.assert_array_equal(over, np.asarray(after.position) >= STATES - 3)
            np.testing.assert_array_equal(reward, np.asarray(after.position) == STATES - 2)
            _, after, reward, over, _ = step(jnp.int32(position), jnp.int32(HORIZON - 1), jnp.int32(action))
            assert bool(jnp.all(over))
            np.testing.assert_allclose(reward, leaving[np.asarray(after.position)], atol=1e-5)


def test_observations_have_a_place_and_advice() -> None:
    env = icu_sepsis.with_advice(small_model(), HORIZON, 2.0)
    assert env.mean_plan is not None
    states = [icu_sepsis.PatientState(jnp.int32(s), jnp.int32(t)) for s in range(6) for t in range(HORIZON)]
    observations = jnp.stack([env._observe(state) for state in states])
    step, position = env.place(observations)
    np.testing.assert_array_equal(step, [state.time for state in states])
    np.testing.assert_array_equal(position, [state.position for state in states])
    np.testing.assert_array_equal(jnp.argmax(observations[:, -25:], axis=-1), env.mean_plan.action[step, position])
    assert bool(jnp.all((observations[:, -25:] <= 0) & (observations[:, -25:] >= -1)))


def test_training_rewards_are_the_return_minus_the_value_of_the_first_state() -> None:
    env = icu_sepsis.with_advice(small_model(), HORIZON, 2.0)
    family = icu_sepsis._family(env, 2.0, False)
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    assert env.mean_plan is not None
    task = family.tasks.sample(jax.random.key(0))

    def act(key: jax.Array, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], jax.Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, 25, jnp.int32), ()

    steps = trial(jax.random.key(1), act, (), family, task, 6)[1]
    changed = np.asarray(family.privileged.training_reward(task, steps, 1.0))
    firsts = np.asarray(env.mean_plan.value)[0][np.asarray(env.place(steps.inputs.obs)[1])]
    for episode in range(6):
        here = np.asarray(steps.valid) & (np.asarray(steps.episode) == episode)
        expected = np.asarray(steps.reward)[here].sum() - firsts[here][0]
        np.testing.assert_allclose(changed[here].sum(), expected, atol=1e-5)


@pytest.mark.slow
def test_published_values_and_the_gain_of_knowing_the_population() -> None:
    model = icu_sepsis._installed()
    assert model.transition.shape == (716, 25, 716)
    env = icu_sepsis.Sepsis(model, 150)
    plan = jax.jit(env.plan)(env.probability)
    value = jax.jit(env.value)
    random = jnp.full((150, 716, 25), 1 / 25)
    # The README of the package gives 0.78 for the random and the expert policy, and 0.88 for the optimal policy.
    assert float(env.first_value(plan.value[0])) == pytest.approx(0.88, abs=0.006)
    assert float(value(env.probability, random)) == pytest.approx(0.78, abs=0.005)
    clinicians = jnp.broadcast_to(env.clinicians, random.shape)
    assert float(value(env.probability, clinicians)) == pytest.approx(0.78, abs=0.005)

    family = icu_sepsis.make()
    tasks = jax.vmap(family.tasks.sample_heldout)(jax.random.split(jax.random.key(0), 20))

    def one_by_one(value: Any) -> np.ndarray:
        return np.asarray(jax.jit(lambda tasks: jax.lax.map(value, tasks))(tasks))

    def score(oracle: Any) -> float:
        return float(np.mean(one_by_one(lambda task: oracle.adapt(None, (), task).score)))

    scores = [score(make(family, 2)) for make in (oracles.random, oracles.mean_model, oracles.population_known)]
    assert scores[2] > scores[1] + 0.02 > scores[0]
    # Some forms of the formula are compiled to wrong results for batches of tasks of this size.
    best = family.optimal_return
    assert best is not None
    np.testing.assert_allclose(jax.jit(jax.vmap(best))(tasks), one_by_one(best), atol=1e-4)


def test_shifted_populations_respond_more_than_those_of_training() -> None:
    env = icu_sepsis.with_advice(small_model(), HORIZON, 2.0)
    for shifted in (False, True):
        tasks = icu_sepsis._family(env, 2.0, shifted).tasks
        keys = jax.random.split(jax.random.key(0), 500)
        inside, tested = (np.abs(jax.vmap(draw)(keys).response) for draw in (tasks.sample, tasks.sample_heldout))
        assert inside.max() <= 2
        assert (tested.min() >= 2 and 2.9 < tested.max() <= 3) if shifted else tested.max() <= 2


def write(folder: Path, model: icu_sepsis.Model, **changed: Any) -> Path:
    arrays = {
        "tx_mat": model.transition,
        "d_0": model.start,
        "expert_policy": model.clinicians,
        "state_cluster_centers": model.measurements,
        "sofa_scores": model.sofa,
        **changed,
    }
    np.savez(folder / "dynamics.npz", **{name: x for name, x in arrays.items() if x is not None})
    rows = [np.flatnonzero(row) for row in model.admissible]
    lines = [" ".join(map(str, map(len, rows))), *(" ".join(map(str, row)) for row in rows)]
    (folder / "admissible_actions.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = small_model()
    for one, other in zip(icu_sepsis.read_model(write(tmp_path, model)), model, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"d_0": None}, "has no array d_0"),
        ({"d_0": np.full(STATES, np.nan)}, "d_0 has a number that is not finite"),
        ({"d_0": np.zeros(STATES)}, "d_0 must have probabilities whose sum is 1"),
        ({"tx_mat": np.zeros((STATES, 24, STATES))}, r"tx_mat must have the shape \(9, 25, 9\)"),
        ({"d_0": np.zeros(0)}, "tx_mat must have the shape"),
        ({"sofa_scores": np.array([{}] * STATES)}, "is not a readable NumPy archive of numbers"),
    ],
)
def test_arrays_that_are_no_mdp_are_explained(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        icu_sepsis.read_model(write(tmp_path, small_model(), **changed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a line with the number of actions of 9 states"),
        (b"1 1\n0\n0\n", "must have a line with the number of actions of 9 states"),
        (b"1 1 1 1 1 1 1 1 1\n" + b"25\n" * 9, r"the actions of state 0 must be from 0 to 24, not \[25\]"),
        (b"one two\n", "is not a text of whole numbers"),
        (b"\xff\xfe1\n", "is not a text of whole numbers"),
    ],
)
def test_lists_of_actions_that_cannot_be_used_are_explained(tmp_path: Path, content: bytes, message: str) -> None:
    (write(tmp_path, small_model()) / "admissible_actions.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        icu_sepsis.read_model(tmp_path)


def test_missing_and_damaged_files_and_a_missing_package_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*dynamics.npz"):
        icu_sepsis.read_model(tmp_path)
    write(tmp_path, small_model())
    for content in (b"", b"PK\x03\x04 and no more"):
        (tmp_path / "dynamics.npz").write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable NumPy archive of numbers"):
            icu_sepsis.read_model(tmp_path)
    (tmp_path / "dynamics.npz").write_bytes(b"")

    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    monkeypatch.setattr(icu_sepsis, "_installed", icu_sepsis._installed.__wrapped__)
    monkeypatch.setattr(icu_sepsis, "_environment", icu_sepsis._environment.__wrapped__)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[icu-sepsis\]'"):
        icu_sepsis.make()


def test_bad_settings_are_refused() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"horizon": 0}, "horizon must be a positive whole number"),
        ({"response": -1.0}, "response must be a finite number above 0"),
        ({"shifted": 1}, "shifted must be True or False"),
    )
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            icu_sepsis.make(**settings)
