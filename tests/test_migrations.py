"""Configurations that version 0.1 stored are converted to the equivalent configurations of this version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metarl_jax import experiments
from metarl_jax.runs.folder import RunConfig, hash_of, read_experiment

STORED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "settings-0.1.0.json").read_text(encoding="utf-8")
)
"""Settings of presets as version 0.1 wrote them, with every algorithm and every network."""


# The settings that presets have changed since then, with their values of then.
_POINTS: dict[str, Any] = {
    "exploration_episodes": 1,
    "deterministic": True,
    "discount": 0.99,
    "meta_batch": 4,
    "batch_size": 256,
}
CHANGED: dict[str, dict[str, Any]] = {
    "pearl-point-robot-sparse": {"training_tasks": 100, "consistency_weight": None, "exploration_episodes": 1},
    "pearl-navigation": _POINTS,
    "pearl-half-circle": _POINTS,
    "pearl-cartpole": {"exploration_episodes": 1, "deterministic": True},
}


def stored(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "experiment": name,
        "settings": STORED[name] | changes,
        "seed": 0,
        "seeds": 1,
        "evaluate_every": 5,
        "schema": 1,
    }


def read(content: dict[str, Any]) -> RunConfig:
    content = dict(content)
    return RunConfig(**read_experiment(content), **content)


@pytest.mark.parametrize("name", STORED)
def test_presets_of_version_0_1_are_those_of_this_version(name: str) -> None:
    config = read(stored(name))
    now = experiments.get(name).with_overrides({}) | CHANGED.get(name, {})
    # Robots moved in other units then.
    if "action_scale" in now:
        now["action_scale"] = 1.0
    assert config.settings == now
    resolved = config.resolve()
    assert (resolved.algorithm, resolved.network) == (experiments.get(name).algorithm, experiments.get(name).network)
    # Checkpoints hold the hash of the configuration that version 0.1 stored.
    assert config.hash() == hash_of(stored(name))
    written = json.loads(json.dumps(config.stored()))
    again = read(written)
    assert (again.settings, again.names) == (config.settings, config.names)


@pytest.mark.parametrize(
    ("name", "changes", "algorithm", "network", "settings"),
    [
        ("maml-navigation", {"outer_update": "adam"}, "maml", "mlp", {"learning_rate": 1e-3}),
        ("maml-navigation", {"exploration_credit": 0.5}, "e_maml", "mlp", {"exploration_credit": 0.5}),
        ("e-maml-navigation", {"exploration_credit": 0.0}, "maml_trpo", "mlp", {"damping": 1e-5}),
        ("multi-task-navigation", {"outer_update": "adam"}, "multi_task", "mlp", {"epochs": 1}),
        ("maml-glyphs-5x1", {"architecture": "mlp", "batch_size": 3}, "maml", "normalised-mlp", {"batch_size": 3}),
        ("maml-sinusoid", {"max_inner_norm": 0.0}, "maml", "mlp", {"max_inner_norm": None}),
        (
            "reptile-sinusoid",
            {"batch_size": 4},
            "reptile",
            "mlp",
            {"batch_size": 4, "heldout_batch_size": 4},
        ),
        (
            "rl2-bandit-10x5",
            {"embedding_size": 0, "readout_size": 7},
            "rl2",
            "recurrent",
            {"embedding_size": None, "readout_size": 7},
        ),
        ("rl2-linear-bandit-100x5", {"size": 32}, "rl2", "linear", {"model_size": 32}),
        ("varibad-cartpole", {"bound_steps": 0}, "varibad", "belief", {"bound_steps": None}),
        ("promp-navigation", {"clip": 0.0}, "promp", "mlp", {"clip": None}),
    ],
)
def test_changed_settings_of_version_0_1_keep_their_meaning(
    name: str, changes: dict[str, Any], algorithm: str, network: str, settings: dict[str, Any]
) -> None:
    config = read(stored(name, **changes))
    resolved = config.resolve()
    assert (resolved.algorithm, resolved.network) == (algorithm, network)
    assert {setting: config.settings[setting] for setting in settings} == settings
    assert set(config.settings) == set(resolved.fields())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("maml-navigation", {"outer_update": "adam", "exploration_credit": 0.5}, "no maml with exploration_credit 0.5"),
        ("anil-sinusoid", {"outer_update": "trust_region"}, "no anil with outer_update 'trust_region'"),
    ],
)
def test_settings_without_a_counterpart_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(stored(name, **changes))


def test_a_setting_that_no_version_had_is_named_when_it_is_built() -> None:
    config = read(stored("rl2-bandit-10x5", hiden_size=3))
    with pytest.raises(ValueError, match=r"has no setting 'hiden_size' \(did you mean hidden_size"):
        config.resolve().build(config.settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "it has schema 3, this program has 2"),
        ({"network": {"name": "recurrent"}}, "network is not a JSON object with settings"),
        ({"network": {"name": 3, "settings": {}}}, "the name of network is of another type than str"),
        ({"family": {"name": "bandit", "settings": {"arms": 5, "trials": 3}}}, "trials is set twice"),
        ({"experiment": "rl2-bandit-10x6"}, "there is no experiment"),
    ],
)
def test_a_configuration_that_is_wrong_is_refused(change: dict[str, Any], message: str) -> None:
    settings = experiments.get("rl2-bandit-10x5").with_overrides({})
    config = RunConfig(experiment="rl2-bandit-10x5", settings=settings, seed=0, seeds=1, evaluate_every=1)
    with pytest.raises((ValueError, TypeError), match=message):
        read(config.stored() | change).resolve()
