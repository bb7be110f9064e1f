"""The program ``metarl-jax COMMAND``: list, train, resume, study, watch, evaluate, report, record, benchmark or export.

The exit codes are:

- 0: The command is done.
- 2: The command line, a setting, or a file that the command needs is wrong.
- 3: Training diverged.
- 4: The run folder, or the output of a command that only prints, cannot be written.
- 5: Another process of the same run is gone.
- 128 + n: Signal n stopped the command, after training saved its state (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138
  SIGUSR1).
- 141: The reader of the output of a command that only prints has closed it.

Training continues when its output cannot be written. Only the commands that compute import JAX.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metarl_jax
from metarl_jax import checks, experiments, references
from metarl_jax.checks import did_you_mean
from metarl_jax.runs import commands, interrupts, process, streams
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.files import printable

if TYPE_CHECKING:
    from metarl_jax import options as opt
    from metarl_jax.runs.folder import RunFolder
    from metarl_jax.runs.study_folder import StudyFolder
    from metarl_jax.runs.tracking import Named
    from metarl_jax.runs.train import Options as TrainingOptions

STUDY_SEEDS = 5
"""The number of seeds of each combination of a study without ``--seeds``."""


def _names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first option, and the remaining arguments."""
    number = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return list(arguments[:number]), list(arguments[number:])


def _experiment(command: str, words: Sequence[str], rest: list[str]) -> tuple[experiments.Experiment, list[str]]:
    """Return the experiment that the first words name, and the remaining options.

    Raises:
        UserError: if the words do not name an experiment.
    """
    if not words:
        raise UserError(
            f"{command} needs the name of an experiment, or of an algorithm and a family of tasks, before any option "
            "(metarl-jax list)"
        )
    most = 1 if words[0] in experiments.names() or references.is_reference(words[0]) else 2
    if len(words) > most:
        raise UserError(f"unexpected argument {words[most]!r}")
    try:
        if len(words) == 1:
            return experiments.find(words[0]), rest
        from metarl_jax import options

        network, rest = options.network_of(rest)
        return experiments.combination(words[0], words[1], network), rest
    except ValueError as error:
        raise UserError(str(error)) from None


def _existing(command: str, arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the folder that the only word names, and the options.

    Raises:
        UserError: if there is no word before the options, or more than one.
    """
    words, rest = _names(arguments)
    if not words:
        raise UserError(f"{command} needs the folder of a run before any option")
    if len(words) > 1:
        raise UserError(f"unexpected argument {words[1]!r}")
    return Path(words[0]), rest


def _asks_help(arguments: Sequence[str]) -> bool:
    return any(word in ("-h", "--help") for word in arguments)


def _list(arguments: Sequence[str]) -> int:
    from metarl_jax import listing

    words, rest = _names(arguments)
    if rest:
        from metarl_jax import options

        program = "metarl-jax list"
        asked, _ = options.parse(options.Listing, rest, program=program, description=listing.DESCRIPTION)
        as_json = asked.json
    else:
        as_json = False
    print(listing.as_json(words) if as_json else listing.as_text(words))
    return 0


def _train(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    words, rest = _names(arguments)
    help_alone = not words and _asks_help(rest)
    experiment = None
    if not help_alone:
        experiment, rest = _experiment("train", words, rest)
    asked, overrides = options.parse(
        options.NewRun,
        rest,
        program=" ".join(["metarl-jax train", *(words or ["NAME"])]),
        description=experiment.description
        if experiment
        else "Train an experiment (NAME), an algorithm on a family of tasks (ALGORITHM FAMILY), or an experiment of "
        "your own (FILE.py:NAME or PACKAGE.MODULE:NAME). `metarl-jax train NAME --help` lists its settings.",
        experiment=experiment,
    )
    assert experiment is not None
    seed, seeds = _checked_seeds(asked, 1)
    streams.results_are_files()
    from metarl_jax.runs import hosts, train
    from metarl_jax.runs.folder import RunConfig, RunFolder, default_evaluate_every

    trackers = _prepare(asked)
    path = Path(asked.run_dir) if asked.run_dir else _default_folder(experiment, "")
    settings = experiment.with_overrides(overrides)
    config = RunConfig(
        experiment=experiment.name,
        settings=settings,
        seed=seed,
        seeds=seeds,
        evaluate_every=asked.evaluate_every or default_evaluate_every(settings),
        evaluation_tasks=asked.evaluation_tasks,
        source=experiments.source(experiment.name),
    )
    made = hosts.on_first(lambda: train.new_run(path, config, numbered=asked.run_dir is None))
    return _run_training(RunFolder(Path(hosts.share_text("" if made is None else str(made.path)))), asked, trackers)


def _default_folder(experiment: experiments.Experiment, prefix: str) -> Path:
    name = experiment.name.replace(" ", "-").replace("_", "-")
    return Path("runs") / f"{prefix}{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _run_training(folder: RunFolder, asked: opt.Training | opt.Resume, trackers: tuple[Named, ...]) -> int:
    from metarl_jax.runs import hosts, train

    interrupts.go_on_with(train.resume_command(folder))
    print(f"run folder: {folder.path}", flush=True)
    outcome = train.train(folder, _training_options(asked, trackers))
    if outcome.finished and hosts.first():
        # These imports are late so that training starts sooner.
        from metarl_jax.reports import page
        from metarl_jax.runs import evaluate

        evaluate.evaluate(folder, folder.config.evaluation_tasks, {}, 0, _say)
        output = folder.path / "report.html"
        page.check_destination(output, overwrite=False)
        _report_on([folder], output, play=True, keep=True)
    return outcome.exit_code


def _resume(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(arguments)
    path, rest = (Path("RUN"), list(arguments)) if _asks_help(arguments) else _existing("resume", arguments)
    asked, _ = options.parse(
        options.Resume,
        rest,
        program=f"metarl-jax resume {path}",
        description="Continue a run or a study exactly where it stopped. Its settings cannot be changed.",
    )
    streams.results_are_files()
    from metarl_jax.runs import hosts, own, study_folder
    from metarl_jax.runs.folder import RunFolder

    kind = study_folder.StudyFolder if os.path.lexists(path / study_folder.CONFIG) else RunFolder
    folder: RunFolder | StudyFolder = kind(path)
    own.resolve("resume", [folder], named)
    trackers = _prepare(asked)
    if asked.evaluation_tasks is not None:
        name = study_folder.CONFIG if kind is study_folder.StudyFolder else "config.json"
        hosts.on_first(lambda: _keep_evaluation_tasks(path / name, asked.evaluation_tasks))
        folder = kind(path)
    if isinstance(folder, RunFolder):
        return _run_training(folder, asked, trackers)
    return _run_study(folder, asked, trackers)


def _checked_seeds(asked: opt.Training, number: int) -> tuple[int, int]:
    """Return the first seed and the number of seeds, by default 0 and ``number``.

    Raises:
        UserError: if they are out of range.
    """
    try:
        return checks.seed_range(asked.seed or 0, asked.seeds or number)
    except ValueError as error:
        raise UserError(f"--seed, --seeds: {error}") from None


def _keep_evaluation_tasks(file: Path, tasks: int | None) -> None:
    """Store the number of held-out tasks that was given to ``resume``.

    Args:
        file: the stored configuration, in the folder of the run or the study.
        tasks: the number of held-out tasks.

    Raises:
        UserError: if another process trains the run or the study.
        StorageError: if the number cannot be stored.
    """
    from metarl_jax.runs.files import read_json, write_json
    from metarl_jax.runs.folder import lock

    content = read_json(file)
    if tasks == content.get("evaluation_tasks"):
        return
    with lock(file.parent), storing(f"write {file}"):
        write_json(file, {**content, "evaluation_tasks": tasks})


def _prepare(asked: opt.Training | opt.Resume) -> tuple[Named, ...]:
    """Prepare devices, and join other processes.

    Returns:
        The trackers that the user named. Only the first process has them.

    Raises:
        UserError: if the devices, processes or trackers do not exist.
    """
    from metarl_jax.runs import compilation_cache, devices, hosts, tracking

    compilation_cache.enable()
    processes = hosts.join(asked.distributed) if asked.distributed is not None else 1
    devices.prepare(asked.devices, processes)
    hosts.speak_once()
    return hosts.on_first(lambda: tracking.load(asked.track)) or ()


def _training_options(asked: opt.Training | opt.Resume, trackers: tuple[Named, ...]) -> TrainingOptions:
    from metarl_jax.runs import train

    return train.Options(
        checkpoint_every=asked.checkpoint_every,
        time_limit=asked.time_limit,
        live=sys.stdout.isatty() and asked.progress,
        devices=asked.devices,
        keep=asked.keep,
        keep_best=asked.keep_best,
        trackers=trackers,
    )


def _varied(
    experiment: experiments.Experiment, given: Sequence[str], overrides: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Parse the values of each ``--vary``.

    Raises:
        UserError: if a text does not have the form SETTING=VALUE,..., if it names no setting or a setting that has
            already a value, or if a value has the wrong type.
    """
    from metarl_jax import options

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
        found[name] = [options.parse_value(fields[name], value, "--vary") for value in values.split(",")]
    return found


def _study(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    words, rest = _names(arguments)
    experiment = None
    if words or not _asks_help(rest):
        experiment, rest = _experiment("study", words, rest)
    asked, overrides = options.parse(
        options.NewStudy,
        rest,
        program=" ".join(["metarl-jax study", *(words or ["NAME"])]),
        description="Train an experiment under every combination of some settings, and compare the results. NAME may "
        "be FILE.py:NAME or PACKAGE.MODULE:NAME. `metarl-jax study NAME --help` lists its settings.",
        experiment=experiment,
    )
    assert experiment is not None
    vary = _varied(experiment, asked.vary, overrides)
    seed, seeds = _checked_seeds(asked, STUDY_SEEDS)
    streams.results_are_files()
    from metarl_jax.runs import hosts, study, study_folder

    trackers = _prepare(asked)
    config = study_folder.StudyConfig(
        experiment=experiment.name,
        settings=experiment.with_overrides({**overrides, **{name: values[0] for name, values in vary.items()}}),
        vary=vary,
        seed=seed,
        seeds=seeds,
        evaluate_every=asked.evaluate_every,
        evaluation_tasks=asked.evaluation_tasks,
        source=experiments.source(experiment.name),
    )
    path = Path(asked.run_dir) if asked.run_dir else _default_folder(experiment, "study-")
    made = hosts.on_first(lambda: study.new_study(path, config, numbered=asked.run_dir is None))
    folder = study_folder.StudyFolder(Path(hosts.share_text("" if made is None else str(made.path))))
    return _run_study(folder, asked, trackers)


def _run_study(folder: StudyFolder, asked: opt.Training | opt.Resume, trackers: tuple[Named, ...]) -> int:
    from metarl_jax.runs import hosts, study

    interrupts.go_on_with(study.resume_command(folder))
    print(f"study folder: {folder.path}", flush=True)
    code = study.run(folder, _training_options(asked, trackers), folder.config.evaluation_tasks, _say)
    if code == 0 and hosts.first() and os.path.lexists(folder.path / "table.json"):
        from metarl_jax.reports import page

        result, output = study.read(folder), folder.path / "report.html"
        study.show(result)
        page.check_destination(output, overwrite=False)
        page.write_study(output, folder, result)
        print(f"wrote {output}")
    return code


def _evaluate(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(arguments)
    words, rest = _names(arguments)
    folder = experiment = None
    if words or not _asks_help(rest):
        path, rest = _existing("evaluate", arguments)
        from metarl_jax.runs import own
        from metarl_jax.runs.folder import RunFolder

        folder = RunFolder(path)
        (experiment,) = own.resolve("evaluate", [folder], named)
        try:
            experiment.check_settings(folder.config.settings)
        except ValueError as error:
            raise UserError(f"{folder.path} cannot be evaluated: {error}") from None
    asked, changes = options.parse(
        options.Evaluate,
        rest,
        program=" ".join(["metarl-jax evaluate", *(words or ["RUN"])]),
        description="Evaluate a run and reference learners on held-out tasks. `metarl-jax evaluate RUN --help` lists "
        "the settings that may differ from training.",
        experiment=experiment,
        defaults=folder.config.settings if folder else None,
    )
    assert folder is not None and experiment is not None
    measure = experiment.measure
    if measure.setting is not None and (wrong := f"{measure.stage}s".replace(" ", "_")) in changes.keys() - {
        measure.setting
    }:
        raise UserError(
            f"--{wrong.replace('_', '-')} is a setting of training: to evaluate another number of {measure.stage}s, "
            f"use --{measure.setting.replace('_', '-')}"
        )
    streams.results_are_files()
    from metarl_jax.runs import compilation_cache, devices, evaluate, report

    compilation_cache.enable()
    devices.prepare()
    report.show(
        evaluate.evaluate(
            folder,
            asked.evaluation_tasks,
            changes,
            asked.seed,
            _say,
            best=asked.best,
            precision=asked.evaluation_precision,
        )
    )
    return 0


def _report(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(arguments)
    words, rest = _names(arguments)
    if not words and not _asks_help(rest):
        raise UserError("report needs the folder of a run, or of several, before any option")
    asked, _ = options.parse(
        options.Report,
        rest,
        program="metarl-jax report RUN...",
        description="Print tables of one or more runs, or of a study, and write an HTML page about them. For a study, "
        "also write its tables and figures as files.",
    )
    runs = [Path(word) for word in words]
    streams.results_are_files()
    from metarl_jax.reports import page
    from metarl_jax.runs import own

    if len(runs) == 1 and os.path.lexists(runs[0] / "study.json"):
        from metarl_jax.runs import study, study_folder

        folder = study_folder.StudyFolder(runs[0])
        own.resolve("report", [folder], named)
        output = Path(asked.output) if asked.output else folder.path / "report.html"
        page.check_destination(output, asked.overwrite)
        result = study.read(folder)
        study.show(result)
        for path in study.write(folder, result):
            print(f"wrote {path}")
        page.write_study(output, folder, result)
        print(f"wrote {output}")
        return 0

    from metarl_jax.reports.collect import unique
    from metarl_jax.runs import compilation_cache, devices

    folders = unique(runs)
    own.resolve("report", folders, named)
    alone = len(folders) == 1 and asked.output is None
    output = Path(asked.output) if asked.output else (folders[0].path if alone else Path()) / "report.html"
    page.check_destination(output, asked.overwrite)
    compilation_cache.enable()
    if asked.record:
        devices.prepare()
    _report_on(folders, output, play=asked.record, keep=alone)
    return 0


def _watch(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(arguments)
    path, rest = (Path("RUN"), list(arguments)) if _asks_help(arguments) else _existing("watch", arguments)
    asked, _ = options.parse(
        options.Watch,
        rest,
        program=f"metarl-jax watch {path}",
        description="Show the progress of a run or a study while it trains.",
    )
    from metarl_jax.runs import own, watch

    folder = watch.folder(path)
    own.resolve("watch", [folder], named)
    followers = watch.followers(folder)
    if asked.once or not sys.stdout.isatty():
        while not watch.say(followers, print) and not asked.once:
            sys.stdout.flush()
            time.sleep(10)
        return 0
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while not watch.say(followers, lambda text: live.update(text, refresh=True)):
            time.sleep(1)
    return 0


def _record(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(arguments)
    path, rest = (Path("RUN"), list(arguments)) if _asks_help(arguments) else _existing("record", arguments)
    asked, _ = options.parse(
        options.Record,
        rest,
        program=f"metarl-jax record {path}",
        description="Record a video of a trial on a held-out task.",
    )
    streams.results_are_files()
    from metarl_jax.runs import devices, own, record
    from metarl_jax.runs.folder import RunFolder

    folder = RunFolder(path)
    own.resolve("record", [folder], named)
    devices.prepare()
    print(f"wrote {record.save(folder, record.render(folder, asked.seed), asked.seed)}")
    return 0


def _export(arguments: Sequence[str]) -> int:
    from metarl_jax import options

    named, arguments = options.experiments_of(["--output" if word == "-o" else word for word in arguments])
    path, rest = (Path("RUN"), list(arguments)) if _asks_help(arguments) else _existing("export", arguments)
    asked, _ = options.parse(
        options.Export,
        rest,
        program=f"metarl-jax export {path}",
        description="Write a trained learner to a file that metarl_jax.load reads. The file holds weights, names and "
        "settings, but no code.",
    )
    streams.results_are_files()
    from metarl_jax.runs import agent_files, own
    from metarl_jax.runs.folder import RunFolder

    folder = RunFolder(path)
    own.resolve("export", [folder], named)
    output = Path(asked.output) if asked.output else Path(f"{folder.path.resolve().name}{agent_files.SUFFIX}")
    agent = agent_files.load(folder.path, seed=asked.seed, best=asked.best)
    print(f"wrote {agent_files.save(output, agent, overwrite=asked.overwrite)}")
    return 0


def _benchmark(arguments: Sequence[str]) -> int:
    from metarl_jax import options
    from metarl_jax.benchmark import commands as benchmark

    if not arguments or arguments[0] in ("-h", "--help"):
        print(benchmark.USAGE)
        return 0 if arguments else 2
    if arguments[0] not in benchmark.COMMANDS:
        known = benchmark.COMMANDS
        raise UserError(f"there is no command benchmark {arguments[0]!r}{did_you_mean(arguments[0], known)}")
    command = benchmark.COMMANDS[arguments[0]]
    words, rest = _names(["--output" if word == "-o" else word for word in arguments[1:]])
    kind = getattr(options, command.options)
    program = f"metarl-jax benchmark {arguments[0]} {command.words}"
    asked, _ = options.parse(kind, rest, program=program, description=command.description)
    if command.writes:
        streams.results_are_files()
    return command.run(words, asked, _say)


def _report_on(folders: Sequence[RunFolder], output: Path, *, play: bool, keep: bool) -> None:
    """Print tables of runs, and write a page about them.

    Args:
        folders: the runs.
        output: the path of the page.
        play: whether to play a trial for an animation if there is no video of the newest checkpoint.
        keep: whether to write the tables and the video into the run folders as well.
    """
    from metarl_jax.reports import animation, collect, page
    from metarl_jax.runs import report

    runs = []
    for folder, label in zip(folders, collect.labels([folder.path for folder in folders]), strict=True):
        shown, problems = animation.of_run(folder, play=play, keep=keep)
        run = collect.collect(folder, label, shown, problems)
        for evaluation in run.evaluations:
            report.show(evaluation)
        if not run.evaluations:
            print(f"not evaluated yet: {commands.on_folder('evaluate', folder.path, folder.config.experiment)}")
        elif keep:
            print(f"wrote {report.write(folder, run.evaluations)}")
        runs.append(run)
    page.write(output, runs)
    print(f"wrote {output}")


def _say(text: str) -> None:
    print(printable(text), flush=True)


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "list": (_list, "list algorithms, families of tasks, and their combinations"),
    "train": (_train, "train an experiment, or an algorithm on a family of tasks"),
    "resume": (_resume, "continue a run or a study"),
    "study": (_study, "train an experiment under several settings, and compare the results"),
    "watch": (_watch, "show the progress of a run or a study from another terminal"),
    "evaluate": (_evaluate, "evaluate a run on held-out tasks"),
    "report": (_report, "write a page about one or more runs, or about a study"),
    "record": (_record, "record a video of a trial on a held-out task"),
    "benchmark": (_benchmark, "play the frozen benchmark, check its files, and compare them"),
    "export": (_export, "write a trained learner to a file that Python programs load"),
}


def dispatch(arguments: Sequence[str]) -> int:
    """Run a command, and return its exit code.

    Raises:
        Stop: if the command cannot do its work.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: metarl-jax COMMAND ...\n")
        for name, (_, description) in _COMMANDS.items():
            print(f"  {name:10}{description}")
        print("\nmetarl-jax COMMAND --help lists the options of a command.")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(metarl_jax.__version__)
        return 0
    if arguments[0] not in _COMMANDS:
        raise UserError(f"there is no command {arguments[0]!r}{did_you_mean(arguments[0], _COMMANDS)}")
    return _COMMANDS[arguments[0]][0](arguments[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    Args:
        arguments: the words after ``metarl-jax``. None for those of the process, which then must do nothing else.
    """
    return process.run(lambda: dispatch(sys.argv[1:] if arguments is None else arguments), alone=arguments is None)
