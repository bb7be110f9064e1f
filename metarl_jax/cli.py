"""``metarl-jax list | train NAME | evaluate RUN | report RUN... | record RUN``.

Exit codes: 0 done, 2 a mistake in what was asked for, 3 diverged, 4 the disk refused, 130 and 143 stopped by Ctrl-C
and SIGTERM. JAX is imported only by the commands that compute.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

import metarl_jax
from metarl_jax import experiments
from metarl_jax.checks import did_you_mean
from metarl_jax.runs.errors import Interrupted, Stop, UserError

if TYPE_CHECKING:
    from metarl_jax.runs.folder import RunConfig, RunFolder


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as UserError; names options near an unknown one."""

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
                raise UserError(f"unknown option {option}{did_you_mean(option, valid)}")
        if unknown:
            raise UserError(f"unexpected argument {unknown[0]!r}")
        return namespace


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


_seed = _whole(0, 2**32 - 1)


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
    add("--seed", type=_seed, metavar="N", help="random seed; default: 0")
    add("--seeds", type=_whole(1), metavar="N", help="train seeds SEED .. SEED+N-1 in one program; default: 1")
    add(
        "--devices",
        type=_whole(1),
        metavar="N",
        default=1,
        help="spread tasks over N devices, on a CPU its cores (equal to one device up to rounding); default: 1",
    )
    add("--evaluate-every", type=_whole(1), metavar="N", help="iterations between held-out evaluations")
    add("--checkpoint-every", type=_whole(1), metavar="N", help="iterations between checkpoints; default: by time")
    add(
        "--evaluation-tasks",
        type=_whole(2),
        metavar="N",
        help=f"held-out tasks of the final table; default: {experiment.heldout_tasks if experiment else 'its own'}",
    )
    add("--time-limit", type=_minutes, metavar="MINUTES", help="save and stop after this time")
    add("--no-progress", action="store_true", help="plain lines instead of a live display")
    if experiment is not None:
        defaults = {name: field.default for name, field in experiment.fields().items()}
        _add_settings(parser, experiment, defaults)
    return parser


def _add_settings(parser: _Parser, experiment: experiments.Experiment, defaults: Mapping[str, Any]) -> None:
    """An option for each setting of the experiment."""
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
    from metarl_jax.runs import compilation_cache, devices, evaluate, page, train
    from metarl_jax.runs.folder import RunConfig, RunFolder

    compilation_cache.enable()
    devices.prepare(options.devices)
    if options.resume is not None:
        folder = RunFolder(options.resume)
    else:
        path = options.run_dir or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        settings = experiment.with_overrides(overrides)
        config = RunConfig(
            experiment=experiment.name,
            settings=settings,
            seed=options.seed or 0,
            seeds=options.seeds or 1,
            evaluate_every=options.evaluate_every or train.default_evaluate_every(settings),
        )
        folder = train.new_run(path, config)
    print(f"run folder: {folder.path}", flush=True)
    live = sys.stdout.isatty() and not options.no_progress
    outcome = train.train(
        folder,
        train.Options(
            checkpoint_every=options.checkpoint_every,
            time_limit=options.time_limit,
            live=live,
            devices=options.devices,
        ),
    )
    if outcome.finished:
        try:
            evaluate.evaluate(folder, options.evaluation_tasks, {}, 0, _say)
            output = folder.path / "report.html"
            page.check_destination(output, overwrite=False)
            _report_on([folder], output, play=True, keep=True)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; the trained run is saved: metarl-jax evaluate {folder.path}") from None
    return outcome.exit_code


def _evaluate_parser(config: RunConfig | None) -> _Parser:
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
    if config is not None:
        _add_settings(parser, _experiment(config.experiment), config.settings)
    return parser


def _evaluate(arguments: Sequence[str]) -> int:
    # The run decides which options there are, and may stand after some of them.
    candidates = [Path(a) for a in arguments if not a.startswith("-")]
    folder = config = None
    if candidates:
        from metarl_jax.runs.folder import RunFolder

        folder = RunFolder(next((path for path in candidates if (path / "config.json").exists()), candidates[0]))
        config = folder.config
    options = _evaluate_parser(config).parse(arguments)
    if folder is None or options.run is None:
        raise UserError("evaluate needs a run folder")
    from metarl_jax.runs import compilation_cache, evaluate, report

    compilation_cache.enable()
    report.show(evaluate.evaluate(folder, options.evaluation_tasks, _settings(options), options.seed, _say))
    return 0


def _report(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="metarl-jax report", description="Tables of runs, and a page of them that opens anywhere.")
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run folder; several are compared")
    add("--output", type=Path, metavar="PAGE", help="default: report.html in the run's folder; here, of several runs")
    add("--overwrite", action="store_true", help="even a file that is no report")
    add("--no-record", action="store_true", help="play no trial for an animation; show what was recorded before")
    options = parser.parse(arguments)

    from metarl_jax.runs import compilation_cache, page
    from metarl_jax.runs.collect import unique

    folders = unique(options.runs)
    alone = len(folders) == 1 and options.output is None
    output: Path = options.output or (folders[0].path if alone else Path()) / "report.html"
    page.check_destination(output, options.overwrite)
    compilation_cache.enable()
    _report_on(folders, output, play=not options.no_record, keep=alone)
    return 0


def _record(arguments: Sequence[str]) -> int:
    parser = _Parser(prog="metarl-jax record", description="A video of a trial: of images seen, points or rooms.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the held-out task; default: 0")
    options = parser.parse(arguments)

    from metarl_jax.runs import record
    from metarl_jax.runs.folder import RunFolder

    folder = RunFolder(options.run)
    print(f"wrote {record.save(folder, record.render(folder, options.seed), options.seed)}")
    return 0


def _report_on(folders: Sequence[RunFolder], output: Path, *, play: bool, keep: bool) -> None:
    """Print tables and write a page; with ``keep``, also what belongs into the folder of a run."""
    from metarl_jax.runs import animation, collect, page, report

    runs = []
    for folder, label in zip(folders, collect.labels([folder.path for folder in folders]), strict=True):
        shown, problems = animation.of_run(folder, play=play, keep=keep)
        run = collect.collect(folder, label, shown, problems)
        for evaluation in run.evaluations:
            report.show(evaluation)
        if not run.evaluations:
            print(f"not measured yet: metarl-jax evaluate {folder.path}")
        elif keep:
            print(f"wrote {report.write(folder, run.evaluations)}")
        runs.append(run)
    page.write(output, runs)
    print(f"wrote {output}")


def _say(text: str) -> None:
    print(text, flush=True)


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "list": (_list, "name every experiment"),
    "train": (_train, "train an experiment, or go on with a run"),
    "evaluate": (_evaluate, "measure a run on held-out tasks"),
    "report": (_report, "a page about a run, or several side by side"),
    "record": (_record, "a video of a trial on a held-out task: of images seen, points or rooms"),
}


def _dispatch(arguments: Sequence[str]) -> int:
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
    """Run a command; return its exit code."""
    try:
        return _dispatch(sys.argv[1:] if arguments is None else arguments)
    except Stop as stop:
        print(f"metarl-jax: error: {' '.join(str(stop).split())}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("metarl-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (``| head``): nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
