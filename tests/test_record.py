"""Videos: they show the trial that the learner plays, as it sees it or from above."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from metarl_jax import cli, experiments
from metarl_jax.algorithms import rl2
from metarl_jax.environments import gridnavi, locomotion, maze
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
        np.testing.assert_array_equal(own[0].observation, task.first_view)
        assert [frame.step for frame in own] == list(range(len(own)))
        assert [frame.last for frame in own] == [False] * (len(own) - 1) + [True]
        np.testing.assert_allclose(own[-1].total, score[episode], rtol=1e-5)
    assert shown[-1].episode == EPISODES - 1
    draw = record.scene(family, task)
    assert draw is not None
    with Image.open(io.BytesIO(record.gif(shown, draw))) as video:
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


def test_a_point_is_drawn_from_above_episode_after_episode(tmp_path: Path) -> None:
    """Of a learner that begins its episodes itself. The goal is green and the point, at first in the middle, navy."""
    sizes = {"training_tasks": 2, "tasks": 1, "replay_episodes": 45, "units": 4, "encoder_units": 4}
    new_run(tmp_path / "run", "pearl-point-robot-sparse", **sizes, adaptation_episodes=3)
    assert cli.main(["record", str(tmp_path / "run")]) == 0
    with Image.open(tmp_path / "run" / "trial-iteration0-seed0.gif") as video:
        # Pictures that do not change are one, so there may be fewer; the first one of three episodes is the same.
        assert 3 < getattr(video, "n_frames") <= 3 * 21  # noqa: B009
        picture = np.asarray(video.convert("RGB")).astype(int)[: -record.CAPTION]
    assert picture.shape == (record.SIZE, record.SIZE, 3)
    middle = picture[record.SIZE // 2, record.SIZE // 2]
    assert middle[2] > 100
    assert middle[:2].max() < 30
    green = np.argwhere((np.abs(picture - (0, 128, 0)) < 30).all(axis=-1)).mean(axis=0)
    away = np.linalg.norm(green - record.SIZE / 2)
    # The goals' circle has radius one, the picture's half side is a quarter more.
    assert away == pytest.approx(record.SIZE / 2 / 1.25, abs=3)


def test_a_room_is_drawn_from_above() -> None:
    family = gridnavi.make(4, 5)
    policy = recurrent.make(family.observation_space, family.action_space, hidden_size=4, embedding_size=4)
    watched, frames = record.watched(family, EPISODES)
    learner = rl2.make(watched, policy, rl2.Config(episodes=EPISODES, trials=4, minibatches=1))
    task = family.tasks.sample(jax.random.key(0)).replace(goals=np.array([[3, 0]]))
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    assert [frame.step for frame in shown] == [*range(6), *range(6)]
    draw = record.scene(family, task)
    assert draw is not None
    side = record.SIZE // 4
    for at in range(6):
        picture = np.asarray(draw(shown[: at + 1]))
        x, y = divmod(int(shown[at].observation), 4)
        row, column = (3 - y) * side + side // 2, x * side + side // 2
        np.testing.assert_array_equal(picture[row, column], (0, 0, 128))
        if (x, y) != (3, 0):
            np.testing.assert_array_equal(picture[3 * side + side // 2, 3 * side + side // 2], (0, 128, 0))


def test_a_robot_is_drawn_from_the_side_and_followed() -> None:
    family = locomotion.half_cheetah_direction(horizon=4, engine="c")
    watched, frames = record.watched(family, EPISODES)
    learner = algorithm(watched)
    task = family.tasks.sample(jax.random.key(0))
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    assert [frame.step for frame in shown] == [*range(5), *range(5)]
    for before, frame in itertools.pairwise(shown):
        # What ends an episode begins another: its last pose is not to be had.
        np.testing.assert_array_equal(frame.pose[1:], (before if frame.last else frame).observation[:8])
    draw = record.scene(family, task)
    assert draw is not None
    for moved in (0.0, 0.5):
        there = shown[0]._replace(pose=shown[0].pose + np.eye(9)[0] * moved)
        picture = np.asarray(draw([there]))
        torso = np.argwhere((picture == (0, 0, 128)).all(axis=-1))
        assert torso[:, 1].mean() == pytest.approx(record.SIZE / 2, abs=0.1 * record.SIZE)
        assert tuple(picture[0, 0]) == (255, 255, 255)
        # Above the ground, of which there is some.
        assert tuple(picture[-1, 1]) in {(245, 245, 245), (192, 192, 192)}


@pytest.mark.parametrize(
    ("name", "words"),
    [("rl2-bandit-10x5", "there are pictures of images seen, points, rooms and robots only"),
     ("maml-navigation", "whose learner plays no trials"), ("snail-sinusoid", "whose learner plays no trials")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    new_run(tmp_path / "run", name)
    assert cli.main(["record", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
