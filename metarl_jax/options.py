"""The options of the command line, which ``tyro`` makes from dataclasses of settings."""

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
"""The settings that users change most often. The help of an experiment begins with the first of them that it has."""
DOZEN = 12
"""The largest number of settings at the beginning of the help."""


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """Options of training."""

    seed: Annotated[Seed | None, Doc("The random seed, or the first of several seeds; None for 0.")] = None
    seeds: Annotated[
        PositiveInt | None, Doc("Train the seeds SEED .. SEED+N-1 in one program; None for 1, or 5 in a study.")
    ] = None
    devices: Annotated[
        PositiveInt | None,
        Doc(
            "Distribute seeds and tasks over N devices (on a CPU: its cores). The result agrees with that of one "
            "device to rounding. None for 1 device, or for all devices with --distributed."
        ),
    ] = None
    distributed: Annotated[
        str | None,
        Doc(
            "Train with several processes that see the same folders: HOST:PORT,INDEX,PROCESSES with the address of the "
            "first process, the index of this process from 0, and the number of processes; or auto, on a cluster that "
            "provides these."
        ),
    ] = None
    evaluate_every: Annotated[
        PositiveInt | None, Doc("Number of iterations between validations; None for 20 validations in a run.")
    ] = None
    checkpoint_every: Annotated[
        PositiveInt | None, Doc("Number of iterations between checkpoints; None for one every 15 seconds.")
    ] = None
    keep: Annotated[PositiveInt, Doc("Keep the last N checkpoints.")] = 3
    keep_best: Annotated[bool, Doc("Also keep the state with the best validation score.")] = False
    evaluation_tasks: Annotated[
        AtLeastTwo | None,
        Doc(
            "Number of held-out tasks of the final table, and of validation tasks in a study; it is stored for resume. "
            "None for the experiment's number."
        ),
    ] = None
    time_limit: Annotated[
        PositiveFloat | None, Doc("Save and stop after this number of minutes; None for no limit.")
    ] = None
    track: Annotated[
        tuple[str, ...],
        Doc(
            "Send metrics to wandb (Weights & Biases), or to your own tracker: FILE.py:NAME or PACKAGE.MODULE:NAME. "
            "The option may be given several times. It is not stored: give it again to resume."
        ),
    ] = ()
    progress: Annotated[bool, Doc("Show a live display of the progress; otherwise print plain lines.")] = True


@dataclass(frozen=True, kw_only=True)
class NewRun(Training):
    """Options of training a new run."""

    run_dir: Annotated[str | None, Doc("The new folder of the run; None for runs/NAME-date-time.")] = None


@dataclass(frozen=True, kw_only=True)
class Opening(Settings):
    """Options of finding the experiment of a folder."""

    experiment: Annotated[
        tuple[str, ...],
        Doc(
            "The experiment of the folder, if it is your own: FILE.py:NAME, PACKAGE.MODULE:NAME, or its name in an "
            "installed package. This code is executed. No code is executed because the folder names it."
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Resume(Opening):
    """Options of resuming a run or a study."""

    devices: Annotated[
        PositiveInt | None,
        Doc(
            "Distribute seeds and tasks over N devices (on a CPU: its cores); None for 1 device, or for all devices "
            "with --distributed."
        ),
    ] = None
    distributed: Annotated[
        str | None,
        Doc("Train with several processes: auto, or HOST:PORT,INDEX,PROCESSES; `metarl-jax train --help` says more."),
    ] = None
    checkpoint_every: Annotated[
        PositiveInt | None, Doc("Number of iterations between checkpoints; None for one every 15 seconds.")
    ] = None
    keep: Annotated[PositiveInt, Doc("Keep the last N checkpoints.")] = 3
    keep_best: Annotated[bool, Doc("Also keep the state with the best validation score.")] = False
    evaluation_tasks: Annotated[
        AtLeastTwo | None,
        Doc("New number of held-out tasks of the final table, which is stored; None for the stored number."),
    ] = None
    time_limit: Annotated[
        PositiveFloat | None, Doc("Save and stop after this number of minutes; None for no limit.")
    ] = None
    track: Annotated[
        tuple[str, ...],
        Doc(
            "Send metrics to wandb (Weights & Biases), or to your own tracker: FILE.py:NAME or PACKAGE.MODULE:NAME. "
            "The option may be given several times."
        ),
    ] = ()
    progress: Annotated[bool, Doc("Show a live display of the progress; otherwise print plain lines.")] = True


@dataclass(frozen=True, kw_only=True)
class NewStudy(NewRun):
    """Options of training a study."""

    vary: Annotated[
        tuple[str, ...],
        Doc(
            "SETTING=VALUE,... for each setting that varies. Each combination is compared with the combination of all "
            "first values."
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluate(Opening):
    """Options of an evaluation."""

    evaluation_tasks: Annotated[
        AtLeastTwo | None, Doc("Number of held-out tasks; None for the experiment's number.")
    ] = None
    evaluation_precision: Annotated[
        PositiveFloat | None,
        Doc(
            "Half-width of the 95 % interval that is enough: a pilot on 256 other held-out tasks determines how many "
            "tasks give it, and no more are tested. None to test all tasks."
        ),
    ] = None
    seed: Annotated[Seed, Doc("The random seed of the held-out tasks.")] = 0
    best: Annotated[bool, Doc("Evaluate the state that train --keep-best kept, instead of the last state.")] = False


@dataclass(frozen=True, kw_only=True)
class Listing(Settings):
    """Options of the list of experiments."""

    json: Annotated[bool, Doc("Print JSON, for programs.")] = False


@dataclass(frozen=True, kw_only=True)
class Report(Opening):
    """Options of a report."""

    output: Annotated[
        str | None,
        Doc("The path of the page; None for report.html, in the run or the study, or for several runs in this folder."),
    ] = None
    overwrite: Annotated[bool, Doc("Overwrite an existing file even if it is not a report.")] = False
    record: Annotated[bool, Doc("Play a trial for an animation; otherwise show an earlier recording, if any.")] = True


@dataclass(frozen=True, kw_only=True)
class Watch(Opening):
    """Options of watching a run."""

    once: Annotated[bool, Doc("Print the progress once, instead of until training is finished.")] = False


@dataclass(frozen=True, kw_only=True)
class Record(Opening):
    """Options of a recording."""

    seed: Annotated[Seed, Doc("The random seed of the held-out task.")] = 0


@dataclass(frozen=True, kw_only=True)
class Export(Opening):
    """Options of an export."""

    output: Annotated[
        str | None,
        Doc(
            "The path of the file, which must end in .safetensors (-o PATH, too); None for the run's name, in the "
            "current folder."
        ),
    ] = None
    seed: Annotated[Seed | None, Doc("The seed to export, if several were trained together; None for the first.")] = (
        None
    )
    best: Annotated[bool, Doc("Export the state that train --keep-best kept, instead of the last state.")] = False
    overwrite: Annotated[bool, Doc("Overwrite an existing agent file of that name.")] = False


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun(Settings):
    """Options of playing a learner on the frozen benchmark."""

    tier: Annotated[int, Interval(ge=1, le=3), Doc("The tier: 1 for minutes, 2 for an hour, 3 for an accelerator.")] = 1
    families: Annotated[
        tuple[str, ...], Doc("Play these families of the tier only, without an aggregate score; give one at a time.")
    ] = ()
    seeds: Annotated[int, Interval(ge=1, le=100), Doc("Number of seeds.")] = 3
    output: Annotated[str | None, Doc("The path of the file; None for LEARNER-tier-N.json in the current folder.")] = (
        None
    )
    overwrite: Annotated[bool, Doc("Overwrite an existing file.")] = False
    shifted: Annotated[bool, Doc("Also play shifted tasks, which do not enter the aggregate score.")] = True
    folder: Annotated[str, Doc("The folder of the run folders of an algorithm of the package.")] = "runs"
    minutes: Annotated[
        PositiveFloat | None,
        Doc("Time limit of training an algorithm on one family; call again to go on. None for no limit."),
    ] = None
    memory: Annotated[str | None, Doc("The network of an algorithm; None for the default one.")] = None
    iterations: Annotated[
        PositiveInt | None, Doc("The largest number of meta-iterations of an algorithm; None for the budget's.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkCheck(Settings):
    """Options of checking a file of the frozen benchmark."""

    remake: Annotated[bool, Doc("Also make the tasks anew and compare their digests.")] = True
    replay: Annotated[
        AtLeastTwo | None,
        Doc("Play the learner again on N random tasks of each split of each family, for each seed; needs --learner."),
    ] = None
    replay_seed: Annotated[int, Interval(ge=0), Doc("The seed of the choice of the tasks that are played again.")] = 0
    learner: Annotated[
        str | None, Doc("The learner of the file: FILE.py:NAME or PACKAGE.MODULE:NAME. Its code is executed.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkTable(Settings):
    """Options of a table of files of the frozen benchmark."""


RESERVED = {"memory", "network"} | {
    field.name
    for options in (NewStudy, Resume, Evaluate, Listing, Report, Watch, Record, Export)
    for field in dataclasses.fields(options)
}
"""The names of options. No setting of an experiment can have one of these names."""
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
    """Parse a command line.

    Args:
        options: the dataclass of the command's options.
        arguments: the words after the command and its names.
        program: the words before the arguments, for messages.
        description: the description of the command in one line.
        experiment: the experiment whose settings are options as well; None for no settings.
        defaults: the default values of the settings; None for those of the experiment.

    Returns:
        The options, and the settings that were given a value other than their default.

    Raises:
        SystemExit: after a message, if the command line is wrong or contains ``--help``.
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
    """Return the value of ``--memory``, on which the other options depend, and the other arguments."""
    import tyro

    field: Any = Annotated[str | None, tyro.conf.arg(aliases=["--network"])]
    kind = dataclasses.make_dataclass("Network", [("memory", field, None)])
    found: Any
    found, rest = tyro.cli(kind, args=list(arguments), return_unknown_args=True, add_help=False)
    return found.memory, list(rest)


def experiments_of(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the values of ``--experiment``, on which the other options depend, and the other arguments."""
    import tyro

    kind = dataclasses.make_dataclass("Experiments", [("experiment", tyro.conf.UseAppendAction[tuple[str, ...]], ())])
    found: Any
    found, rest = tyro.cli(kind, args=list(arguments), return_unknown_args=True, add_help=False)
    return found.experiment, list(rest)


def parse_value(field: Field, text: str, option: str) -> Any:
    """Parse the value of a setting.

    Args:
        field: the setting.
        text: the value that the user typed.
        option: the option that contains the value, for messages.

    Raises:
        SystemExit: after a message, if the text is not a value of the setting.
    """
    import tyro

    kind = dataclasses.make_dataclass("Value", [(field.name, field.annotation)], kw_only=True)
    arguments = [f"--{field.name.replace('_', '-')}", text]
    found: Any = tyro.cli(kind, args=arguments, prog=f"metarl-jax study NAME {option}", description="", add_help=False)
    return getattr(found, field.name)
