"""The commands ``metarl-jax benchmark list``, ``run``, ``check`` and ``table``. JAX is imported when they need it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metarl_jax.benchmark import families
from metarl_jax.runs import files
from metarl_jax.runs.errors import UserError


def _list(words: Sequence[str], asked: Any, say: Callable[[str], None]) -> int:
    del asked
    if words:
        raise UserError(f"unexpected argument {words[0]!r}")
    for tier, (what, budget) in families.TIERS.items():
        say(f"tier {tier}: {what}; at most {budget:,} environment steps of training for each family and seed")
        for entry in families.of_tier(tier):
            size = f"{entry.tasks} tasks, {entry.episodes} episodes of at most {entry.horizon} steps"
            say(f"  {entry.name:24}{size}")
            if entry.shift is not None:
                say(f"  {'':24}shifted: {entry.shift.what}")
    return 0


def _run(words: Sequence[str], asked: Any, say: Callable[[str], None]) -> int:
    if len(words) != 1:
        raise UserError("benchmark run needs one learner: FILE.py:NAME, PACKAGE.MODULE:NAME, or an algorithm")
    chosen = families.of_tier(asked.tier)
    try:
        named = [families.get(name) for name in dict.fromkeys(asked.families)]
    except ValueError as error:
        raise UserError(f"--families: {error}") from None
    for entry in named:
        if entry not in chosen:
            raise UserError(f"--families: {entry.name} is of tier {entry.tier}, not {asked.tier}")
    name = re.sub(r"[^\w.-]+", "-", words[0].rpartition(":")[2])
    output = Path(asked.output or f"{name}-tier-{asked.tier}.json")
    if files.exists(output) and not asked.overwrite:
        raise UserError(f"{output} exists: name another file with --output, or give --overwrite")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}")
    from metarl_jax.benchmark import entry as entries
    from metarl_jax.benchmark import run
    from metarl_jax.runs import compilation_cache, devices

    compilation_cache.enable()
    devices.prepare()
    content = run.run(
        words[0],
        named or chosen,
        asked.seeds,
        shifted=asked.shifted,
        folder=Path(asked.folder),
        minutes=asked.minutes,
        memory=asked.memory,
        iterations=asked.iterations,
        say=say,
    )
    if content is None:
        return 0
    entries.write(output, content)
    whole = content["score"]
    if whole is not None:
        low, high = whole["ci95"]
        say(f"interquartile mean of tier {asked.tier}: {whole['interquartile_mean']:.3f} ({low:.3f} to {high:.3f})")
    say(f"wrote {output}")
    return 0


def _check(words: Sequence[str], asked: Any, say: Callable[[str], None]) -> int:
    if not words:
        raise UserError("benchmark check needs the path of at least one file")
    if (asked.replay is None) != (asked.learner is None):
        raise UserError("--replay and --learner must be given together")
    from metarl_jax.benchmark import entry as entries
    from metarl_jax.runs import compilation_cache, devices

    contents = {word: entries.read(Path(word)) for word in words}
    if asked.remake or asked.replay is not None:
        compilation_cache.enable()
        devices.prepare()
    wrong = False
    for word, content in contents.items():
        made = None
        if asked.remake:
            from metarl_jax.benchmark import run

            made = run.made(content, say)
        found = entries.problems(content, made)
        if asked.replay is not None and not found:
            from metarl_jax.benchmark import run

            found = run.replay(content, asked.learner, asked.replay, asked.replay_seed, say)
        for text in found:
            say(f"{word}: {text}")
        if not found:
            number = len(content["families"])
            say(f"{word}: right ({number} {'family' if number == 1 else 'families'} of tier {content['tier']})")
        wrong = wrong or bool(found)
    return 2 if wrong else 0


def _table(words: Sequence[str], asked: Any, say: Callable[[str], None]) -> int:
    del asked
    if not words:
        raise UserError("benchmark table needs the path of at least one file")
    from metarl_jax.benchmark import entry as entries

    contents = [entries.read(Path(word)) for word in words]
    for word, content in zip(words, contents, strict=True):
        if found := entries.problems(content):
            raise UserError(f"{word} is not right: {found[0]} (metarl-jax benchmark check)")
    for line in entries.table(contents).splitlines():
        say(line)
    return 0


class Command(NamedTuple):
    """A command of the benchmark."""

    run: Callable[[Sequence[str], Any, Callable[[str], None]], int]
    """``(words before the options, options, function that prints a line) ->`` the exit code."""
    options: str
    """The name of the dataclass of its options, in ``metarl_jax.options``."""
    words: str
    """The words before the options, for the usage."""
    description: str
    writes: bool = False
    """Whether the result is a file, so that the command continues when its output cannot be written."""


COMMANDS: Mapping[str, Command] = {
    "list": Command(_list, "BenchmarkTable", "", "List the families of each tier and their budgets."),
    "run": Command(
        _run,
        "BenchmarkRun",
        "LEARNER",
        "Play a learner on the benchmark and write a JSON file. LEARNER is FILE.py:NAME or PACKAGE.MODULE:NAME of a "
        "Python object with reset and act, or the name of an algorithm of the package, which is trained first.",
        writes=True,
    ),
    "check": Command(
        _check,
        "BenchmarkCheck",
        "FILE...",
        "Check files of the benchmark: tasks, budgets and counts; all derived numbers are computed anew.",
    ),
    "table": Command(_table, "BenchmarkTable", "FILE...", "Print a table of files of the benchmark in Markdown."),
}
USAGE = "\n".join(
    [
        "usage: metarl-jax benchmark COMMAND ...\n",
        *(f"  {name:10}{command.description.partition('. ')[0].rstrip('.')}" for name, command in COMMANDS.items()),
        "\nmetarl-jax benchmark COMMAND --help lists the options of a command.",
    ]
)
