"""The commands ``metarl-jax benchmark run`` and ``check``: play learners on the benchmark, and check their files."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metarl_jax import references
from metarl_jax.benchmark import entry, families, package_learners, playing, tasks
from metarl_jax.benchmark.families import SPLITS, Entry, Split
from metarl_jax.experiments import registry
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.runs.errors import UserError
from metarl_jax.types import EnvFamily

Say = Callable[[str], None]
REPLAYED_ERRORS = 4.0
"""The largest mean difference of replayed returns, in standard errors, where a replay is not exact."""


def external(value: Any, seed: int, where: str) -> playing.Learner:
    """Return a learner for a seed.

    Args:
        value: a class or a function that makes a learner from a seed, or a learner, of which a copy is returned, so
            that families and seeds do not share one.
        seed: the seed.
        where: the reference, for messages.

    Raises:
        UserError: if the result has no ``reset`` and ``act``, or the learner cannot be copied.
    """
    makes = inspect.isclass(value) or (callable(value) and not hasattr(value, "act"))
    made: Any = value
    if makes:
        made = made(seed)
    if not isinstance(made, playing.Learner):
        raise UserError(
            f"{where} must be an object with reset(interface) and act(observation, reward, done), or a class or "
            f"function that makes one from a seed, not {type(made).__name__}"
        )
    if makes:
        return made
    try:
        return copy.deepcopy(made)
    except Exception as error:
        # The code of the user decides which exceptions a copy raises.
        raise UserError(
            f"{where} must be a class or a function that makes a learner from a seed, because this object cannot be "
            f"copied for each family and seed: {type(error).__name__}: {error}"
        ) from error


def _load(reference: str) -> references.Loaded:
    try:
        return references.load(reference)
    except ValueError as error:
        raise UserError(str(error)) from None


def _family(chosen: Entry, split: Split) -> EnvFamily:
    """Make the family of tasks of an entry.

    Raises:
        UserError: if it needs a package that is not installed.
    """
    try:
        return families.make(chosen.name, split)
    except ImportError as error:
        raise UserError(f"{chosen.name}: {error}") from None


def train_external(learner: playing.Learner, chosen: Entry) -> int:
    """Train a learner that offers it; return the number of steps that the learner claims.

    Raises:
        UserError: if it claims more steps than the budget, or no number.
    """
    train = getattr(learner, "train", None)
    if callable(train):
        family = _family(chosen, "heldout")
        # The learner gets no function that draws held-out tasks.
        own = family.tasks._replace(sample_heldout=family.tasks.validation)
        train(family._replace(tasks=own), chosen.budget)
    steps = getattr(learner, "training_steps", chosen.budget if callable(train) else 0)
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or not 0 <= steps <= chosen.budget:
        raise UserError(f"training_steps of the learner must be from 0 to {chosen.budget:,}, not {steps!r}")
    return int(steps)


def measure(
    chosen: Entry, learners: Sequence[playing.Learner], splits: Sequence[Split], say: Say
) -> dict[str, dict[str, Any]]:
    """Play the tasks of a family with the learner of each seed, and return the parts of a file by split.

    Raises:
        UserError: if the tasks that this installation makes are not those of the benchmark, or a package is missing.
    """
    parts = {}
    for split in splits:
        family, drawn = _family(chosen, split), tasks.draw(chosen.name, split)
        digest = tasks.digest(chosen.name, split, drawn)
        if digest != tasks.stored_sha256(chosen.name, split):
            raise UserError(f"{chosen.name}: this installation makes other {split} tasks than those of the benchmark")
        player = playing.Player(chosen.name, family, chosen.episodes)
        played = [player.play(learner, drawn, seed) for seed, learner in enumerate(learners)]
        success = [one.success for one in played if one.success is not None]
        outcome = entry.Measured(
            digest,
            np.stack([one.returns for one in played]),
            np.stack(success) if success else None,
            [one.steps for one in played],
        )
        parts[split] = entry.measured(chosen.name, split, outcome)
        found = parts[split]["scores"]
        low, high = found["ci95"]
        say(f"{chosen.name}, {split} tasks: score {found['mean']:.3f} ({low:.3f} to {high:.3f})")
    return parts


def run(
    reference: str,
    chosen: Sequence[Entry],
    seeds: int,
    *,
    shifted: bool,
    folder: Path,
    minutes: float | None,
    memory: str | None,
    iterations: int | None,
    say: Say,
) -> dict[str, Any] | None:
    """Play a learner on families of one tier, and return the content of its file.

    Args:
        reference: ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME`` of a learner, or the name of an algorithm.
        chosen: the families.
        seeds: the number of seeds.
        shifted: whether shifted tasks are played, too.
        folder: the folder of run folders of an algorithm of the package.
        minutes: the time limit of training an algorithm on one family; None for no limit.
        memory: the name of the network of an algorithm; None for the default one.
        iterations: the largest number of meta-iterations of an algorithm; None: no limit but the budget.
        say: a function that gets a line for each result.

    Returns:
        The content; None if a time limit came first.

    Raises:
        UserError: if there is no such learner, or a part of its work fails.
    """
    parts: dict[str, dict[str, Any]] = {}
    if references.is_reference(reference):
        loaded = _load(reference)
        place, _, name = reference.rpartition(":")
        # The folder of the file is nobody's business.
        shown = f"{Path(place).name}:{name}"
        about: dict[str, str | None] = {
            "name": name,
            "kind": "external",
            "reference": shown,
            "sha256": loaded.sha256,
        }
        for one in chosen:
            learners = [external(loaded.value, seed, shown) for seed in range(seeds)]
            steps = [train_external(learner, one) for learner in learners]
            parts[one.name] = {
                "training_steps": steps,
                "training_steps_are": "claimed",
                **measure(one, learners, one.splits if shifted else one.splits[:1], say),
            }
        return entry.assemble(chosen[0].tier, seeds, about, parts)
    try:
        title = registry.algorithm(reference).name
    except ValueError as error:
        raise UserError(str(error)) from None
    name = title if memory is None else f"{title} {memory}"
    about = {"name": name, "kind": "package", "reference": title, "sha256": None}
    unfinished = False
    for one in chosen:
        plan = package_learners.plan(reference, one, memory, iterations)
        path = folder / "-".join(["benchmark", *name.split(), one.name])
        say(f"{one.name}: {plan.experiment.name}, {plan.steps:,} steps for each of {seeds} seeds, in {path}")
        folder.mkdir(parents=True, exist_ok=True)
        trained = package_learners.trained(plan, one, seeds, path, minutes)
        if trained is None:
            say(f"{one.name}: time ran out; call again to go on")
            unfinished = True
            continue
        parts[one.name] = {
            "training_steps": [plan.steps] * seeds,
            "training_steps_are": "counted",
            **measure(one, trained, one.splits if shifted else one.splits[:1], say),
        }
    return None if unfinished else entry.assemble(chosen[0].tier, seeds, about, parts)


def made(content: Mapping[str, Any], say: Say) -> dict[tuple[str, Split], str]:
    """Make the tasks of the families of a file anew, and return their digests."""
    found: dict[tuple[str, Split], str] = {}
    for name in content["families"]:
        for split in families.get(name).splits:
            try:
                drawn = tasks.draw(name, split)
            except ImportError as error:
                say(f"{name}: the tasks were not made anew: {error}")
                continue
            found[name, split] = tasks.digest(name, split, drawn)
    return found


def replay(content: Mapping[str, Any], reference: str, number: int, seed: int, say: Say) -> list[str]:
    """Play random tasks of each family and split again with the learner of each seed.

    Args:
        content: the content of a file.
        reference: the reference of the learner, whose code is executed.
        number: the number of tasks of each split, at least two.
        seed: the seed of the choice of tasks.
        say: a function that gets a warning.

    Returns:
        A line for each fault. Returns need not be equal on each task, because processors differ and a learner may draw
        random numbers; but their mean difference must be within ``REPLAYED_ERRORS`` standard errors.

    Raises:
        UserError: if the learner is an algorithm of the package, or cannot be loaded, or a part of its work fails.
    """
    if content["learner"]["kind"] != "external":
        raise UserError("only a learner with a file of its own can be replayed, not an algorithm of the package")
    loaded = _load(reference)
    found = []
    stored_sha256 = content["learner"].get("sha256")
    if stored_sha256 is None:
        say("warning: the file has no SHA-256 of the learner, so that the code of the learner may be another one")
    elif loaded.sha256 != stored_sha256:
        found.append("the file of the learner is another one: its SHA-256 differs")
    for name, part in content["families"].items():
        chosen = families.get(name)
        learners = [external(loaded.value, one, "the learner") for one in range(content["seeds"])]
        for learner in learners:
            if callable(getattr(learner, "train", None)):
                train_external(learner, chosen)
        for split in chosen.splits:
            if part.get(split) is None:
                continue
            random = np.random.default_rng((seed, chosen.seed, SPLITS.index(split)))
            which = np.sort(random.choice(chosen.tasks, min(number, chosen.tasks), replace=False))
            player = playing.Player(name, _family(chosen, split), chosen.episodes)
            drawn = jax.tree.map(lambda x, which=which: x[which], tasks.draw(name, split))
            for one, learner in enumerate(learners):
                again = player.play(learner, drawn, one, which).returns
                stored = np.array(part[split]["returns"][one], np.float64)[which]
                if np.allclose(again, stored, rtol=1e-4, atol=1e-4):
                    continue
                estimate = mean_with_interval((again - stored).mean(axis=1))
                if not abs(estimate.mean) <= REPLAYED_ERRORS * estimate.standard_error:
                    difference = f"the replayed returns of seed {one} differ by {estimate.mean:.4g}"
                    found.append(f"{name}, {split}: {difference} on {len(which)} tasks")
    return found
