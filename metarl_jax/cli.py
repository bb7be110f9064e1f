"""``metarl-jax list | train NAME | study NAME | watch RUN | evaluate RUN | report RUN... | record RUN``.

Exit codes: 0 done; 2 a mistake in what was asked for; 3 training diverged; 4 the run folder, or the output of a command
that only prints, cannot be written; 5 another process of the same run is gone; 128 + n stopped by signal n (130 Ctrl-C,
143 SIGTERM, 129 SIGHUP, 138 SIGUSR1), after training has saved; 141 the reader of a command that only prints has gone.
Training goes on when its output cannot be written. JAX is imported only by the commands that compute.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

import metarl_jax
from metarl_jax import checks, experiments
from metarl_jax.checks import did_you_mean
from metarl_jax.runs import commands, interrupts, process, streams
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.files import printable

if TYPE_CHECKING:
    from metarl_jax.experiments.base import Measure
    from metarl_jax.runs.folder import RunConfig, RunFolder
    from metarl_jax.runs.study_folder import StudyConfig, StudyFolder
    from metarl_jax.runs.train import Options as TrainingOptions


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as UserError; names options near an unknown one."""

    measure: Measure | None = None
    """What the options are about, where it is known: its stages are often asked for by their name."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """All arguments, or UserError."""
        namespace, unknown = self.parse_known_args(arguments)
        for argument in unknown:
            if argument.startswith("-"):
                option = argument.partition("=")[0]
                valid = [o for action in self._actions for o in action.option_strings]
                meant = _meant(self.measure, option.removeprefix("--").replace("-", "_"))
                raise UserError(f"unknown option {option}{meant or did_you_mean(option, valid)}")
        if unknown:
            raise UserError(f"unexpected argument {unknown[0]!r}")
        return namespace


def _meant(measure: Measure | None, name: str) -> str:
    """The option for the number of stages of a measure, where a name is that of its stages and not of the setting."""
    if measure is None or measure.setting in (None, name) or name != f"{measure.stage}s".replace(" ", "_"):
        return ""
    return f": the number of {measure.stage}s that are measured is --{measure.setting.replace('_', '-')}"


def _converter(annotation: Any) -> Callable[[str], Any]:
    """A function from an option's text to a value of the annotated type; raises ArgumentTypeError."""

    def convert(text: str) -> Any:
        def wrong(wanted: str) -> argparse.ArgumentTypeError:
            return argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")

        if get_origin(annotation) is Literal:
            valid = get_args(annotation)
            if text not in valid:
                raise wrong(f"one of {', '.join(valid)}{did_you_mean(text, valid)}")
            return text
        if annotation is bool:
            if text.lower() not in ("true", "false"):
                raise wrong("true or false")
            return text.lower() == "true"
        try:
            return annotation(text)
        except ValueError:
            raise wrong("a whole number" if annotation is int else "a number") from None

    if not (get_origin(annotation) is Literal or annotation in (bool, int, float, str)):
        raise TypeError(f"no option can have the type {annotation!r}")
    return convert


def _whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A converter to whole numbers in a range."""

    def convert(text: str) -> int:
        value = _converter(int)(text)
        if not least <= value <= most:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}, not {text!r}")
        return value

    return convert


def _minutes(text: str) -> float:
    value = _converter(float)(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a finite number of minutes above 0, not {text!r}")
    return value


STUDY_SEEDS = 5
"""Seeds of each cell of a study where ``--seeds`` does not say."""
_seed = _whole(0, checks.LAST_SEED)


def _checked_seeds(options: argparse.Namespace, number: int) -> tuple[int, int]:
    """The first seed and the number of seeds, by default 0 and ``number``; UserError if they are out of range."""
    try:
        return checks.seed_range(options.seed or 0, options.seeds or number)
    except ValueError as error:
        raise UserError(f"--seed, --seeds: {error}") from None


def _list(arguments: Sequence[str]) -> int:
    _Parser(prog="metarl-jax list", description="Name every experiment.").parse(arguments)
    width = max(len(name) for name in experiments.names())
    for name in experiments.names():
        print(f"{name:{width}}  {experiments.get(name).description}")
    return 0


def _experiment(name: str) -> experiments.Experiment:
    try:
        return experiments.get(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def _known_experiment(path: Path, name: str) -> experiments.Experiment:
    """The experiment of a run or a study; UserError if this version does not have it."""
    if name not in experiments.names():
        near = did_you_mean(name, experiments.names())
        raise UserError(f"{path} is of the experiment {name!r}, which this version of metarl_jax does not have{near}")
    return experiments.get(name)


def _train_parser(experiment: experiments.Experiment | None) -> _Parser:
    """The options of ``train``; with those of the experiment's settings where it is known."""
    parser = _Parser(
        prog="metarl-jax train",
        description="Train an experiment; `metarl-jax train NAME --help` lists its settings.",
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="an experiment (metarl-jax list)")
    add("--run-dir", type=Path, metavar="PATH", help="a new folder for the run; default: runs/NAME-date-time")
    add("--resume", type=Path, metavar="RUN", help="go on with the run in this folder, exactly")
    add("--seeds", type=_whole(1), metavar="N", help="train seeds SEED .. SEED+N-1 in one program; default: 1")
    _add_training_options(parser, experiment)
    if experiment is not None:
        defaults = {name: field.default for name, field in experiment.fields().items()}
        _add_settings(parser, experiment, defaults)
    return parser


def _add_training_options(parser: _Parser, experiment: experiments.Experiment | None) -> None:
    """The options that ``train`` and ``study`` share."""
    add = parser.add_argument
    add("--seed", type=_seed, metavar="N", help="random seed; default: 0")
    add(
        "--devices",
        type=_whole(1),
        metavar="N",
        help="spread seeds and tasks over N devices, on a CPU its cores (equal to one device up to rounding); "
        "default: 1, with --distributed all",
    )
    add(
        "--distributed",
        metavar="auto|HOST:PORT,INDEX,PROCESSES",
        help="one of several processes that train together and see the same folders: its INDEX, from 0, their number, "
        "and the address of the first; auto where the cluster knows",
    )
    add("--evaluate-every", type=_whole(1), metavar="N", help="iterations between validations")
    add("--checkpoint-every", type=_whole(1), metavar="N", help="iterations between checkpoints; default: by time")
    add("--keep", type=_whole(1), metavar="N", default=3, help="keep the last N checkpoints; default: 3")
    add("--keep-best", action="store_true", help="keep the state with the best validation score, too")
    add(
        "--evaluation-tasks",
        type=_whole(2),
        metavar="N",
        help="held-out tasks of the final table, and validation tasks of a study's; kept for --resume; default: "
        f"{experiment.heldout_tasks if experiment else 'by experiment'}",
    )
    add("--time-limit", type=_minutes, metavar="MINUTES", help="save and stop after this time")
    add("--no-progress", action="store_true", help="plain lines instead of a live display")


def _add_settings(parser: _Parser, experiment: experiments.Experiment, defaults: Mapping[str, Any]) -> None:
    """An option for each setting of the experiment."""
    parser.measure = experiment.measure
    group = parser.add_argument_group(f"settings of {experiment.name}")
    for name, field in experiment.fields().items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"setting:{name}",
            type=_converter(field.annotation),
            metavar="|".join(get_args(field.annotation)) or field.annotation.__name__.upper(),
            help=f"{field.description} Default: {defaults[name]}".replace("%", "%%"),
        )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given."""
    given = {k.removeprefix("setting:"): v for k, v in vars(options).items() if k.startswith("setting:")}
    return {name: value for name, value in given.items() if value is not None}


def _train(arguments: Sequence[str]) -> int:
    finder = _Parser(add_help=False)
    finder.add_argument("--resume", type=Path)
    resumed: Path | None = finder.parse_known_args(arguments)[0].resume
    stored: RunConfig | None = None
    if resumed is not None:
        from metarl_jax.runs.folder import RunFolder

        stored = RunFolder(resumed).config
        _known_experiment(resumed, stored.experiment)
        name: str | None = stored.experiment
    else:
        # The name decides which options there are, and may stand after some of them.
        first = arguments[0] if arguments and not arguments[0].startswith("-") else None
        name = next((a for a in arguments if a in experiments.names()), first)
    experiment = _experiment(name) if name is not None else None
    options = _train_parser(experiment).parse(arguments)
    if experiment is None:
        raise UserError("train needs the name of an experiment (metarl-jax list), or --resume RUN")
    overrides = _settings(options)
    if stored is not None:
        _refuse_contradictions(stored, options, overrides)
    return _run_training(experiment, options, overrides)


def _refuse_contradictions(stored: RunConfig, options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """UserError for the first option that differs from what the run was started with."""
    if options.run_dir is not None:
        raise UserError("--run-dir is for new runs; --resume goes on in the folder that it names")
    asked = {"seed": options.seed, "seeds": options.seeds, "evaluate_every": options.evaluate_every}
    before = {"seed": stored.seed, "seeds": stored.seeds, "evaluate_every": stored.evaluate_every, **stored.settings}
    if options.name not in (None, stored.experiment):
        raise UserError(f"{options.resume} is a run of {stored.experiment}, not of {options.name}")
    for name, value in {**asked, **overrides}.items():
        if value is not None and value != before.get(name):
            option = name.replace("_", "-")
            raise UserError(f"--{option} {value} contradicts the run in {options.resume}: it has {before.get(name)}")


def _run_training(experiment: experiments.Experiment, options: argparse.Namespace, overrides: dict[str, Any]) -> int:
    seed, seeds = _checked_seeds(options, 1)
    streams.results_are_files()
    from metarl_jax.reports import page
    from metarl_jax.runs import compilation_cache, evaluate, hosts, train
    from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every

    compilation_cache.enable()
    _prepare(options)
    if options.resume is not None:
        folder = RunFolder(options.resume)
        if options.evaluation_tasks is not None:
            file, config = folder.path / "config.json", folder.config
            hosts.on_first(lambda: _keep_evaluation_tasks(file, config, options.evaluation_tasks))
            folder = RunFolder(options.resume)
    else:
        path = options.run_dir or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        settings = experiment.with_overrides(overrides)
        config = RunConfig(
            experiment=experiment.name,
            settings=settings,
            seed=seed,
            seeds=seeds,
            evaluate_every=options.evaluate_every or default_evaluate_every(settings),
            evaluation_tasks=options.evaluation_tasks,
        )
        made = hosts.on_first(lambda: train.new_run(path, config, numbered=options.run_dir is None))
        folder = RunFolder(Path(hosts.share_text("" if made is None else str(made.path))))
    interrupts.go_on_with(train.resume_command(folder))
    print(f"run folder: {folder.path}", flush=True)
    outcome = train.train(folder, _training_options(options))
    if outcome.finished and hosts.first():
        evaluate.evaluate(folder, folder.config.evaluation_tasks, {}, 0, _say)
        output = folder.path / "report.html"
        page.check_destination(output, overwrite=False)
        _report_on([folder], output, play=True, keep=True)
    return outcome.exit_code


def _keep_evaluation_tasks(file: Path, config: RunConfig | StudyConfig, tasks: int) -> None:
    """Store the number of held-out tasks that was given at a resume.

    Args:
        file: the stored configuration, in the folder of the run or the study.
        config: what is stored there.
        tasks: the number.

    Raises:
        UserError: if another process trains the run or the study.
        StorageError: if the number cannot be stored.
    """
    from metarl_jax.runs.files import write_json
    from metarl_jax.runs.folder import lock

    if tasks == config.evaluation_tasks:
        return
    with lock(file.parent), storing(f"write {file}"):
        write_json(file, dataclasses.asdict(dataclasses.replace(config, evaluation_tasks=tasks)))


def _prepare(options: argparse.Namespace) -> None:
    """Devices, and other processes."""
    from metarl_jax.runs import devices, hosts

    processes = hosts.join(options.distributed) if options.distributed is not None else 1
    devices.prepare(options.devices, processes)
    hosts.speak_once()


def _training_options(options: argparse.Namespace) -> TrainingOptions:
    from metarl_jax.runs import train

    return train.Options(
        checkpoint_every=options.checkpoint_every,
        time_limit=options.time_limit,
        live=sys.stdout.isatty() and not options.no_progress,
        devices=options.devices,
        keep=options.keep,
        keep_best=options.keep_best,
    )


def _study_parser(experiment: experiments.Experiment | None) -> _Parser:
    """The options of ``study``; with those of the experiment's settings where it is known."""
    parser = _Parser(
        prog="metarl-jax study",
        description="Train an experiment under every combination of some settings, and compare them; "
        "`metarl-jax study NAME --help` lists settings.",
    )
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="an experiment (metarl-jax list)")
    add(
        "--vary",
        action="append",
        metavar="SETTING=VALUE,...",
        help="values of a setting; the first ones are what others are compared with; may be given several times",
    )
    add("--run-dir", type=Path, metavar="PATH", help="a new folder for the study; default: runs/study-NAME-date-time")
    add("--resume", type=Path, metavar="STUDY", help="go on with the study in this folder; what is trained stays")
    add(
        "--seeds",
        type=_whole(1),
        metavar="N",
        help=f"seeds SEED .. SEED+N-1 for each combination; default: {STUDY_SEEDS}",
    )
    _add_training_options(parser, experiment)
    if experiment is not None:
        defaults = {name: field.default for name, field in experiment.fields().items()}
        _add_settings(parser, experiment, defaults)
    return parser


def _varied(
    experiment: experiments.Experiment, given: Sequence[str], overrides: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """The values of each ``--vary``.

    Raises:
        UserError: if it is not of the form SETTING=VALUE,..., names no setting or one twice, or a value is of another
            type.
    """
    fields, found = experiment.fields(), dict[str, list[Any]]()
    for text in given:
        option, equals, values = text.partition("=")
        name = option.replace("-", "_")
        if not equals or not values:
            raise UserError(f"--vary must be SETTING=VALUE,..., not {text!r}")
        if name not in fields:
            raise UserError(f"{experiment.name} has no setting {option!r}{did_you_mean(name, fields)}")
        if name in found:
            raise UserError(f"--vary names {name} twice")
        if name in overrides:
            raise UserError(f"{name} cannot both vary and be {overrides[name]}")
        try:
            found[name] = [_converter(fields[name].annotation)(value) for value in values.split(",")]
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--vary {name}: {error}") from None
    return found


def _study(arguments: Sequence[str]) -> int:
    finder = _Parser(add_help=False)
    finder.add_argument("--resume", type=Path)
    resumed: Path | None = finder.parse_known_args(arguments)[0].resume
    first = arguments[0] if arguments and not arguments[0].startswith("-") else None
    name = next((a for a in arguments if a in experiments.names()), first) if resumed is None else None
    experiment = _experiment(name) if name is not None else None
    options = _study_parser(experiment).parse(arguments)
    if resumed is not None:
        for option in ("name", "vary", "run_dir", "seed", "seeds", "evaluate_every"):
            if getattr(options, option) is not None:
                raise UserError(f"--{option.replace('_', '-')} is for new studies; --resume goes on with {resumed}")
    elif experiment is None:
        raise UserError("study needs the name of an experiment (metarl-jax list), or --resume STUDY")
    _checked_seeds(options, STUDY_SEEDS)
    streams.results_are_files()
    from metarl_jax.runs import compilation_cache, hosts, study, study_folder

    compilation_cache.enable()
    _prepare(options)
    folder = study_folder.StudyFolder(options.resume) if experiment is None else _new_study(experiment, options)
    _known_experiment(folder.path, folder.config.experiment)
    if options.evaluation_tasks is not None:
        file, config = folder.path / study_folder.CONFIG, folder.config
        hosts.on_first(lambda: _keep_evaluation_tasks(file, config, options.evaluation_tasks))
        folder = study_folder.StudyFolder(folder.path)
    interrupts.go_on_with(study.resume_command(folder))
    print(f"study folder: {folder.path}", flush=True)
    code = study.run(folder, _training_options(options), folder.config.evaluation_tasks, _say)
    if code == 0 and hosts.first() and os.path.lexists(folder.path / "table.json"):
        study.show(study.read(folder))
    return code


def _new_study(experiment: experiments.Experiment, options: argparse.Namespace) -> StudyFolder:
    from metarl_jax.runs import hosts, study, study_folder

    overrides = _settings(options)
    vary = _varied(experiment, options.vary or [], overrides)
    seed, seeds = _checked_seeds(options, STUDY_SEEDS)
    config = study_folder.StudyConfig(
        experiment=experiment.name,
        settings=experiment.with_overrides({**overrides, **{name: values[0] for name, values in vary.items()}}),
        vary=vary,
        seed=seed,
        seeds=seeds,
        evaluate_every=options.evaluate_every,
        evaluation_tasks=options.evaluation_tasks,
    )
    path = options.run_dir or Path("runs") / f"study-{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    made = hosts.on_first(lambda: study.new_study(path, config, numbered=options.run_dir is None))
    return study_folder.StudyFolder(Path(hosts.share_text("" if made is None else str(made.path))))


def _evaluate_parser(experiment: experiments.Experiment | None, config: RunConfig | None) -> _Parser:
    """The options of ``evaluate``; with those of the run's settings where it is known."""
    parser = _Parser(
        prog="metarl-jax evaluate",
        description="Measure a run and its oracles on held-out tasks; `metarl-jax evaluate RUN --help` lists settings.",
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--evaluation-tasks", type=_whole(2), metavar="N", help="held-out tasks; default: by experiment"
    )
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the held-out tasks; default: 0")
    parser.add_argument("--best", action="store_true", help="the state that train --keep-best kept, not the last one")
    if experiment is not None and config is not None:
        defaults = {name: config.settings.get(name, field.default) for name, field in experiment.fields().items()}
        _add_settings(parser, experiment, defaults)
    return parser


def _evaluate(arguments: Sequence[str]) -> int:
    # The run decides which options there are, and may stand after some of them.
    candidates = [Path(a) for a in arguments if not a.startswith("-")]
    folder = config = experiment = None
    if candidates:
        from metarl_jax.runs.folder import RunFolder

        folder = RunFolder(next((path for path in candidates if os.path.lexists(path / "config.json")), candidates[0]))
        config = folder.config
        experiment = _known_experiment(folder.path, config.experiment)
    options = _evaluate_parser(experiment, config).parse(arguments)
    if folder is None or options.run is None or experiment is None:
        raise UserError("evaluate needs a run folder")
    changes = _settings(options)
    for name in changes:
        if meant := _meant(experiment.measure, name):
            raise UserError(f"--{name.replace('_', '-')} is a setting of training{meant}")
    streams.results_are_files()
    from metarl_jax.runs import compilation_cache, devices, evaluate, report

    compilation_cache.enable()
    devices.prepare()
    report.show(evaluate.evaluate(folder, options.evaluation_tasks, changes, options.seed, _say, best=options.best))
    return 0


def _report(arguments: Sequence[str]) -> int:
    parser = _Parser(
        prog="metarl-jax report",
        description="Tables of runs, and a page of them that opens anywhere; tables and figures of a study.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run folder; several are compared; or that of a study")
    add("--output", type=Path, metavar="PAGE", help="default: report.html in the run's folder; here, of several runs")
    add("--overwrite", action="store_true", help="even a file that is no report")
    add("--no-record", action="store_true", help="play no trial for an animation; show what was recorded before")
    options = parser.parse(arguments)
    streams.results_are_files()
    if len(options.runs) == 1 and os.path.lexists(options.runs[0] / "study.json"):
        from metarl_jax.runs import study, study_folder

        folder = study_folder.StudyFolder(options.runs[0])
        _known_experiment(folder.path, folder.config.experiment)
        result = study.read(folder)
        study.show(result)
        for path in study.write(folder, result):
            print(f"wrote {path}")
        return 0

    from metarl_jax.reports import page
    from metarl_jax.reports.collect import unique
    from metarl_jax.runs import compilation_cache, devices

    folders = unique(options.runs)
    for run in folders:
        _known_experiment(run.path, run.config.experiment)
    alone = len(folders) == 1 and options.output is None
    output: Path = options.output or (folders[0].path if alone else Path()) / "report.html"
    page.check_destination(output, options.overwrite)
    compilation_cache.enable()
    if not options.no_record:
        devices.prepare()
    _report_on(folders, output, play=not options.no_record, keep=alone)
    return 0


def _watch(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="metarl-jax watch", description="Where a run or a study is, while it trains.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run or a study")
    parser.add_argument("--once", action="store_true", help="say it once instead of until training is finished")
    options = parser.parse(arguments)

    from metarl_jax.runs import watch

    _known_experiment(options.run, watch.config(options.run).experiment)
    followers = watch.followers(options.run)
    if options.once or not sys.stdout.isatty():
        while not watch.say(followers, print) and not options.once:
            sys.stdout.flush()
            time.sleep(10)
        return 0
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while not watch.say(followers, lambda text: live.update(text, refresh=True)):
            time.sleep(1)
    return 0


def _record(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="metarl-jax record", description="A video of a trial: of images seen, points or rooms.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the held-out task; default: 0")
    options = parser.parse(arguments)

    streams.results_are_files()
    from metarl_jax.runs import devices, record
    from metarl_jax.runs.folder import RunFolder

    folder = RunFolder(options.run)
    _known_experiment(folder.path, folder.config.experiment)
    devices.prepare()
    print(f"wrote {record.save(folder, record.render(folder, options.seed), options.seed)}")
    return 0


def _report_on(folders: Sequence[RunFolder], output: Path, *, play: bool, keep: bool) -> None:
    """Print tables and write a page; with ``keep``, also what belongs into the folder of a run."""
    from metarl_jax.reports import animation, collect, page
    from metarl_jax.runs import report

    runs = []
    for folder, label in zip(folders, collect.labels([folder.path for folder in folders]), strict=True):
        shown, problems = animation.of_run(folder, play=play, keep=keep)
        run = collect.collect(folder, label, shown, problems)
        for evaluation in run.evaluations:
            report.show(evaluation)
        if not run.evaluations:
            print(f"not measured yet: {commands.command('evaluate', folder.path)}")
        elif keep:
            print(f"wrote {report.write(folder, run.evaluations)}")
        runs.append(run)
    page.write(output, runs)
    print(f"wrote {output}")


def _say(text: str) -> None:
    print(printable(text), flush=True)


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "list": (_list, "name every experiment"),
    "train": (_train, "train an experiment, or go on with a run"),
    "study": (_study, "train an experiment under several settings, and compare them"),
    "watch": (_watch, "where a run or a study is, from another terminal"),
    "evaluate": (_evaluate, "measure a run on held-out tasks"),
    "report": (_report, "a page about a run, or several side by side; tables and figures of a study"),
    "record": (_record, "a video of a trial on a held-out task: of images seen, points or rooms"),
}


def dispatch(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code.

    Raises:
        Stop: if the command cannot do what was asked for.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: metarl-jax COMMAND ...\n")
        for name, (_, description) in _COMMANDS.items():
            print(f"  {name:10}{description}")
        print("\nmetarl-jax COMMAND --help tells more.")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(metarl_jax.__version__)
        return 0
    if arguments[0] not in _COMMANDS:
        raise UserError(f"there is no command {arguments[0]!r}{did_you_mean(arguments[0], _COMMANDS)}")
    return _COMMANDS[arguments[0]][0](arguments[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    Args:
        arguments: what follows ``metarl-jax``; None: what the process was started with, which then does nothing else.
    """
    return process.run(lambda: dispatch(sys.argv[1:] if arguments is None else arguments), alone=arguments is None)
