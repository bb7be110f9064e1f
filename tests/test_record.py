"""Videos: they show the trial that the learner plays, as its observation or from above."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

from metarl_jax import cli, experiments, problems
from metarl_jax.algorithms import rl2
from metarl_jax.environments import (
    bandits,
    classic_control,
    drawing,
    gridnavi,
    locomotion,
    maze,
    point_robot,
    tabular_mdp,
)
from metarl_jax.networks import mlp, recurrent
from metarl_jax.runs import record, scenes, train
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig
from metarl_jax.types import Algorithm, Array, Box, Discrete, EnvFamily, Key, TaskDistribution

EPISODES = 2


def algorithm(family: EnvFamily) -> Algorithm:
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=4))
    return rl2.make(family, policy, rl2.Config(episodes=EPISODES, trials=4, minibatches=1))


def test_a_video_is_of_the_trial_that_is_played() -> None:
    family = maze.small(9)
    key_task, key_init, key = jax.random.split(jax.random.key(5), 3)
    task = jax.jit(family.tasks.sample_heldout)(key_task)
    # The target is one step ahead, so that episodes can end before the time limit.
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
    draw = scenes.scene(family, task)
    with Image.open(io.BytesIO(record.gif(shown, draw))) as video:
        scale = drawing.SIZE // maze.WIDTH
        assert video.size == (480, scale * maze.HEIGHT + record.CAPTION)
        assert getattr(video, "n_frames") == len(shown)  # noqa: B009
        first = np.asarray(video.convert("RGB"))[: -record.CAPTION : scale, ::scale]
    # A GIF has 256 colours.
    assert np.mean(np.abs(first.astype(int) - np.asarray(task.first_view))) < 4


def new_run(path: Path, name: str, **settings: int) -> None:
    every = experiments.get(name).with_overrides(settings)
    train.new_run(path, RunConfig(experiment=name, settings=every, seed=0, seeds=1, evaluate_every=1))


def test_the_command_writes_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_run(tmp_path / "run", "rl2-maze-small", horizon=6, hidden_size=4, embedding_size=4, trials=8)
    assert cli.main(["record", str(tmp_path / "run"), "--seed", "3"]) == 0
    path = tmp_path / "run" / "trial-iteration0-seed3.gif"
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as video:
        assert 2 < getattr(video, "n_frames") <= 2 * 7  # noqa: B009


def test_a_point_is_drawn_from_above_episode_after_episode(tmp_path: Path) -> None:
    """The learner resets episodes itself. The goal is green, and the point, which starts in the middle, is navy."""
    sizes = {"training_tasks": 2, "tasks": 1, "replay_episodes": 45, "units": 4, "encoder_units": 4}
    new_run(tmp_path / "run", "pearl-point-robot-sparse", **sizes, adaptation_episodes=3)
    assert cli.main(["record", str(tmp_path / "run")]) == 0
    with Image.open(tmp_path / "run" / "trial-iteration0-seed0.gif") as video:
        # Equal consecutive pictures are merged, so there may be fewer. The three episodes have equal first pictures.
        assert 3 < getattr(video, "n_frames") <= 3 * 21  # noqa: B009
        picture = np.asarray(video.convert("RGB")).astype(int)[: -record.CAPTION]
    assert picture.shape == (drawing.SIZE, drawing.SIZE, 3)
    middle = picture[drawing.SIZE // 2, drawing.SIZE // 2]
    assert middle[2] > 100
    assert middle[:2].max() < 30
    green = np.argwhere((np.abs(picture - (0, 128, 0)) < 30).all(axis=-1)).mean(axis=0)
    away = np.linalg.norm(green - drawing.SIZE / 2)
    # The circle of goals has radius 1, and half the side of the picture is 1.25.
    assert away == pytest.approx(drawing.SIZE / 2 / 1.25, abs=3)


def test_a_room_is_drawn_from_above() -> None:
    family = gridnavi.make(4, 5)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=4))
    watched, frames = record.watched(family, EPISODES)
    learner = rl2.make(watched, policy, rl2.Config(episodes=EPISODES, trials=4, minibatches=1))
    task = family.tasks.sample(jax.random.key(0)).replace(goals=np.array([[3, 0]]))
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    assert [frame.step for frame in shown] == [*range(6), *range(6)]
    draw = scenes.scene(family, task)
    side = drawing.SIZE // 4
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
        # The step that ends an episode also starts another one, so the last pose is not known.
        np.testing.assert_array_equal(frame.state[1:], (before if frame.last else frame).observation[:8])
    draw = scenes.scene(family, task)
    for moved in (0.0, 0.5):
        there = shown[0]._replace(state=shown[0].state + np.eye(9)[0] * moved)
        picture = np.asarray(draw([there]))
        torso = np.argwhere((picture == (0, 0, 128)).all(axis=-1))
        assert torso[:, 1].mean() == pytest.approx(drawing.SIZE / 2, abs=0.1 * drawing.SIZE)
        assert tuple(picture[0, 0]) == (255, 255, 255)
        # The torso is above the ground, which is visible.
        assert tuple(picture[-1, 1]) in {(245, 245, 245), (192, 192, 192)}


def test_arms_are_drawn_as_columns_of_payouts_and_pulls() -> None:
    family = bandits.bernoulli(2)
    watched, frames = record.watched(family, 8)
    policy = recurrent.make(family, recurrent.Settings(hidden_size=4, embedding_size=4))
    learner = rl2.make(watched, policy, rl2.Config(episodes=8, trials=4, minibatches=1))
    task = bandits.BanditParams(means=jnp.array([0.25, 0.75]))
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    pulled = [int(frame.action) for frame in shown if frame.action is not None]
    assert len(pulled) == 8
    assert set(pulled) == {0, 1}
    picture = np.asarray(scenes.scene(family, task)(shown))

    def columns(colour: tuple[int, int, int]) -> list[int]:
        found = (picture == colour).all(axis=-1)
        return [int(found[:, arm * drawing.SIZE // 2 + drawing.SIZE // 4].sum()) for arm in range(2)]

    paid, share = columns((152, 251, 152)), columns((65, 105, 225))
    assert paid[1] / paid[0] == pytest.approx(3, rel=0.05)
    counts = [pulled.count(arm) for arm in range(2)]
    assert share[1] / share[0] == pytest.approx(counts[1] / counts[0], rel=0.15)
    # The arm of the last pull has a frame, and the other arm has none.
    framed = [
        bool((picture[drawing.SIZE // 2, arm * drawing.SIZE // 2 :][:4] == (0, 0, 128)).all(-1).any()) for arm in (0, 1)
    ]
    assert framed == [pulled[-1] == 0, pulled[-1] == 1]


def test_a_pole_leans_as_its_angle_says() -> None:
    family = classic_control.cartpole()
    task = family.tasks.sample(jax.random.key(0))
    draw = scenes.scene(family, task)
    tops = []
    for angle in (-0.2, 0.0, 0.2):
        seen = np.array([1.2, 0.0, angle, 0.0], np.float32)
        picture = np.asarray(draw([drawing.Frame(seen, (), None, 0, 0, 0.0, False)]))
        cart = np.argwhere((picture == (0, 0, 128)).all(axis=-1))
        # The cart is halfway to the position that ends the episode. The picture shows 10 % more than that position.
        assert cart[:, 1].mean() == pytest.approx(drawing.SIZE / 2 * (1 + 0.5 / 1.1), abs=2)
        pole = np.argwhere((picture == (65, 105, 225)).all(axis=-1))
        tops.append(pole[pole[:, 0] == pole[:, 0].min(), 1].mean() - cart[:, 1].mean())
    assert tops[0] == pytest.approx(-drawing.SIZE / 3 * np.sin(0.2), abs=8)
    assert abs(tops[1]) < 6
    assert tops[2] == pytest.approx(drawing.SIZE / 3 * np.sin(0.2), abs=8)


class Hidden(NamedTuple):
    key: Array
    place: Array
    time: Array


class Hides:
    """A user's environment. Its state has a place that is not observed, and a typed random key."""

    def reset(self, key: Key, params: Any) -> tuple[Array, Hidden]:
        del params
        return jnp.zeros(1), Hidden(key, jnp.int32(0), jnp.int32(0))

    def step(self, key: Key, state: Hidden, action: Array, params: Any) -> tuple[Any, ...]:
        went = Hidden(key, state.place + 1 + action, state.time + 1)
        done = went.time >= 3
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), self.reset(key, params)[1], went)
        end = {"final_observation": jnp.zeros(1)}
        return jnp.zeros(1), state, 0.0, jnp.bool_(False), done, end

    def action_space(self, params: Any) -> Discrete:
        return Discrete(2)

    def observation_space(self, params: Any) -> Box:
        return Box(0.0, 1.0, (1,))


class SelfDrawn(Hides):
    """The same environment, whose pictures show the place."""

    caption = "Where it is."

    def draw(self, frames: Sequence[drawing.Frame], task: Any) -> Image.Image:
        assert frames[-1].state.key.dtype == np.uint32
        colour = (int(frames[-1].state.place), int(task * 100), len(frames))
        return Image.new("RGB", (40, 30), colour)


class SelfDrawnByPlace(SelfDrawn):
    """The same environment, which stores only the place for its pictures."""

    def drawn_state(self, state: Hidden) -> Array:
        return state.place

    def draw(self, frames: Sequence[drawing.Frame], task: Any) -> Image.Image:
        return Image.new("RGB", (40, 30), (int(frames[-1].state), int(task * 100), len(frames)))


@pytest.mark.parametrize("env", [SelfDrawn(), SelfDrawnByPlace()])
def test_an_environment_of_a_user_draws_itself(env: SelfDrawn) -> None:
    tasks = TaskDistribution(*2 * (lambda key: jnp.float32(0.5),))
    family = EnvFamily(env, tasks, 3, Box(0.0, 1.0, (1,)), Discrete(2))
    watched, frames = record.watched(family, EPISODES)
    learner, task = algorithm(watched), jnp.float32(0.5)
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    assert [frame.step for frame in shown] == [*range(4), *range(4)]
    draw, places = scenes.scene(family, task), []
    for at in range(len(shown)):
        place, of_task, number = np.asarray(draw(shown[: at + 1]))[0, 0]
        assert (of_task, number) == (50, at + 1)
        places.append(int(place))
    expected = []
    for episode in range(EPISODES):
        moved = [1 + int(frame.action) for frame in shown if frame.episode == episode and frame.action is not None]
        # The state at the end of an episode is that of the previous step.
        expected += [0, moved[0], sum(moved[:2]), sum(moved[:2])]
    assert places == expected
    assert scenes.described(family) == "Where it is."
    with Image.open(io.BytesIO(record.gif(shown, draw))) as video:
        # Each pixel of the small picture becomes a square of 12 pixels.
        assert video.size == (480, 360 + record.CAPTION)


@pytest.mark.parametrize("kind", ["draw", "nothing"])
def test_a_family_may_bring_a_function_that_draws(kind: str) -> None:
    """It comes before the environment's own ``draw``, and gets whole states as NumPy arrays."""
    env: Any = SelfDrawnByPlace() if kind == "draw" else Hides()
    tasks = TaskDistribution(*2 * (lambda key: jnp.float32(0.5),))
    got: list[Any] = []

    def render(state: Any, task: Any) -> np.ndarray:
        got.append(state)
        assert isinstance(state.place, np.ndarray) and float(task) == 0.5
        return np.full((300, 500, 3), (10 * int(state.place), 7, 7), np.uint8)

    family = EnvFamily(env, tasks, 3, Box(0.0, 1.0, (1,)), Discrete(2), render=render)
    watched, frames = record.watched(family, EPISODES)
    learner, task = algorithm(watched), jnp.float32(0.5)
    shown = record.play(learner, frames, jax.random.key(1), learner.init(jax.random.key(2)), task)
    draw = scenes.scene(family, task)
    picture = np.asarray(draw(shown[:2]))
    assert picture.shape == (300, 500, 3) and picture[0, 0].tolist() == [10 * int(shown[1].state.place), 7, 7]
    assert type(got[0]).__name__ == "Hidden"
    assert scenes.described(family) == "The trial, as its family draws it."
    wrong = family._replace(render=lambda state, task: np.zeros((4, 4)))
    with pytest.raises(
        UserError, match=r"uint8 and of the shape \[H, W, 3\], not one of float64 and of the shape \[4, 4"
    ):
        scenes.scene(wrong, task)(shown)


def test_without_a_picture_there_are_charts_of_observation_action_and_reward() -> None:
    family = tabular_mdp.make(states=4, actions=2)
    task = jax.jit(family.tasks.sample)(jax.random.key(0))
    assert scenes.described(family).startswith("From top to bottom")
    frames = [
        drawing.Frame(np.eye(4)[1], (), None, 0, 0, 0.0, False),
        drawing.Frame(np.eye(4)[3], (), np.array(0), 0, 1, 2.0, True),
        drawing.Frame(np.eye(4)[1], (), None, 1, 0, 0.0, False),
        drawing.Frame(np.eye(4)[2], (), np.array(1), 1, 1, -1.0, False),
    ]
    picture = np.asarray(scenes.scene(family, task)(frames))
    assert picture.shape == (480, 480, 3)
    width, third = drawing.SIZE / scenes.FEWEST, drawing.SIZE // 3

    def moments(colour: tuple[int, int, int], top: float, bottom: float) -> dict[int, float]:
        """Return the mean height of a colour in a part of the picture, for each moment that has the colour."""
        found = np.argwhere((picture[int(top) : int(bottom)] == colour).all(axis=-1))
        found[:, 0] += int(top)
        places = np.floor((found[:, 1] + 0.5) / width).astype(int)
        return {int(at): float(found[places == at, 0].mean()) for at in np.unique(places) if (places == at).sum() > 40}

    # Four components are lines. The fourth one is 1 at the second moment, and 0 at the others.
    purple = moments((128, 0, 128), scenes.TITLE, third)
    assert set(purple) >= {0, 1} and purple[1] < purple[0]
    chosen = moments((65, 105, 225), third + scenes.TITLE, 2 * third)
    assert list(chosen) == [1, 3] and chosen[1] < third + third / 2 + 10 < chosen[3]
    paid = moments((0, 128, 0), 2 * third + scenes.TITLE, 3 * third)
    zero = 3 * third - scenes.MARGIN - (third - scenes.TITLE - scenes.MARGIN) / 3
    assert list(paid) == [1, 3] and zero - paid[1] == pytest.approx(2 * (paid[3] - zero), abs=4)


def test_charts_of_many_numbers_are_rows_of_colours() -> None:
    space, steps = Box(-np.inf, np.inf, (8,)), 30
    family = EnvFamily(Hides(), TaskDistribution(*2 * (lambda key: jnp.float32(0.5),)), steps, space, space)
    signs = np.array([1, -1] * 4, float)
    frames = [
        drawing.Frame(signs * at / steps, (), None if at == 0 else np.full(8, np.nan), 0, at, 0.0, False)
        for at in range(steps)
    ]
    picture = np.asarray(scenes.scene(family, jnp.float32(0.5))(frames)).astype(int)
    height = (drawing.SIZE / 3 - scenes.TITLE - scenes.MARGIN) / 8
    right = picture[[round(scenes.TITLE + height * (row + 0.5)) for row in range(8)], -4]
    warm = right[:, 0] > right[:, 2]
    assert warm.tolist() == [True, False] * 4
    left = picture[round(scenes.TITLE + height / 2), 4]
    assert (left > 250).all()
    # The actions are not finite, and nothing is drawn for them.
    action = picture[int(drawing.SIZE / 3 + scenes.TITLE) : int(2 * drawing.SIZE / 3 - scenes.MARGIN)]
    assert (action == 255).all()


@pytest.mark.slow
def test_a_gradient_learner_plays_an_episode_before_and_after_every_step(tmp_path: Path) -> None:
    sizes = {"tasks": 2, "episodes": 2, "units": 4, "adaptation_steps": 2}
    new_run(tmp_path / "run", "maml-navigation", **sizes)
    assert cli.main(["record", str(tmp_path / "run")]) == 0
    with Image.open(tmp_path / "run" / "trial-iteration0-seed0.gif") as video:
        durations = []
        for frame in ImageSequence.Iterator(video):
            durations.append(int(frame.info["duration"]))
    assert sum(duration >= record.LAST_MILLISECONDS for duration in durations) == 3
    horizon = point_robot.maml().horizon
    assert sum(durations) == 3 * (horizon * record.MILLISECONDS + record.LAST_MILLISECONDS)


def test_stages_are_played_with_their_own_parameters() -> None:
    """The parameters of the policy are its action. Frames hold the action of each stage, and the sum of rewards."""
    long = point_robot.maml()
    shorter = TaskDistribution(*2 * (lambda key: long.tasks.sample(key).replace(max_steps_in_episode=3),))
    family = long._replace(horizon=3, tasks=shorter)
    policy = mlp.policy(family.observation_space, family.action_space, hidden_sizes=(2,), history=False, critic=False)
    watched, frames = record.watched(family, 2)
    problem = problems.policy_gradient(watched, policy, problems.PolicyGradientSettings(episodes=1))
    first, second = (policy.init(jax.random.key(seed)) for seed in range(2))
    learners = jax.tree.map(lambda a, b: np.stack([a, b]), first, second)
    task = family.tasks.sample(jax.random.key(3))
    key = jax.random.key(4)
    shown = record.play_stages(problem, frames, key, learners, task)
    assert [(frame.episode, frame.step) for frame in shown] == [(e, t) for e in range(2) for t in range(4)]
    functions = problems.policy_gradient(family, policy, problems.PolicyGradientSettings(episodes=1)).policy
    assert functions is not None
    for stage, (own, params) in enumerate(zip(jax.random.split(key, 2), (first, second), strict=True)):
        alone = functions.play(own, params, task)
        moved = [frame for frame in shown if frame.episode == stage and frame.action is not None]
        np.testing.assert_allclose(np.stack([np.asarray(frame.action) for frame in moved]), alone.action, rtol=1e-5)
        np.testing.assert_allclose(moved[-1].total, alone.reward.sum(), rtol=1e-5)


def test_a_learner_that_does_not_act_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_run(tmp_path / "run", "snail-sinusoid")
    assert cli.main(["record", str(tmp_path / "run")]) == 2
    assert "whose learner does not act" in capsys.readouterr().err
