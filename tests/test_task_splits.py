"""Validation tasks, by which settings and checkpoints are chosen, are not held-out tasks, which are reported."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import problems
from metarl_jax.datasets import omniglot, text
from metarl_jax.environments import manipulation, maze, recommendation, xland
from metarl_jax.environments.maze import MazeParams
from metarl_jax.experiments import registry
from metarl_jax.networks import mlp
from metarl_jax.runs import evaluate, train
from metarl_jax.types import Array, EnvFamily, Key, Task, TaskDistribution

DRAWS = 1000
CHANCE = 3
"""Draws from two continua have about DRAWS^2 / 2^23 = 0.12 numbers in common. The probability of more than three is
below 1e-5."""
SPLITS = ("training", "heldout", "validation")


def parts(task: Task) -> list[Array]:
    """Return the features that identify a task.

    For a maze they are its walls, because start and target are drawn in any maze. For Omniglot they are the characters
    without their rotations, and for texts the places of their classes in the corpus.
    """
    if isinstance(task, MazeParams):
        return [task.walls]
    if isinstance(task, omniglot.Characters):
        return [task.character]
    if isinstance(task, text.Classes):
        return [task.first]
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(task)]


def by_split(tasks: TaskDistribution) -> dict[str, set[bytes]]:
    """Return the distinct tasks among many of each split; for Omniglot and texts the distinct classes."""
    samplers = dict(zip(SPLITS, (tasks.sample, tasks.sample_heldout, tasks.validation), strict=True))
    # A sampler that several splits share is compiled once.
    compiled = {sample: jax.jit(jax.vmap(lambda key, of=sample: parts(of(key)))) for sample in samplers.values()}
    found = {}
    for seed, (split, sample) in enumerate(samplers.items()):
        leaves = [np.asarray(leaf) for leaf in compiled[sample](jax.random.split(jax.random.key(seed), DRAWS))]
        if jax.eval_shape(sample, jax.random.key(0)).__class__ in (omniglot.Characters, text.Classes):
            leaves = [leaves[0].reshape(-1)]
        found[split] = {b"".join(leaf[i].tobytes() for leaf in leaves) for i in range(len(leaves[0]))}
    return found


def distributions(name: str, data_dir: str) -> list[TaskDistribution]:
    """Return the task distributions of a family; for few-shot families without examples."""
    entry = registry.family(name)
    make, known = registry.resolve(entry.make), dict(entry.defaults)
    names = inspect.signature(make).parameters
    if "data_dir" in names:
        known["data_dir"] = data_dir
    kinds = [{"heldout": "in_range"}, {"heldout": "out_of_range"}] if "heldout" in names else [{}]
    found = []
    for kind in kinds:
        family = make(**known, **kind)
        if isinstance(family, EnvFamily):
            found.append(family.tasks)
        else:
            tasks, test = family.training.tasks, family.heldout.tasks
            found.append(TaskDistribution(tasks.sample, test.sample_heldout, test.validation))
    return found


# The generation of 3000 worlds of Craftax takes too long (``test_craftax.py``).
FAMILIES = [family.name for family in registry.families() if family.name != "craftax-classic"]
Kind: TypeAlias = Literal["continuum", "without split", "fresh", "training"]
# The kind of validation tasks of each family with finitely many training tasks. All other families draw their tasks
# from a continuum.
KINDS: dict[Kind, tuple[str, ...]] = {
    # There are few tasks, and all of them are used for training and for testing, as published except for tiny mazes.
    "without split": (
        *("gridnavi", "dark-room", "dark-room-10x10", "maze-tiny", "corners", "t-maze"),
        *("half-cheetah-direction", "ant-direction"),
        # Seeds are disjoint, but different seeds generate the same layout of a small grid.
        "navix",
    ),
    # Validation tasks are new tasks, which are not training tasks or held-out tasks.
    "fresh": (
        *("ml1-reach", "ml1-push", "ml1-pick-place", "ml10", "maze-small", "maze-large"),
        *("walker-parameters", "hopper-parameters", "point-robot-sparse"),
        *("text", "text-domains"),
    ),
    # Validation tasks are training tasks, because all other tasks are held out.
    "training": ("dark-room-new-goals", "dark-key-to-door", "omniglot", "xland-made-up", "xland-trivial-21k"),
}


@pytest.mark.usefixtures("xland_benchmark")
@pytest.mark.parametrize("name", FAMILIES)
def test_heldout_tasks_differ_from_training_and_validation_tasks(name: str, omniglot_folder: Path) -> None:
    kind = next((kind for kind, names in KINDS.items() if name in names), "continuum")
    for tasks in distributions(name, str(omniglot_folder)):
        found = by_split(tasks)
        training, heldout, validation = (found[split] for split in SPLITS)
        common = [
            len(one & other) for one, other in ((heldout, training), (heldout, validation), (validation, training))
        ]
        if kind == "without split":
            assert min(common) > 0
        elif kind == "fresh":
            assert common == [0, 0, 0]
        elif kind == "training":
            assert common[:2] == [0, 0]
            assert common[2] > 0
        else:
            assert min(map(len, found.values())) >= DRAWS - CHANCE
            assert max(common) <= CHANCE


def test_users_and_rulesets_are_validated_on_those_of_training(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    random = np.random.default_rng(0)
    rows = [f"u{user},i{item},{random.integers(1, 6)}" for user in range(30) for item in range(6)]
    path.write_text("user,item,rating\n" + "\n".join(rows) + "\n")
    some = jax.tree.map(lambda x: x[:20], xland.made_up())
    for family, heldout in ((recommendation.from_ratings(path, items=6, rank=2), 6), (xland.make(some), 4)):
        found = by_split(family.tasks)
        assert len(found["heldout"]) == heldout
        assert found["validation"] == found["training"]
        assert not found["heldout"] & found["training"]


def test_there_are_few_tiny_mazes() -> None:
    """The numbers agree with the documentation: all mazes of 3 by 3 cells, and the number of training mazes."""
    right = [(3 * i + j, 3 * i + j + 1) for i in range(3) for j in range(2)]
    openings = right + [(3 * i + j, 3 * i + j + 3) for i in range(2) for j in range(3)]

    def cells_reached(opened: tuple[bool, ...]) -> int:
        reached, before = {0}, 0
        while len(reached) > before:
            before = len(reached)
            for (one, other), is_open in zip(openings, opened, strict=True):
                if is_open and (one in reached or other in reached):
                    reached |= {one, other}
        return len(reached)

    assert sum(cells_reached(opened) == 9 for opened in itertools.product((False, True), repeat=12)) == 431
    keys = jax.vmap(lambda which: jax.random.fold_in(jax.random.key(maze.TINY), which))(np.arange(maze.TRAINING_MAZES))
    walls = np.asarray(jax.vmap(lambda key: maze.layout(key, maze.TINY))(keys))
    assert len({row.tobytes() for row in walls}) == 351


# ------------------------------------------------------------------------------ what chooses, and what is reported


def test_the_keys_of_a_run_choose_and_report_other_tasks(omniglot_folder: Path) -> None:
    """ML1's goals and Omniglot's characters, with the keys that training and ``evaluate`` use."""
    chosen_by = jax.random.fold_in(jax.random.key(0), train.VALIDATION_TAG)
    reported_on = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), evaluate.EVALUATION_TAG), 0)

    def seen(sample: Callable[[Key], Task], key: Key, of: Callable[[Task], Any]) -> set[tuple[float, ...]]:
        tasks = jax.jit(jax.vmap(sample))(jax.random.split(key, 1000))
        return {tuple(row) for row in np.asarray(of(tasks), np.float64).tolist()}

    goals = manipulation.ml1("push", horizon=5).tasks
    characters = omniglot.few_shot(omniglot.load(omniglot_folder), 5, 1, 1).tasks
    for tasks, of, reported in (
        (goals, lambda task: task.goal, 50),
        (characters, lambda task: task.character.reshape(-1, 1), 423),
    ):
        chooses = seen(tasks.validation, chosen_by, of)
        reports = seen(tasks.sample_heldout, reported_on, of)
        assert len(reports) == reported
        assert not chooses & reports


def test_an_episode_of_validation_is_of_training_characters_and_of_the_size_of_heldout_ones(
    omniglot_folder: Path,
) -> None:
    data = omniglot.load(omniglot_folder)
    training = omniglot.few_shot(data, 5, 3, 2)
    heldout = omniglot.few_shot(data, 5, 1, 4, rotations=False)
    problem = problems.few_shot(
        training,
        mlp.classifier(28 * 28, 5),
        problems.FewShotSettings(batch_size=7, heldout_batch_size=2),
        heldout=heldout,
    )
    images = np.asarray(data.images[:, 0])
    order = np.random.RandomState(0).permutation(len(images))
    allowed = {images[character].tobytes() for character in order[: omniglot.TRAINING_CHARACTERS]}
    keys = jax.random.split(jax.random.key(0), 40)
    tasks, reported = (jax.vmap(of)(keys) for of in (problem.tasks.validation, problem.tasks.sample_heldout))
    assert tasks.batch_size == reported.batch_size == 2
    for ours, theirs in zip(jax.tree.leaves(tasks), jax.tree.leaves(reported), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)

    def shown(episodes: Any) -> set[bytes]:
        x = np.concatenate([np.asarray(part[0]).reshape(-1, 28, 28) for part in (episodes.support, episodes.query)])
        return {np.round(255 * image).astype(np.uint8).tobytes() for image in x}

    assert shown(tasks) <= allowed
    assert not shown(reported) <= allowed
