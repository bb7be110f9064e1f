"""Videos: what a trained learner sees on a held-out task, where that is images."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import io_callback

from metarl_jax import experiments
from metarl_jax.runs import train
from metarl_jax.runs.errors import StorageError, UserError
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunFolder
from metarl_jax.types import Algorithm, Array, Box, EnvFamily, Key, State, Task

SCALE = 8
"""Pixels of the video along each side of a pixel seen."""
CAPTION = 16
"""Rows of the video under what is seen, for words."""
MILLISECONDS = 100
"""Of each frame; the last of an episode stays for ten."""
_RECORD_TAG = 0x5245434F
"""As ``train._HELDOUT_TAG``: no ``split`` of a training key gives this one."""


class Frame(NamedTuple):
    """One frame of a video."""

    image: np.ndarray
    """``[height, width, channels]`` uint8."""
    episode: int
    step: int
    """Of the episode: 0 at its beginning."""
    total: float
    """The episode's rewards so far."""
    last: bool
    """Whether the episode ends here."""


class _Watched:
    """An environment, every step of which is also told to the host."""

    def __init__(self, family: EnvFamily, episodes: int, frames: list[Frame]) -> None:
        assert isinstance(family.observation_space, Box)
        self._env = family.env
        self._bounds = family.observation_space.low, family.observation_space.high
        self._episodes = episodes
        self._frames = frames

    def _keep(self, observation: Any, total: float, step: int, last: bool) -> None:
        low, high = self._bounds
        image = np.round(255 * (np.asarray(observation, np.float32) - low) / (high - low)).astype(np.uint8)
        ended = sum(frame.last for frame in self._frames)
        self._frames.append(Frame(image, ended, step, total, last))

    def _began(self, observation: Any) -> None:
        self._keep(observation, 0.0, 0, False)

    def _stepped(self, final_observation: Any, reward: Any, done: Any, observation: Any) -> None:
        before = self._frames[-1]
        if before.episode == self._episodes:
            return
        self._keep(final_observation, before.total + float(reward), before.step + 1, bool(done))
        if done:
            self._began(observation)

    def reset(self, key: Key, params: Task) -> tuple[Array, State]:
        obs, state = self._env.reset(key, params)
        io_callback(self._began, None, obs, ordered=True)
        return obs, state

    def step(
        self, key: Key, state: State, action: Array, params: Task
    ) -> tuple[Array, State, Array, Array, Array, dict[Any, Any]]:
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        seen = info["final_observation"], reward, terminated | truncated, obs
        io_callback(self._stepped, None, *seen, ordered=True)
        return obs, state, reward, terminated, truncated, info

    def action_space(self, params: Task) -> Any:
        return self._env.action_space(params)

    def observation_space(self, params: Task) -> Any:
        return self._env.observation_space(params)


def watched(family: EnvFamily, episodes: int) -> tuple[EnvFamily, list[Frame]]:
    """A family, and a list that one trial of it fills: the frames of as many episodes, each from its start to its end.

    Args:
        family: one whose observations are images.
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


def gif(frames: list[Frame]) -> bytes:
    """The video, with a caption under every frame."""
    from PIL import Image, ImageDraw

    pictures = []
    for frame in frames:
        image = frame.image.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        seen = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).convert("RGB")
        picture = Image.new("RGB", (seen.width, seen.height + CAPTION))
        picture.paste(seen)
        words = f"episode {frame.episode + 1}, step {frame.step}, reward {frame.total:.2f}"
        ImageDraw.Draw(picture).text((4, seen.height + 2), words, fill="white")
        pictures.append(picture)
    buffer = io.BytesIO()
    durations = [MILLISECONDS * (10 if frame.last else 1) for frame in frames]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


def record(folder: RunFolder, seed: int) -> Path:
    """Write ``trial-iterationI-seedS.gif``: the newest checkpoint's first seed on a held-out task.

    Args:
        folder: the run.
        seed: of the task and of the learner's randomness.

    Raises:
        UserError: if the run's learner sees no images, or no checkpoint can be used.
        StorageError: if the video cannot be written.
    """
    config = folder.config
    experiment = experiments.get(config.experiment)
    family = experiment.family()
    space = family.observation_space if isinstance(family, EnvFamily) else None
    if not isinstance(space, Box) or len(space.shape) != 3:
        raise UserError(f"{folder.path} is a run of {config.experiment}, whose learner sees no images")
    family, frames = watched(family, train.build(config).stages)
    problem = dataclasses.replace(experiment, family=lambda: family).build(config.settings)
    checkpoint = train.load_states(folder, problem)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), _RECORD_TAG), seed)
    key_task, key_play = jax.random.split(key)
    state = jax.tree.map(lambda x: x[0], checkpoint.state.algorithm)
    frames = play(problem.algorithm, frames, key_play, state, problem.tasks.sample_heldout(key_task))
    path = folder.path / f"trial-iteration{checkpoint.iteration}-seed{seed}.gif"
    try:
        write_atomically(path, gif(frames))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path
