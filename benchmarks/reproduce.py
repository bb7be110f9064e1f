"""A table of all published numbers that this package claims to reproduce, with the bar, our result and its origin.

    python benchmarks/reproduce.py                     # the table, from benchmarks/results
    python benchmarks/reproduce.py --readme            # put it into benchmarks/README.md
    python benchmarks/reproduce.py --run missing       # run what has no number yet; or all, or rows by number
    python benchmarks/reproduce.py --run 3 --minutes 60

Only the published numbers and the bars are written by hand. Our numbers, intervals, seeds, devices, times and commits
are read from the files that the benchmarks write. A bar is reached if every seed reaches it. If only the mean of the
seeds reaches it, the table says "on average".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from results_file import PAGE, read_rows, table, with_block

HERE = Path(__file__).resolve().parent


class Claim(NamedTuple):
    """One published or exact number, and the benchmark that reproduces it."""

    task: str
    """The tasks and the measure."""
    learner: str
    """The name of the learner."""
    source: str
    """The publication."""
    published: float | None
    """The published number. None if only figures were published; then the bar is a fraction of an exact value."""
    bar: float
    """The score that must be reached."""
    results: str
    """The name of the file in ``benchmarks/results``."""
    experiment: str
    """The experiment of the row in that file."""
    metric: str
    """The metric of the row in that file."""
    command: tuple[str, ...]
    """The benchmark and its arguments."""
    higher_is_better: bool = True
    """Whether a higher score is better."""
    data: bool = False
    """Whether the benchmark reads the folder with Omniglot."""
    limited: bool = True
    """Whether the benchmark has an option for a time limit."""
    variant: str | None = None
    """The variant of the row. None: any, preferably that of the preset's settings."""

    def row(self) -> dict[str, Any] | None:
        """Return the row of results, with its last stage if it has several; None if there is none yet."""

        def fits(row: dict[str, Any]) -> bool:
            experiment = row.get("experiment") or f"{row['learner']}-{row['family']}"
            named = (experiment, row["metric"]) == (self.experiment, self.metric)
            return named and self.variant in (None, row.get("variant"))

        found = min(filter(fits, read_rows(self.results)), key=lambda row: bool(row.get("variant")), default=None)
        if found is None or not isinstance(found["ours"], list):
            return found
        last = {name: found[name][-1] for name in ("ours", "ci95")}
        return found | last | {"by_seed": [stages[-1] for stages in found["by_seed"]]}

    def reached(self, row: dict[str, Any]) -> str:
        """Return whether every seed reaches the bar ("yes"), only their mean ("on average"), or neither ("no")."""
        sign = 1 if self.higher_is_better else -1
        if all(sign * score >= sign * self.bar for score in row["by_seed"]):
            return "yes"
        return "on average" if sign * row["ours"] >= sign * self.bar else "no"


def _rl2(task: str, learner: str, paper: float, bar: float, file: str, experiment: str, cell: str) -> Claim:
    source = "Mishra et al. 2018" if learner == "SNAIL" else "Duan et al. 2016"
    # The sizes of SNAIL need an accelerator.
    command = (f"{file}.py", "--cells", cell, *(["--together"] if learner == "SNAIL" else []))
    return Claim(task, learner, source, paper, bar, file, experiment, "trial_reward", command)


def _omniglot(
    learner: str, experiment: str, source: str, step: str, published: dict[tuple[int, int], float]
) -> list[Claim]:
    small = (5, 1)
    # The published interval of this number is ± 0.4 %.
    bars: dict[tuple[str, tuple[int, int]], float] = {("maml", small): 0.983}
    return [
        Claim(
            f"Omniglot, {classes} classes, {shots} example{'s' * (shots > 1)}: accuracy",
            learner,
            source,
            accuracy,
            bars.get((experiment, (classes, shots)), accuracy),
            "fewshot_omniglot",
            f"{experiment}-omniglot-{classes}x{shots}",
            f"accuracy after {step}",
            ("fewshot_omniglot.py", "--cells", experiment if (classes, shots) == small else "paper"),
            data=True,
        )
        for (classes, shots), accuracy in published.items()
    ]


def _gridnavi(what: str, bar: float, metric: str) -> Claim:
    command = ("gridnavi.py", "--cells", "varibad")
    source = "exact: Zintgraf et al. 2020"
    return Claim(f"GridNavi: {what}", "VariBAD", source, None, bar, "gridnavi", "varibad-gridnavi", metric, command)


def _after(
    task: str, published: dict[int, tuple[float, float]], file: str, experiment: str, measure: str
) -> list[Claim]:
    return [
        Claim(
            f"{task}, after {steps} gradient step{'s' * (steps != 1)}",
            "MAML",
            "Finn et al. 2017",
            paper,
            bar,
            file,
            experiment,
            f"{measure} after {steps} gradient step{'s' * (steps != 1)}",
            (f"{file}.py",),
            higher_is_better=measure != "mean squared error",
        )
        for steps, (paper, bar) in published.items()
    ]


def _robots(learner: str, experiment: str, task: str, metric: str, bar: float, variant: str, cell: str) -> Claim:
    source = "Rothfuss et al. 2019" if learner == "ProMP" else "Finn et al. 2017"
    command = ("locomotion.py", "--seeds", "1", "--cells", cell)
    return Claim(task, learner, source, None, bar, "locomotion", experiment, metric, command, variant=variant)


def _compared(task: str, family: str, bar: float) -> Claim:
    command = ("compare.py", "--families", family, "--learners", "pearl")
    measure = "return of an episode by stage"
    return Claim(task, "PEARL", "Rakelly et al. 2019", None, bar, "compare", f"pearl-{family}", measure, command)


def _speed(task: str, source: str, rate: float, experiment: str, metric: str) -> Claim:
    command = ("speed.py", "--experiments", experiment)
    return Claim(task, "RL²", source, rate, rate, "speed", experiment, f"{metric} on gpu", command, limited=False)


GAIN = "gain of the first gradient step"
SHARE = "share of the gain of a learner that observes the task"
BANDIT, MDP = "Bernoulli bandit, {} pulls, {} arms: reward of a trial", "random MDP, {} episodes: reward of a trial"
CLAIMS: tuple[Claim, ...] = (
    _rl2(BANDIT.format(10, 5), "RL²", 6.7, 6.62, "rl2_bandits", "rl2-bandit-10x5", "10x5"),
    _rl2(BANDIT.format(100, 5), "RL²", 78.7, 78.2, "rl2_bandits", "rl2-bandit-100x5", "100x5"),
    _rl2(BANDIT.format(100, 10), "RL²", 83.5, 83.2, "rl2_bandits", "rl2-bandit-100x10", "100x10"),
    _rl2(BANDIT.format(100, 50), "RL²", 84.9, 84.9, "rl2_bandits", "rl2-bandit-100x50", "100x50"),
    _rl2(BANDIT.format(500, 5), "RL²", 401.6, 401.6, "rl2_bandits", "rl2-bandit-500x5", "500x5"),
    _rl2(MDP.format(10), "RL²", 156.2, 156.2, "rl2_tabular_mdp", "rl2-tabular-mdp-10", "10"),
    _rl2(MDP.format(25), "RL²", 445.7, 445.7, "rl2_tabular_mdp", "rl2-tabular-mdp-25", "25"),
    _rl2(MDP.format(50), "RL²", 936.1, 936.1, "rl2_tabular_mdp", "rl2-tabular-mdp-50", "50"),
    *(
        _rl2(task, "SNAIL", paper, bar, "snail_bandits_mdps", f"rl2-snail-{experiment}", f"snail-{cell}")
        for task, paper, bar, experiment, cell in (
            (BANDIT.format(100, 5), 79.1, 78.5, "bandit-100x5", "100x5"),
            (BANDIT.format(100, 10), 83.5, 83.5, "bandit-100x10", "100x10"),
            (MDP.format(10), 159.1, 159.1, "tabular-mdp-10", "10"),
            (MDP.format(25), 447.2, 445.7, "tabular-mdp-25", "25"),
        )
    ),
    _gridnavi("reward of 4 episodes (37.21 at best)", 36.0, "reward of a trial"),
    _gridnavi("reward of episode 1 (4.00 at best over all)", 3.5, "reward of episode 1"),
    _gridnavi("reward of episode 3 (11.07 at best)", 10.8, "reward of episode 3"),
    _gridnavi("reward of episode 4 (11.07 at best)", 10.8, "reward of episode 4"),
    *_after(
        "sinusoid, 5 points: mean squared error",
        {1: (0.67, 0.67), 5: (0.38, 0.38), 10: (0.35, 0.35)},
        "maml_sinusoid",
        "maml-sinusoid",
        "mean squared error",
    ),
    *_after(
        "point navigation: return",
        # The bars allow for the noise of the published numbers, which are means over 40 tasks.
        {1: (-11.68, -11.7), 3: (-3.23, -3.5)},
        "maml_navigation",
        "maml-navigation",
        "return of an episode",
    ),
    *_omniglot(
        "MAML",
        "maml",
        "Finn et al. 2017",
        "3 gradient steps",
        {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
    ),
    *_omniglot(
        "Reptile",
        "reptile",
        "Nichol et al. 2018",
        "50 gradient steps",
        {(5, 1): 0.9768, (5, 5): 0.9948, (20, 1): 0.8943, (20, 5): 0.9712},
    ),
    *_omniglot("SNAIL", "snail", "Mishra et al. 2018", "1 reading", {(5, 1): 0.9907}),
    *_omniglot("Meta Network", "meta-network", "Munkhdalai & Yu 2017", "1 reading", {(5, 1): 0.9895}),
    Claim(
        "sparse points: goals met within 5 episodes",
        "PEARL",
        "Rakelly et al. 2019",
        None,
        # Exact posterior sampling with one draw per episode, on goals that are uniform on the half-circle.
        0.588,
        "pearl_point_robot",
        "pearl-point-robot-sparse",
        "goals met within 5 episodes",
        ("pearl_point_robot.py", "--cells", "sparse"),
    ),
    # The bars are the better ends of the intervals of an evaluation that did not follow the published protocol.
    _compared("point navigation: return of the last episode", "navigation", -33.4),
    _compared("half-circle: return of the last episode", "half-circle", 23.6),
    _compared("CartPole: return of the last episode", "cartpole", 197.4),
    *(
        _robots(
            learner,
            f"{method}-half-cheetah-direction",
            f"half cheetah, direction, {horizon} steps: {SHARE}",
            SHARE,
            0.5,
            variant,
            f"{method}-half-cheetah-direction{suffix}",
        )
        for horizon, variant, suffix in ((100, "", ""), (200, "200 steps an episode, 20 million steps", "-long"))
        for learner, method in (("MAML", "maml"), ("ProMP", "promp"))
    ),
    *(
        _robots(learner, experiment, f"{task}: {metric}", metric, bar, "20 million steps", f"{experiment}-long")
        for learner, experiment, task, metric, bar in (
            ("MAML", "maml-half-cheetah-velocity", "half cheetah, velocity", GAIN, 0.0),
            # Standing still earns 200.
            ("ProMP", "promp-ant-direction", "ant, direction", "return of an episode after 1 gradient step", 220.0),
            ("ProMP", "promp-walker-parameters", "walkers", GAIN, 0.0),
        )
    ),
    Claim(
        "Meta-World ML1 push, 150 steps: success rate",
        "RL²",
        "Yu et al. 2019",
        None,
        # The better end of the interval of the earlier recipe, 31 %.
        0.375,
        "manipulation",
        "rl2-ml1-push",
        "success rate after 2 episodes",
        ("manipulation.py", "--cells", "rl2-ml1-push", "--seeds", "1"),
    ),
    _speed(
        "XLand-MiniGrid on one GPU: training steps a second",
        "Nikulin et al. 2023",
        0.72e6,
        "rl2-xland-made-up",
        "training",
    ),
    _speed(
        "Bernoulli bandits on one GPU: environment steps a second",
        "Lange 2022",
        12.5e6,
        "rl2-bandit-10x5",
        "environment",
    ),
)
HEADER = ("", "task", "learner", "published", "bar", "here (95 %)", "reached", "seeds", "minutes", "device", "commit")


def _number(x: float) -> str:
    return f"{x:.4g}" if abs(x) < 1 else f"{x:.2f}" if abs(x) < 1e4 else f"{x:,.0f}"


def cells(number: int, claim: Claim) -> tuple[str, ...]:
    """Return a row of the table."""
    published = "a figure" if claim.published is None else _number(claim.published)
    known = str(number), claim.task, claim.learner, f"{published} ({claim.source})", _number(claim.bar)
    row = claim.row()
    if row is None:
        return (*known, "not yet", "", "", "", "", "")
    low, high = row["ci95"]
    ours = f"**{_number(row['ours'])}** ({_number(low)} to {_number(high)})"
    ours += f", {row['variant']}" if row.get("variant") else ""
    minutes = f"{row['train_wall_s'] / 60:.0f}"
    return (*known, ours, claim.reached(row), str(row["seeds"]), minutes, row["device"], row["commit"])


def shown() -> str:
    """Return the table in Markdown."""
    return table(HEADER, (cells(number, claim) for number, claim in enumerate(CLAIMS, 1)))


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    return with_block(page, "reproduce.py", shown())


def chosen(asked: Sequence[str]) -> list[Claim]:
    """Return the claims that the command line selects.

    Raises:
        ValueError: if a word is not "all", "missing" or the number of a row.
    """
    if list(asked) == ["all"]:
        return list(CLAIMS)
    if list(asked) == ["missing"]:
        return [claim for claim in CLAIMS if claim.row() is None]
    numbers = {str(number): claim for number, claim in enumerate(CLAIMS, 1)}
    for number in asked:
        if number not in numbers:
            raise ValueError(f'--run takes "all", "missing", or numbers from 1 to {len(CLAIMS)}, not {number!r}')
    return [numbers[number] for number in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--list", action="store_true", help="show the table, which is also what is done without options"
    )
    parser.add_argument("--readme", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--run", nargs="+", metavar="ROW", help="all, missing, or numbers of rows")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of each benchmark; call again to go on")
    parser.add_argument("--data-dir", help="where omniglot.npz is, for rows that need it")
    arguments = parser.parse_args()
    try:
        claims = chosen(arguments.run or [])
    except ValueError as error:
        parser.error(str(error))
    if any(claim.data for claim in claims) and not arguments.data_dir:
        parser.error("these rows read Omniglot: say where it is with --data-dir")
    # Several rows often come from the same command.
    commands = dict.fromkeys((claim.command, claim.data, claim.limited) for claim in claims)
    failed = []
    for (script, *options), data, limited in commands:
        command = [sys.executable, str(HERE / script), *options]
        command += ["--minutes", str(arguments.minutes)] * limited
        command += ["--data-dir", arguments.data_dir] * data
        print(f"== {script} {' '.join(options)}", flush=True)
        if subprocess.run(command, cwd=HERE, check=False).returncode:
            failed.append(script)
    if arguments.readme:
        PAGE.write_text(with_table(PAGE.read_text()))
    print(shown())
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
