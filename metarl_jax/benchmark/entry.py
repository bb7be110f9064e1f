"""The file of an entry of the benchmark: its schema, how it is written, and how it is checked.

A file may come from a stranger. It is JSON of a fixed shape and size, and no code is executed because of it.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import metarl_jax
from metarl_jax import references
from metarl_jax.benchmark import families, score
from metarl_jax.benchmark.families import Entry, Split
from metarl_jax.experiments import registry
from metarl_jax.runs import files
from metarl_jax.runs.errors import UserError, storing

SCHEMA = 1
MOST_SEEDS = 100
TRAINING_STEPS_ARE: Mapping[str, str] = {"external": "claimed", "package": "counted"}
"""The origin of the number of training steps, for each kind of learner."""
MOST_CHARACTERS = 200
"""The largest length of a name in a file."""
MOST_VERSIONS = 50
"""The largest number of versions in a file."""
MEAN_ERRORS = 6.0
"""The largest distance of the mean return of a seed above that of the optimal policy, in standard errors."""
SLACK = 1e-3
"""The largest rounding error of a return, relative to its size, if above 1."""
TOLERANCE = 1e-6
"""The largest difference between a stored derived number and the recomputed one, relative to its size, if above 1."""
_MEASURED = {"digest": str, "tasks": int, "episodes": int, "returns": [[[float]]], "steps": [int], "scores": dict}
_MEASURED_NAMES = (*_MEASURED, "success")
_LEARNER: dict[str, Any] = {"name": str, "kind": str, "reference": str}
_SHAPE: dict[str, Any] = {
    "schema": int,
    "benchmark": int,
    "learner": _LEARNER,
    "tier": int,
    "seeds": int,
    "versions": {str: str},
    "families": {str: {"training_steps": [int], "training_steps_are": str, "heldout": _MEASURED}},
}


class Measured(NamedTuple):
    """The outcome of all trials of a learner on the tasks of one split, for S seeds, N tasks and E episodes."""

    digest: str
    """The digest of the tasks that were played."""
    returns: NDArray[np.float64]
    """``[S, N, E]``."""
    success: NDArray[np.bool_] | None
    """``[S, N, E]``; None: the tasks do not define success."""
    steps: list[int]
    """The number of environment steps of each seed."""


def measured(name: str, split: Split, outcome: Measured) -> dict[str, Any]:
    """Return the part of a file about a family and a split."""
    number, episodes = outcome.returns.shape[1:]
    content = {
        "digest": outcome.digest,
        "tasks": number,
        "episodes": episodes,
        # Returns are sums of float32 rewards, so that more digits have no meaning.
        "returns": [[[float(f"{x:.7g}") for x in row] for row in seed] for seed in outcome.returns],
        "success": None if outcome.success is None else outcome.success.astype(int).tolist(),
        "steps": outcome.steps,
    }
    return {**content, "scores": _scores(name, split, content)}


def _scores(name: str, split: Split, content: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the derived numbers of a part of a file."""
    found = score.of_family(content["returns"], content["success"], *score.scale(name, split))
    return {
        "mean": found.mean,
        "ci95": list(found.interval),
        "by_seed": found.by_seed,
        "by_episode": found.by_episode,
        "success_by_episode": found.success,
    }


def summary(tier: int, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Compute the aggregate score of a tier; None if a family of the tier is missing."""
    names = [entry.name for entry in families.of_tier(tier)]
    if any(name not in parts for name in names):
        return None
    found = score.aggregate(np.array([parts[name]["heldout"]["scores"]["by_seed"] for name in names]).T)
    return {"interquartile_mean": found.mean, "ci95": [found.low, found.high]}


def assemble(
    tier: int, seeds: int, learner: Mapping[str, str | None], parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of a file.

    Args:
        tier: the tier.
        seeds: the number of seeds.
        learner: "name", "kind" ("external" or "package"), "reference" and "sha256" of the learner.
        parts: for each family "training_steps", "training_steps_are" ("counted" or "claimed"), and the result of
            ``measured`` for each split.
    """
    names = ("jax", "jaxlib", "numpy")
    return {
        "schema": SCHEMA,
        "benchmark": families.VERSION,
        "learner": dict(learner),
        "tier": tier,
        "seeds": seeds,
        "versions": {
            "metarl-jax": metarl_jax.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            **{name: importlib.metadata.version(name) for name in names},
        },
        "families": {name: dict(part) for name, part in parts.items()},
        "score": summary(tier, parts),
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file.

    Raises:
        StorageError: if it cannot be written.
    """
    with storing(f"write {path}"):
        files.write_json(path, dict(content))


def read(path: Path) -> dict[str, Any]:
    """Read a file, and check its types and sizes. ``problems`` checks whether its content is right.

    Raises:
        UserError: if the file cannot be read, or if its content has another shape.
    """
    content = files.read_json(path)
    try:
        _check_shape(content)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {files.printable(str(error))}") from None
    return content


def _check_shape(content: Mapping[str, Any]) -> None:
    """Check the types and the sizes of a file's content.

    Raises:
        ValueError: if they are wrong; the message names the first place.
    """
    files.check_shape(content, _SHAPE)
    if content["schema"] != SCHEMA or content["benchmark"] != families.VERSION:
        raise ValueError(
            f"it has schema {content['schema']} of benchmark version {content['benchmark']}; this version of "
            f"metarl_jax reads schema {SCHEMA} of benchmark version {families.VERSION}"
        )
    _refuse_others(content, (*_SHAPE, "score"), "it")
    learner, versions = content["learner"], content["versions"]
    _refuse_others(learner, (*_LEARNER, "sha256"), "learner")
    if len(versions) > MOST_VERSIONS:
        raise ValueError(f"versions must be at most {MOST_VERSIONS}, not {len(versions)}")
    texts = [learner["name"], learner["kind"], learner["reference"], learner.get("sha256") or ""]
    if not all(isinstance(text, str) and len(text) <= MOST_CHARACTERS and text.isprintable() for text in texts):
        raise ValueError(f"learner must consist of printable texts of at most {MOST_CHARACTERS} characters")
    if learner["kind"] not in TRAINING_STEPS_ARE:
        raise ValueError(f"learner.kind must be one of {', '.join(TRAINING_STEPS_ARE)}")
    _check_reference(learner["kind"], learner["reference"])
    if content["tier"] not in families.TIERS:
        raise ValueError(f"tier must be one of {', '.join(map(str, families.TIERS))}, not {content['tier']}")
    if not 1 <= content["seeds"] <= MOST_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, not {content['seeds']}")
    known = {entry.name: entry for entry in families.of_tier(content["tier"])}
    if not content["families"]:
        raise ValueError("families must have at least one family")
    for name, part in content["families"].items():
        if name not in known:
            raise ValueError(f"families.{name[:MOST_CHARACTERS]} is not a family of tier {content['tier']}")
        _refuse_others(part, (*_SHAPE["families"][str], *known[name].splits), f"families.{name}")
        for split in known[name].splits[1:]:
            if part.get(split) is not None:
                files.check_shape(part[split], _MEASURED, f"families.{name}.{split}")
        for split in _splits(known[name], part):
            _check_sizes(known[name], content["seeds"], part[split], f"families.{name}.{split}")


def _refuse_others(content: Iterable[str], known: Sequence[str], where: str) -> None:
    """Refuse a part of a file that has more entries than the known ones."""
    for name in content:
        if name not in known:
            raise ValueError(f"{where} has an unknown entry {name[:MOST_CHARACTERS]!r}")


def _check_reference(kind: str, reference: str) -> None:
    """Check that the reference of a learner fits its kind. No code is executed because of it."""
    if kind == "external":
        if not references.is_reference(reference):
            raise ValueError("learner.reference of an external learner must be FILE.py:NAME or PACKAGE.MODULE:NAME")
        return
    try:
        registry.algorithm(reference)
    except ValueError as error:
        raise ValueError(f"learner.reference of a learner of the package: {error}") from None


def _splits(entry: Entry, part: Mapping[str, Any]) -> list[Split]:
    """Return the splits that a part of a file has."""
    return [split for split in entry.splits if part.get(split) is not None]


def _check_sizes(entry: Entry, seeds: int, content: Mapping[str, Any], where: str) -> None:
    """Check that the arrays of a part have the sizes of the benchmark."""
    _refuse_others(content, _MEASURED_NAMES, where)
    names = ["returns"]
    if entry.has_success:
        files.check_shape(content.get("success"), [[[int]]], f"{where}.success")
        names.append("success")
    elif content.get("success") is not None:
        raise ValueError(f"{where}.success must be null, because the tasks do not define success")
    expected = (seeds, entry.tasks, entry.episodes)
    for name in names:
        try:
            array = np.array(content[name], np.float64)
        except (ValueError, OverflowError):
            array = np.zeros(())
        if array.shape != expected:
            raise ValueError(f"{where}.{name} must be numbers of {list(expected)} seeds, tasks and episodes")
        if not np.isfinite(array).all() or (name == "success" and not np.isin(array, (0, 1)).all()):
            raise ValueError(f"{where}.{name} must be {'0 or 1' if name == 'success' else 'finite'}")


def problems(content: Mapping[str, Any], made: Mapping[tuple[str, Split], str] | None = None) -> list[str]:
    """Check the content of a file, whose shape ``read`` has checked.

    Args:
        content: the content.
        made: the digests of the tasks that this version of the package makes, by family and split; None: these are not
            compared with the stored digests.

    Returns:
        A line for each fault; an empty list if there is none.
    """
    found: list[str] = []
    for name, part in content["families"].items():
        entry = families.get(name)
        steps = part["training_steps"]
        if len(steps) != content["seeds"]:
            found.append(f"{name}: training_steps has {len(steps)} numbers for {content['seeds']} seeds")
        if any(number < 0 or number > entry.budget for number in steps):
            found.append(f"{name}: training_steps must be from 0 to the budget of {entry.budget:,} steps")
        kind = content["learner"]["kind"]
        if part["training_steps_are"] != (right := TRAINING_STEPS_ARE[kind]):
            found.append(f'{name}: training_steps_are must be "{right}" for a learner of the kind "{kind}"')
        for split in _splits(entry, part):
            found += [f"{name}, {split}: {text}" for text in _part_problems(entry, split, content, part, made)]
    # The scores of the families equal the recomputed ones unless a fault was found.
    if not found and not _agree(content.get("score"), summary(content["tier"], content["families"])):
        found.append("the aggregate score is not that of the returns")
    return found


def _part_problems(
    entry: Entry,
    split: Split,
    content: Mapping[str, Any],
    whole: Mapping[str, Any],
    made: Mapping[tuple[str, Split], str] | None,
) -> list[str]:
    from metarl_jax.benchmark import tasks

    found: list[str] = []
    part = whole[split]
    known = tasks.stored_sha256(entry.name, split)
    if part["digest"] != known:
        found.append("the digest is not that of the tasks of the benchmark")
    if made is not None and made.get((entry.name, split), known) != known:
        found.append("this installation makes other tasks than those of the benchmark")
    for name, number in (("tasks", entry.tasks), ("episodes", entry.episodes)):
        if part[name] != number:
            found.append(f"{name} must be {number}, not {part[name]}")
    impossible = _impossible(entry, split, part)
    found += impossible
    horizon = entry.horizon_of(split)
    most, steps = entry.tasks * entry.episodes * horizon, part["steps"]
    if len(steps) != content["seeds"]:
        found.append(f"steps has {len(steps)} numbers for {content['seeds']} seeds")
    least = most if entry.fixed_length else entry.tasks * entry.episodes
    if any(not least <= number <= most for number in steps):
        found.append(f"steps must be {most if least == most else f'from {least} to {most}'}")
    if not impossible and not _agree(part["scores"], _scores(entry.name, split, part)):
        found.append("scores are not those of the returns")
    return found


def _impossible(entry: Entry, split: Split, part: Mapping[str, Any]) -> list[str]:
    """Return a line for each reason why nobody can have had these returns."""
    found: list[str] = []
    returns = np.array(part["returns"], np.float64)
    if returns.min() < entry.lowest - SLACK * max(1.0, abs(entry.lowest)) or returns.max() > entry.highest + SLACK:
        found.append(f"a return is not from {entry.lowest} to {entry.highest}")
        return found
    if entry.whole_returns and np.any(returns != np.round(returns)):
        found.append("a return is not a whole number")
    if entry.deviation is not None:
        optimum = score.scale(entry.name, split)[1].value
        error = entry.deviation / math.sqrt(entry.tasks * entry.episodes)
        most = optimum + MEAN_ERRORS * error + SLACK * max(1.0, abs(optimum))
        if (highest := returns.mean(axis=(1, 2)).max()) > most:
            found.append(f"the mean return {highest:.4g} is above that of the optimal policy of the known tasks")
    if entry.has_success and np.any(np.array(part["success"]) != (returns > 0)):
        found.append("success contradicts the returns")
    return found


def _agree(stored: Any, right: Any) -> bool:
    """Return whether stored derived numbers equal the recomputed ones up to rounding."""
    match right:
        case dict():
            return (
                isinstance(stored, dict)
                and stored.keys() == right.keys()
                and all(_agree(stored[name], value) for name, value in right.items())
            )
        case list():
            return isinstance(stored, list) and len(stored) == len(right) and all(map(_agree, stored, right))
        case float() | int():
            number = isinstance(stored, int | float) and not isinstance(stored, bool)
            # An integer may be too large for a float.
            number = number and abs(stored) <= sys.float_info.max
            return number and math.isclose(stored, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return stored == right


def table(contents: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of several files of the same tier in Markdown: families by learners, with 95 % intervals.

    Raises:
        UserError: if the files are of different tiers.
    """
    tiers = sorted({content["tier"] for content in contents})
    if len(tiers) != 1:
        raise UserError(f"a table is of one tier, but the files are of tiers {' and '.join(map(str, tiers))}")

    def cell(value: float, interval: Sequence[float]) -> str:
        return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"

    learners = [content["learner"] for content in contents]
    names = [f"{files.printable(one['name'])} ({one['kind']})".replace("|", "\\|") for one in learners]
    rows = [["family", *names], ["---"] * (len(names) + 1)]
    for entry in families.of_tier(tiers[0]):
        for split in entry.splits:
            cells = []
            for content in contents:
                part = (content["families"].get(entry.name) or {}).get(split)
                cells.append(cell(part["scores"]["mean"], part["scores"]["ci95"]) if part else "")
            if any(cells):
                rows.append([entry.name if split == "heldout" else f"{entry.name}, shifted", *cells])
    whole = [content["score"] for content in contents]
    rows.append(["interquartile mean", *("" if x is None else cell(x["interquartile_mean"], x["ci95"]) for x in whole)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
