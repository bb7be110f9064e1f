"""Videos of a trained learner on a held-out task."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import io_callback
from PIL import Image, ImageDraw, ImageFont

from metarl_jax.environments.drawing import Drawable, Frame, Recordable
from metarl_jax.interfaces.gradient import InnerProblem
from metarl_jax.runs import train
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.files import write_atomically
from metarl_jax.runs.folder import RunConfig, RunFolder
from metarl_jax.runs.scenes import Draw, scene
from metarl_jax.types import Algorithm, Array, EnvFamily, HostEnvironment, Key, Params, State, Task

CAPTION = 32
"""The height in pixels of the caption under each picture of the video."""
MILLISECONDS = 100
"""The duration of a frame."""
LAST_MILLISECONDS = 10 * MILLISECONDS
"""The duration of the last frame of an episode."""
_RECORD_TAG = 0x5245434F
"""The number that is folded into the key of a recording. No ``split`` of a training key gives the result (compare
``train.VALIDATION_TAG``)."""


def _without_key_type(x: Any) -> Any:
    """Convert a typed random key to its data, and return anything else unchanged.

    Callbacks to the host cannot take typed keys.
    """
    typed = isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if typed else x


class _Watched:
    """An environment that also sends every step to the host, which collects frames."""

    def __init__(self, family: EnvFamily, episodes: int, frames: list[Frame]) -> None:
        self._env = family.env
        self._rendered = family.render is not None
        self._episodes = episodes
        self._frames = frames

    def _drawn_state(self, state: State) -> Any:
        """Return the part of a state that the family's ``render`` or the environment's ``draw`` needs."""
        if self._rendered:
            return jax.tree.map(_without_key_type, state)
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
            # The step that ended an episode has already started a new one, and now the learner resets as well.
            del self._frames[-1]
        self._keep(observation, state, None, 0.0, 0, False)

    def _stepped(
        self, action: Any, final_observation: Any, reward: Any, done: Any, observation: Any, state: Any
    ) -> None:
        before = self._frames[-1]
        if before.episode == self._episodes:
            return
        # At the end of an episode, the state is already that of the next episode.
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

    def mark_over(self, state: State, over: Array) -> State:
        return self._env.mark_over(state, over) if isinstance(self._env, HostEnvironment) else state

    def release(self, state: State) -> None:
        if isinstance(self._env, HostEnvironment):
            self._env.release(state)

    def action_space(self, params: Task) -> Any:
        return self._env.action_space(params)

    def observation_space(self, params: Task) -> Any:
        return self._env.observation_space(params)


def watched(family: EnvFamily, episodes: int) -> tuple[EnvFamily, list[Frame]]:
    """Wrap a family so that one trial on it records its frames.

    Args:
        family: the family.
        episodes: the number of episodes of the trial.

    Returns:
        The wrapped family, and a list that the trial fills with the frames of every episode from its start to its end.
    """
    frames: list[Frame] = []
    if isinstance(family.env, Recordable):
        family = family._replace(env=family.env.recorded())
    return family._replace(env=_Watched(family, episodes, frames)), frames


def play(algorithm: Algorithm, frames: list[Frame], key: Key, state: State, task: Task) -> list[Frame]:
    """Let one learner adapt to one task, and return the frames.

    Args:
        algorithm: the algorithm, on a family that ``watched`` returned.
        frames: the list that ``watched`` returned.
        key: a random key.
        state: the state of the learner.
        task: the task.

    Returns:
        The frames of the trial.
    """
    jax.block_until_ready(jax.jit(algorithm.adapt)(key, state, task))
    jax.effects_barrier()
    # The last frame is the start of a further episode, which is not part of the trial.
    return frames[:-1]


def play_stages(problem: InnerProblem, frames: list[Frame], key: Key, learners: Params, task: Task) -> list[Frame]:
    """Let a policy play one episode before adaptation, and one after each of K gradient steps.

    Args:
        problem: the problem, on a family that ``watched`` returned.
        frames: the list that ``watched`` returned.
        key: a random key.
        learners: the parameters of the policy after each number of steps, ``[K + 1, ...]``.
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
    """Return the video as a GIF, with a caption under every frame that names its episode."""
    pictures, font = [], ImageFont.load_default(size=20)
    for at, frame in enumerate(frames):
        seen = draw(frames[: at + 1])
        picture = Image.new("RGB", (seen.width, seen.height + CAPTION))
        picture.paste(seen)
        words = f"{named(frame.episode)}, step {frame.step}, reward {frame.total:.2f}"
        ImageDraw.Draw(picture).text((8, seen.height + 3), words, fill="white", font=font)
        pictures.append(picture)
    buffer = io.BytesIO()
    # The video pauses at the end of an episode, but not at an episode of one step, as on a bandit.
    looked = [(frame.last and frame.step > 1) or frame is frames[-1] for frame in frames]
    durations = [LAST_MILLISECONDS if look else MILLISECONDS for look in looked]
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


class Video(NamedTuple):
    """A video of a trial."""

    iteration: int
    """The iteration of the checkpoint."""
    content: bytes
    """The video as a GIF."""


def environment(config: RunConfig) -> EnvFamily | None:
    """Return the family of environments of a run; None if its learner does not act."""
    family = config.resolve().make_family(config.settings)
    return family if isinstance(family, EnvFamily) else None


def render(folder: RunFolder, seed: int) -> Video:
    """Record the first seed of the newest checkpoint on a held-out task.

    The video shows a trial. For a learner by gradient descent, it shows an episode before adaptation and one after each
    gradient step.

    Args:
        folder: the run.
        seed: the seed of the task and of the learner's randomness.

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
    """Write a video to the run folder as ``trial-iterationI-seedS.gif``, and return its path.

    Raises:
        StorageError: if the file cannot be written.
    """
    path = folder.path / f"trial-iteration{video.iteration}-seed{seed}.gif"
    with storing(f"write {path}"):
        write_atomically(path, video.content)
    return path
