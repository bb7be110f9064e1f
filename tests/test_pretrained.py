"""The trained learners of the package: their files, their cards, and their scores on other held-out tasks."""

from __future__ import annotations

import json
import math
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
import pytest
from acting import Tasks, play

import metarl_jax as mrl
from metarl_jax import cli, experiments, options
from metarl_jax.experiments.base import Experiment
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.runs import agent_files
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.pretrained_learners import FOLDER, NAMES, AgentName, FewShotName

MOST_BYTES = 500_000
TASKS = 400
SEED = 20240229
"""Not the seed of the tasks on the cards."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a trained learner of the package needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def stored(origin: Any) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment and the settings in a file."""
    parts = [origin[part]["settings"] for part in ("algorithm", "problem", "network", "family") if part in origin]
    return experiments.get(origin["experiment"]), {name: value for part in parts for name, value in part.items()}


def source(learner: mrl.Agent | mrl.FewShotLearner) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment and all settings of a learner."""
    experiment, settings = stored(learner.origin)
    return experiment, agent_files.with_newer_settings(experiment, settings)


def agrees(card: mrl.Card, scores: np.ndarray) -> None:
    """Check that the scores of other tasks have the mean on the card, by a two-sided test at a level of 1 %."""
    found = mean_with_interval(scores)
    # The intervals on the cards are over thousands of tasks, for which Student's distribution is the normal one.
    error = math.hypot(found.standard_error, (card.ci95[1] - card.ci95[0]) / (2 * 1.96))
    assert abs(found.mean - card.score) < 2.576 * error, (found, card.score)


def test_every_learner_has_a_small_file_and_a_card() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {
        f"{name}.{end}" for name in NAMES for end in ("safetensors", "json")
    }
    cards = mrl.pretrained_cards()
    assert tuple(cards) == NAMES
    for name, card in cards.items():
        path = FOLDER / f"{name}.safetensors"
        assert card.name == name
        assert card.bytes == path.stat().st_size <= MOST_BYTES
        assert card.ci95[0] < card.score < card.ci95[1]
        assert card.heldout_tasks >= 1000 and card.steps > 0 and card.training_seconds > 0
        assert card.references or card.published or card.optimum is not None
        assert not card.commit.endswith("+")
        assert card.command in str(card) and card.description in str(card)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_on_a_card_has_the_settings_of_the_file(name: str) -> None:
    program, command, *words = shlex.split(mrl.pretrained_cards()[name].command)
    assert (program, command) == ("metarl-jax", "train")
    experiment, rest = cli._experiment("train", *cli._names(words))
    asked, overrides = options.parse(options.NewRun, rest, program="train", description="", experiment=experiment)
    header = (FOLDER / f"{name}.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    origin = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["metarl_jax"])
    found, settings = stored(origin)
    assert found.name == experiment.name
    # Settings that are newer than the file are not in it.
    wanted = experiment.with_overrides(overrides)
    assert settings == {name: wanted[name] for name in settings}
    assert (origin["seed"], origin["iteration"]) == (asked.seed or 0, settings["iterations"])


@pytest.mark.parametrize("name", get_args(AgentName))
def test_agents_score_what_their_cards_say(name: AgentName) -> None:
    agent = mrl.pretrained(name)
    assert isinstance(agent, mrl.Agent)
    experiment, settings = source(agent)
    episodes = settings[experiment.measure.setting or "episodes"]
    tasks = Tasks(experiment.make_family(settings), jax.random.key(SEED), TASKS)
    returns = play(agent, tasks, episodes, seed=SEED)
    card = mrl.pretrained_cards()[name]
    agrees(card, experiment.measure.headline(returns))
    # One task, without a leading axis.
    agent.reset(seed=1)
    observation = tasks.reset()[0]
    action = agent.act(observation)
    again = agent.act(observation, 0.5, False)
    assert np.shape(action) == np.shape(again) == getattr(agent.interface.action_space, "shape", ())
    # A policy that acts at random does not have the score of the card.
    with pytest.raises(AssertionError):
        agrees(card, experiment.measure.headline(np.zeros_like(returns)))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("maml-sinusoid", TASKS),
        # 1000 predictions of classes; a network for images needs ten seconds for them.
        pytest.param("maml-glyphs-5x1", TASKS // 2, marks=pytest.mark.slow),
    ],
)
def test_few_shot_learners_score_what_their_cards_say(name: FewShotName, number: int) -> None:
    learner = mrl.pretrained(name)
    assert isinstance(learner, mrl.FewShotLearner)
    experiment, settings = source(learner)
    heldout = experiment.make_family(settings).heldout

    @jax.jit
    @jax.vmap
    def draw(key: Any) -> Any:
        key_task, key_draw = jax.random.split(key)
        return heldout.draw(key_draw, heldout.tasks.sample_heldout(key_task))

    def score(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return np.asarray(jax.vmap(heldout.score)(prediction, target))

    task = draw(jax.random.split(jax.random.key(SEED), number))
    (x, y), (query, target) = jax.tree.map(np.asarray, (task.support, task.query))
    learner.adapt(x, y)
    prediction = learner.predict(query)
    card = mrl.pretrained_cards()[name]
    agrees(card, score(prediction, target))
    # On the queries of other tasks than those that it adapted to, a learner does not have the score of the card.
    others = np.roll(query, 1, axis=0), np.roll(target, 1, axis=0)
    with pytest.raises(AssertionError):
        agrees(card, score(learner.predict(others[0]), others[1]))
    # One task, without a leading axis, is the first one of the batch.
    learner.adapt(x[0], y[0])
    np.testing.assert_allclose(learner.predict(query[0]), prediction[0], rtol=1e-3, atol=1e-3)


def test_all_learners_are_measured() -> None:
    assert set(get_args(FewShotName)) == {"maml-sinusoid", "maml-glyphs-5x1"}
    assert {*get_args(AgentName), *get_args(FewShotName)} == set(NAMES)


def test_unknown_names_are_one_clear_error() -> None:
    with pytest.raises(
        UserError, match=r"no trained learner 'maml-sinusiod' \(did you mean .*\?\); there are rl2-bandit"
    ):
        mrl.pretrained("maml-sinusiod")
    with pytest.raises(UserError, match="there is no trained learner 3; there are"):
        mrl.pretrained(3)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_cards_need_no_jax() -> None:
    code = "import sys, metarl_jax as mrl; mrl.pretrained; print(len(mrl.pretrained_cards()), 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(NAMES)), "False"]


def test_list_shows_the_learners(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    section = capsys.readouterr().out.partition("Trained learners in this package")[2]
    assert all(name in section for name in NAMES)
    assert cli.main(["list", "glyphs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["pretrained"]
    assert [one["name"] for one in found] == ["maml-glyphs-5x1"]


def test_the_page_of_results_shows_the_cards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import pretrained  # pyright: ignore[reportMissingImports]
    import results_file  # pyright: ignore[reportMissingImports]

    page = (root / "benchmarks" / "README.md").read_text()
    assert results_file.with_block(page, pretrained.PROGRAM, pretrained.shown()) == page, "run pretrained.py --readme"
    # The program makes the learners on the cards.
    for name, card in mrl.pretrained_cards().items():
        recipe = pretrained.RECIPES[name]
        assert card.command == shlex.join(pretrained.command(name))
        assert card.heldout_tasks == recipe.tasks
