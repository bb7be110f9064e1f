"""Videos of a trained learner on a held-out task."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import io_callback
from PIL import Image, ImageDraw

from metarl_jax.environments.drawing import Drawable, Frame
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.runs import train
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.scenes import Draw, scene
from metarl_jax.types import Algorithm, Array, EnvFamily, Key, Params, State, Task

CAPTION = 16
"""Rows of the video under what is seen, for words."""
MILLISECONDS = 100
"""Of each frame."""
LAST_MILLISECONDS = 10 * MILLISECONDS
"""Of the last one of an episode."""
_RECORD_TAG = 0x5245434F
"""As ``train.VALIDATION_TAG``: no ``split`` of a training key gives this one."""


def _without_key_type(x: Any) -> Any:
    """The data of a typed random key; anything else as it is. Callbacks to the host cannot take typed keys."""
    typed = isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if typed else x


class _Watched:
    """An environment, every step of which is also told to the host."""

    def __init__(self, family: EnvFamily, episodes: int, frames: list[Frame]) -> None:
        self._env = family.env
        self._episodes = episodes
        self._frames = frames

    def _drawn_state(self, state: State) -> Any:
        """What frames hold of a state: what the environment's ``draw`` needs of it."""
        if not isinstance(self._env, Drawable):
            return ()
        part = getattr(self._env, "drawn_state", lambda state: state)
        return jax.tree.map(_without_key_type, part(state))

    def _keep(self, observation: Any, state: Any, action: Any, total: float, step: int, last: bool) -> None:
        ended = sum(frame.last for frame in self._frames)
        state = jax.tree.map(np.asarray, state)
        self._frames.append(Frame(np.asarray(observation), state, action, ended, step, total, last))

    def _began(self, observation: Any, state: Any) -> None:
        if self._frames and self._frames[-1].step == 0:
            # The step that ended an episode has begun another, and now the learner begins one itself.
            del self._frames[-1]
        self._keep(observation, state, None, 0.0, 0, False)

    def _stepped(
        self, action: Any, final_observation: Any, reward: Any, done: Any, observation: Any, state: Any
    ) -> None:
        before = self._frames[-1]
        if before.episode == self._episodes:
            return
        # Where an episode ends, the state is already that of the next one.
        now = before.state if done else state
        total = before.total + float(reward)
        self._keep(final_observation, now, np.asarray(action), total, before.step + 1, bool(done))
        if done:
            self._began(observation, state)

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        obs, state = self._env.reset(key, params)
        io_callback(self._began, None, obs, self._drawn_state(state), ordered=True)
        return obs, state

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        seen = action, info["final_observation"], reward, terminated | truncated, obs, self._drawn_state(state)
        io_callback(self._stepped, None, *seen, ordered=True)
        return obs, state, reward, terminated, truncated, info

    def action_space(self, params: Task) -> Any:
        return self._env.action_space(params)

    def observation_space(self, params: Task) -> Any:
        return self._env.observation_space(params)


def watched(family: EnvFamily, episodes: int) -> tuple[EnvFamily, list[Frame]]:
    """A family, and a list that one trial of it fills: the frames of as many episodes, each from its start to its end.

    Args:
        family: the family.
        episodes: of the trial.
    """
    frames: list[Frame] = []
    return family._replace(env=_Watched(family, episodes, frames)), frames


def play(algorithm: Algorithm, frames: list[Frame], key: Key, state: State, task: Task) -> list[Frame]:
    """Let one learner meet one task.

    Args:
        algorithm: on a family that is ``watched``.
        frames: what it fills.
        key: random key.
        state: the learner.
        task: the task.

    Returns:
        The trial's frames.
    """
    jax.block_until_ready(jax.jit(algorithm.adapt)(key, state, task))
    jax.effects_barrier()
    # Where the last episode has ended there is the start of one that is no part of the trial.
    return frames[:-1]


def play_stages(problem: InnerProblem, frames: list[Frame], key: Key, learners: Params, task: Task) -> list[Frame]:
    """Let a policy play an episode as it was before adapting, and one after each step of it.

    Args:
        problem: on a family that is ``watched``.
        frames: what it fills.
        key: random key.
        learners: the policy's parameters ``[K + 1, ...]``.
        task: the task.

    Returns:
        The frames of ``K + 1`` episodes.
    """
    assert problem.policy is not None
    stages = jax.tree.leaves(learners)[0].shape[0]
    keys = jax.random.split(key, stages)
    one = jax.jit(problem.policy.play)
    for stage in range(stages):
        one(keys[stage], jax.tree.map(lambda x, stage=stage: x[stage], learners), task)
        jax.effects_barrier()
    return frames[:-1]


def gif(frames: list[Frame], draw: Draw, named: Callable[[int], str] = lambda number: f"episode {number + 1}") -> bytes:
    """The video, with a caption under every frame, which names its episode."""
    pictures = []
    for at, frame in enumerate(frames):
        seen = draw(frames[: at + 1])
        picture = Image.new("RGB", (seen.width, seen.height + CAPTION))
        picture.paste(seen)
        words = f"{named(frame.episode)}, step {frame.step}, reward {frame.total:.2f}"
        ImageDraw.Draw(picture).text((4, seen.height + 2), words, fill="white")
        pictures.append(picture)
    buffer = io.BytesIO()
    # An episode that is over at its first step, a bandit's, is no time to look back.
    looked = [(frame.last and frame.step > 1) or frame is frames[-1] for frame in frames]
    durations = [LAST_MILLISECONDS if look else MILLISECONDS for look in looked]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


class Video(NamedTuple):
    """A trial, drawn."""

    iteration: int
    """Of the checkpoint."""
    content: bytes
    """A GIF."""


def environment(config: RunConfig) -> EnvFamily | None:
    """What the learner of a run acts in; None if it does not act."""
    family = config.resolve().make_family(config.settings)
    return family if isinstance(family, EnvFamily) else None


def render(folder: RunFolder, seed: int) -> Video:
    """The newest checkpoint's first seed on a held-out task: a trial, or an episode after each gradient step.

    Args:
        folder: the run.
        seed: of the task and of the learner's randomness.

    Raises:
        UserError: if the run's learner does not act, or no checkpoint can be used.
    """
    config = folder.config
    family, built = environment(config), train.build(config)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), _RECORD_TAG), seed)
    key_task, key_play = jax.random.split(key)
    if family is None:
        raise UserError(f"{folder.path} is a run of {config.experiment}, whose learner does not act")
    task = built.tasks.sample_heldout(key_task)
    draw = scene(family, task)
    descends = built.inner_problem is not None
    shown, frames = watched(family, built.stages + descends)
    problem = config.resolve().build(config.settings, family=shown)
    checkpoint = train.load_states(folder, built)
    state = jax.tree.map(lambda x: x[0], checkpoint.state.algorithm)
    if problem.inner_problem is None:
        return Video(checkpoint.iteration, gif(play(problem.algorithm, frames, key_play, state, task), draw))
    learners = jax.jit(built.algorithm.adapt)(key_play, state, task).learner
    played = play_stages(problem.inner_problem, frames, key_play, learners, task)
    return Video(checkpoint.iteration, gif(played, draw, lambda number: f"gradient step {number}"))


def save(folder: RunFolder, video: Video, seed: int) -> Path:
    """Write ``trial-iterationI-seedS.gif``.

    Raises:
        StorageError: if it cannot be written.
    """
    path = folder.path / f"trial-iteration{video.iteration}-seed{seed}.gif"
    with storing(f"write {path}"):
        write_atomically(path, video.content)
    return path
