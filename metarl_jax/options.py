"""Options of the command line, made of dataclasses of settings by ``tyro``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from metarl_jax.checks import LAST_SEED
from metarl_jax.runs.errors import UserError
from metarl_jax.settings import Doc, Field, Interval, PositiveFloat, PositiveInt, Settings

if TYPE_CHECKING:
    from metarl_jax.experiments.base import Experiment

Seed = Annotated[int, Interval(ge=0, le=LAST_SEED)]
AtLeastTwo = Annotated[int, Interval(ge=2)]
FIRST = (
    "iterations",
    "trials",
    "tasks",
    "episodes",
    "learning_rate",
    "inner_rate",
    "inner_steps",
    "adaptation_steps",
    "adaptation_episodes",
    "discount",
    "entropy_coefficient",
    "gradient_steps",
    "hidden_size",
    "units",
    "horizon",
    "arms",
    "ways",
    "shots",
)
"""The settings that people change first, of which the first dozen that an experiment has head its help."""
DOZEN = 12


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """How to train."""

    seed: Annotated[Seed | None, Doc("The random seed, or the first of several; None: 0.")] = None
    seeds: Annotated[PositiveInt | None, Doc("Train seeds SEED .. SEED+N-1 in one program; None: 1, a study 5.")] = None
    devices: Annotated[
        PositiveInt | None,
        Doc(
            "Spread seeds and tasks over N devices, on a CPU its cores (equal to one device up to rounding); None: 1, "
            "with --distributed all."
        ),
    ] = None
    distributed: Annotated[
        str | None,
        Doc(
            "auto, or HOST:PORT,INDEX,PROCESSES: one of several processes that train together and see the same "
            "folders; its INDEX, from 0, their number, and the address of the first; auto where the cluster knows."
        ),
    ] = None
    evaluate_every: Annotated[PositiveInt | None, Doc("Iterations between validations; None: 20 in a run.")] = None
    checkpoint_every: Annotated[PositiveInt | None, Doc("Iterations between checkpoints; None: by time.")] = None
    keep: Annotated[PositiveInt, Doc("Keep the last N checkpoints.")] = 3
    keep_best: Annotated[bool, Doc("Keep the state with the best validation score, too.")] = False
    evaluation_tasks: Annotated[
        AtLeastTwo | None,
        Doc(
            "Held-out tasks of the final table, and validation tasks of a study's; they are kept for resume; None: by "
            "experiment."
        ),
    ] = None
    time_limit: Annotated[PositiveFloat | None, Doc("Save and stop after this number of minutes.")] = None
    track: Annotated[
        tuple[str, ...],
        Doc(
            "Send metrics to wandb (Weights & Biases), or to a tracker of yours: FILE.py:NAME or PACKAGE.MODULE:NAME; "
            "it may be given several times. It is not stored: name it again to resume."
        ),
    ] = ()
    progress: Annotated[bool, Doc("A live display; otherwise plain lines.")] = True


@dataclass(frozen=True, kw_only=True)
class NewRun(Training):
    """How to train a new run."""

    run_dir: Annotated[str | None, Doc("A new folder for the run; None: runs/NAME-date-time.")] = None


@dataclass(frozen=True, kw_only=True)
class Opening(Settings):
    """How to find the experiment of a folder."""

    experiment: Annotated[
        tuple[str, ...],
        Doc(
            "The folder's experiment if it is your own: FILE.py:NAME, PACKAGE.MODULE:NAME, or its name in an installed "
            "package. This code is executed; no code is executed because the folder names it."
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Resume(Opening):
    """How to go on with a run or a study."""

    devices: Annotated[PositiveInt | None, Doc("As of train.")] = None
    distributed: Annotated[str | None, Doc("As of train.")] = None
    checkpoint_every: Annotated[PositiveInt | None, Doc("Iterations between checkpoints; None: by time.")] = None
    keep: Annotated[PositiveInt, Doc("Keep the last N checkpoints.")] = 3
    keep_best: Annotated[bool, Doc("Keep the state with the best validation score, too.")] = False
    evaluation_tasks: Annotated[
        AtLeastTwo | None, Doc("Held-out tasks of the final table from now on; None: as before.")
    ] = None
    time_limit: Annotated[PositiveFloat | None, Doc("Save and stop after this number of minutes.")] = None
    track: Annotated[tuple[str, ...], Doc("As of train.")] = ()
    progress: Annotated[bool, Doc("A live display; otherwise plain lines.")] = True


@dataclass(frozen=True, kw_only=True)
class NewStudy(NewRun):
    """How to train a study."""

    vary: Annotated[
        tuple[str, ...],
        Doc(
            "SETTING=VALUE,... for each setting that varies; the other combinations are compared with that of the "
            "first values."
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluate(Opening):
    """What to measure."""

    evaluation_tasks: Annotated[AtLeastTwo | None, Doc("Held-out tasks; None: by experiment.")] = None
    seed: Annotated[Seed, Doc("The random seed of the held-out tasks.")] = 0
    best: Annotated[bool, Doc("The state that train --keep-best kept, not the last one.")] = False


@dataclass(frozen=True, kw_only=True)
class Listing(Settings):
    """What to list."""

    json: Annotated[bool, Doc("Print JSON, for programs.")] = False


@dataclass(frozen=True, kw_only=True)
class Report(Opening):
    """How to report."""

    output: Annotated[str | None, Doc("The page; None: report.html in the run's folder, or here for several runs.")] = (
        None
    )
    overwrite: Annotated[bool, Doc("Overwrite even a file that is no report.")] = False
    record: Annotated[bool, Doc("Play a trial for an animation; otherwise show what was recorded before.")] = True


@dataclass(frozen=True, kw_only=True)
class Watch(Opening):
    """How to watch."""

    once: Annotated[bool, Doc("Print the state once instead of until training is finished.")] = False


@dataclass(frozen=True, kw_only=True)
class Record(Opening):
    """What to record."""

    seed: Annotated[Seed, Doc("The random seed of the held-out task.")] = 0


@dataclass(frozen=True, kw_only=True)
class Export(Opening):
    """What to export."""

    output: Annotated[str | None, Doc("The file, which must end in .safetensors; None: named after the run, here.")] = (
        None
    )
    seed: Annotated[Seed | None, Doc("Of seeds that were trained together, the one to export; None: the first.")] = None
    best: Annotated[bool, Doc("The state that train --keep-best kept, not the last one.")] = False
    overwrite: Annotated[bool, Doc("Overwrite an agent's file of that name.")] = False


RESERVED = {"memory", "network"} | {
    field.name
    for options in (NewStudy, Resume, Evaluate, Listing, Report, Watch, Record, Export)
    for field in dataclasses.fields(options)
}
"""The names of options, which no setting of an experiment can have."""
Options = TypeVar("Options", bound=Settings)


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    program: str,
    description: str,
    experiment: Experiment | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Options, dict[str, Any]]:
    """Read a command line. A mistake, or ``--help``, ends it with SystemExit, after a message.

    Args:
        options: what the command takes.
        arguments: the words behind the command and its names.
        program: the words before, for messages.
        description: one line.
        experiment: whose settings are options, too.
        defaults: their values, if not those of the experiment.

    Returns:
        The options, and the settings that were given a value other than their default.

    Raises:
        UserError: if a setting has the name of an option.
    """
    import tyro

    parts: list[tuple[str, Any, Any]] = [("run", options, options())]
    known: dict[str, Any] = {}
    if experiment is not None:
        fields = experiment.fields()
        if taken := fields.keys() & RESERVED:
            raise UserError(
                f"{experiment.name} has a setting {min(taken)!r}, which is the name of an option: rename it"
            )
        known = {name: (defaults or {}).get(name, field.default) for name, field in fields.items()}
        first = [name for name in FIRST if name in fields][:DOZEN]

        def group(title: str, text: str, names: list[str]) -> tuple[str, Any, Any]:
            entries = [(name, fields[name].annotation, known[name]) for name in names]
            made = dataclasses.make_dataclass(title, entries, frozen=True, kw_only=True)
            made.__doc__ = text
            return title, made, made()

        parts.insert(0, group("frequent", f"Settings of {experiment.name} that are changed most often.", first))
        parts.append(group("further", "Other settings.", [name for name in fields if name not in first]))
    whole = dataclasses.make_dataclass("Arguments", parts, frozen=True)
    found: Any = tyro.cli(
        whole,
        args=list(arguments),
        prog=program,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction),
    )
    given = {
        name: value
        for title in ("frequent", "further")
        if hasattr(found, title)
        for name, value in vars(getattr(found, title)).items()
        if value != known[name]
    }
    return found.run, given


def network_of(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of ``--memory``, which decides what other options there are, and the other arguments."""
    import tyro

    field: Any = Annotated[str | None, tyro.conf.arg(aliases=["--network"])]
    kind = dataclasses.make_dataclass("Network", [("memory", field, None)])
    found: Any
    found, rest = tyro.cli(kind, args=list(arguments), return_unknown_args=True, add_help=False)
    return found.memory, list(rest)


def experiments_of(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The values of ``--experiment``, which decide what other options there are, and the other arguments."""
    import tyro

    kind = dataclasses.make_dataclass("Experiments", [("experiment", tyro.conf.UseAppendAction[tuple[str, ...]], ())])
    found: Any
    found, rest = tyro.cli(kind, args=list(arguments), return_unknown_args=True, add_help=False)
    return found.experiment, list(rest)


def parse_value(field: Field, text: str, option: str) -> Any:
    """A setting's value as typed. A mistake ends it with SystemExit, after a message."""
    import tyro

    kind = dataclasses.make_dataclass("Value", [(field.name, field.annotation)], kw_only=True)
    arguments = [f"--{field.name.replace('_', '-')}", text]
    found: Any = tyro.cli(kind, args=arguments, prog=f"metarl-jax study NAME {option}", description="", add_help=False)
    return getattr(found, field.name)
