"""Videos: they show the trial that the learner plays, and are of runs whose learners see images."""

from __future__ import annotations

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from metarl_jax import cli, experiments
from metarl_jax.algorithms import rl2
from metarl_jax.environments import maze
from metarl_jax.networks import recurrent
from metarl_jax.runs import record, train
from metarl_jax.runs.folder import RunConfig
from metarl_jax.types import Algorithm, EnvFamily

EPISODES = 2


def algorithm(family: EnvFamily) -> Algorithm:
    policy = recurrent.make(family.observation_space, family.action_space, hidden_size=4, embedding_size=4)
    return rl2.make(family, policy, rl2.Config(episodes=EPISODES, trials=4, minibatches=1))


def test_a_video_is_of_the_trial_that_is_played() -> None:
    family = maze.small(9)
    key_task, key_init, key = jax.random.split(jax.random.key(5), 3)
    task = jax.jit(family.tasks.sample_heldout)(key_task)
    # One step ahead stands the target, so that episodes can end before their limit.
    task = maze.task(task.walls, task.start, task.heading, task.start + np.array([0.0, 0.6], np.float32), 9)
    watched, frames = record.watched(family, EPISODES)
    state = algorithm(family).init(key_init)
    score = jax.jit(algorithm(family).adapt)(key, state, task).score
    shown = record.play(algorithm(watched), frames, key, state, task)
    for episode in range(EPISODES):
        own = [frame for frame in shown if frame.episode == episode]
        np.testing.assert_array_equal(own[0].image, task.first_view)
        assert [frame.step for frame in own] == list(range(len(own)))
        assert [frame.last for frame in own] == [False] * (len(own) - 1) + [True]
        np.testing.assert_allclose(own[-1].total, score[episode], rtol=1e-5)
    assert shown[-1].episode == EPISODES - 1
    with Image.open(io.BytesIO(record.gif(shown))) as video:
        assert video.size == (record.SCALE * maze.WIDTH, record.SCALE * maze.HEIGHT + record.CAPTION)
        assert getattr(video, "n_frames") == len(shown)  # noqa: B009
        first = np.asarray(video.convert("RGB"))[: -record.CAPTION : record.SCALE, :: record.SCALE]
    # A GIF has 256 colours.
    assert np.mean(np.abs(first.astype(int) - np.asarray(task.first_view))) < 4


def new_run(path: Path, name: str, **settings: int) -> None:
    every = experiments.get(name).with_overrides(settings)
    train.new_run(path, RunConfig(experiment=name, settings=every, seed=0, seeds=1, evaluate_every=1))


def test_the_command_writes_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(maze.small, "__defaults__", (6,))
    new_run(tmp_path / "run", "rl2-maze-small", hidden_size=4, embedding_size=4, trials=8)
    assert cli.main(["record", str(tmp_path / "run"), "--seed", "3"]) == 0
    path = tmp_path / "run" / "trial-iteration0-seed3.gif"
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as video:
        assert 2 < getattr(video, "n_frames") <= 2 * 7  # noqa: B009


def test_learners_that_see_no_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_run(tmp_path / "run", "rl2-bandit-10x5", hidden_size=4)
    assert cli.main(["record", str(tmp_path / "run")]) == 2
    assert "whose learner sees no images" in capsys.readouterr().err
