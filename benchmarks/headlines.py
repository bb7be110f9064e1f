"""The tables of README.md: results of each kind of learner by families of tasks, applications, and speed against peers.

    python benchmarks/headlines.py             # print the tables, from benchmarks/results
    python benchmarks/headlines.py --readme    # put them into README.md

The scores, intervals, published numbers and rates are read from the files that the benchmarks write.
``benchmarks/README.md`` has the protocols.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from applications import APPLICATIONS, HELDOUT
from results_file import PAGE, read_rows, table, with_block

README = PAGE.parent.parent / "README.md"
PROGRAM = "headlines.py"
SPEED = "headlines.py, speed"
IN_USE = "headlines.py, applications"


def find(results: str, experiment: str, metric: str, variant: str = "") -> dict[str, Any]:
    """The row of a results file.

    Raises:
        ValueError: if the file does not have exactly one such row.
    """
    wanted = (experiment, metric, variant)
    found = [row for row in read_rows(results) if (row["experiment"], row["metric"], row.get("variant", "")) == wanted]
    if len(found) != 1:
        raise ValueError(f"{results}.json must have one row for {wanted}, not {len(found)}")
    return found[0]


class Headline(NamedTuple):
    """A row of the table of results."""

    task: str
    learner: str
    results: str
    """The file in ``benchmarks/results``."""
    experiment: str
    metric: str
    reference: str = ""
    """A name among the row's references, whose number is shown; or a name for ``value``."""
    value: float | None = None
    """The number of ``reference`` where the row has no references; None and no references: the row's ``oracle``."""
    variant: str = ""
    percent: bool = False
    at: int | None = None
    """The position of the number, where the row has a list of them."""


_BANDIT, _MDP = "Bernoulli bandit, {} pulls, {} arms", "random MDP, {} episodes"
_GITTINS, _INDEX = "Gittins index", "index in every state"
_KNOWN, _RANDOM = "best play, goal known", "random"
_GRIDNAVI, _TRIAL, _BAYES = "GridNavi, 4 episodes", "reward of a trial", "Bayes-optimal"
_NAVIGATION, _THIRD = "point navigation, return, 3 steps", "return of an episode after 3 gradient steps"
_FIRST = "return of an episode after 1 gradient step"
_CHEETAH, _LAST = "half-cheetah direction, return", "reward of a trial after 2 episodes"
_NO_TRAINING = "from scratch, gradient descent (0.5)"
_RL2, _SNAIL, _MDPS = "rl2_bandits", "snail_bandits_mdps", "rl2_tabular_mdp"
_OF_TRIAL = "trial_reward"
HEADLINES = (
    Headline(_BANDIT.format(10, 5), "RL², GRU", _RL2, "rl2-bandit-10x5", _OF_TRIAL, _BAYES),
    Headline(_BANDIT.format(100, 5), "RL², GRU", _RL2, "rl2-bandit-100x5", _OF_TRIAL, _GITTINS),
    Headline(_BANDIT.format(100, 5), "RL², SNAIL", _SNAIL, "rl2-snail-bandit-100x5", _OF_TRIAL, _GITTINS),
    Headline(_MDP.format(10), "RL², SNAIL", _SNAIL, "rl2-snail-tabular-mdp-10", _OF_TRIAL, _INDEX, 162.9),
    Headline(_GRIDNAVI, "RL²", "gridnavi", "rl2-gridnavi", _TRIAL, _BAYES),
    Headline(_GRIDNAVI, "VariBAD", "gridnavi", "varibad-gridnavi", _TRIAL, _BAYES),
    Headline(_NAVIGATION, "MAML-TRPO", "maml_navigation", "maml-navigation", _THIRD, _KNOWN),
    Headline(
        _CHEETAH,
        "PEARL, episode 4",
        "locomotion",
        "pearl-half-cheetah-direction",
        "return of the last episode after 4 episodes",
        _RANDOM,
        variant="published sizes",
    ),
    Headline(_CHEETAH, "RL², episode 2", "locomotion", "rl2-half-cheetah-direction", _LAST, _RANDOM),
    Headline(_CHEETAH, "MAML-TRPO, 1 step", "locomotion", "maml-half-cheetah-direction", _FIRST, _NO_TRAINING),
    Headline(
        "Meta-World ML1 reach, success",
        "RL²",
        "manipulation",
        "rl2-ml1-reach",
        "success rate after 2 episodes",
        _RANDOM,
        percent=True,
    ),
    Headline(
        "sinusoids, squared error, 5 steps",
        "MAML",
        "maml_sinusoid",
        "maml-sinusoid",
        "mean squared error after 5 gradient steps",
    ),
    Headline(
        "Omniglot, 5-way 1-shot, accuracy",
        "MAML",
        "fewshot_omniglot",
        "maml-omniglot-5x1",
        "accuracy after 3 gradient steps",
        variant="3000 iterations",
        percent=True,
    ),
)
NAMES = {
    _KNOWN: "goal known",
    _NO_TRAINING: "from scratch",
}
"""Shorter names of references."""
HEADER = ("tasks", "learner", "here (95 % interval)", "published", "reference", "seeds")
APPLICATIONS_HEADER = ("application", "preset", "here (95 % interval)", "best simple reference", "ceiling", "share")
SPEED_HEADER = ("workload", "here", "peer", "ratio")


def _number(x: float, percent: bool) -> str:
    if percent:
        return f"{100 * x:.1f} %"
    size = abs(x)
    return f"{x:.0f}" if size >= 1000 else f"{x:.1f}" if size >= 100 else f"{x:.2f}" if size >= 1 else f"{x:.3f}"


def _reference(headline: Headline, row: dict[str, Any]) -> float:
    name = headline.reference
    # A reference learner can have a row of its own.
    wanted = headline.experiment, headline.metric, f"reference: {name}"
    for other in read_rows(headline.results):
        if (other["experiment"], other["metric"], other.get("variant")) == wanted:
            return other["ours"] if headline.at is None else other["ours"][headline.at]
    if name in (references := row.get("references") or {}):
        return references[name] if headline.at is None else references[name][headline.at]
    if name in (gains := row.get("gains") or {}):
        return gains[name]["theirs"]
    return headline.value if headline.value is not None else row["oracle"]


def cells(headline: Headline) -> tuple[str, ...]:
    """A row of the table of results."""
    row = find(headline.results, headline.experiment, headline.metric, headline.variant)
    ours, interval = row["ours"], row["ci95"]
    if headline.at is not None:
        ours, interval = ours[headline.at], interval[headline.at]
    score, low, high = (_number(x, headline.percent) for x in (ours, *interval))
    published = "" if row.get("paper") is None else _number(row["paper"], headline.percent)
    reference = ""
    if headline.reference:
        name = NAMES.get(headline.reference, headline.reference)
        reference = f"{_number(_reference(headline, row), headline.percent)}, {name}"
    here = f"**{score}** ({low.removesuffix(' %')} to {high})"
    return headline.task, headline.learner, here, published, reference, str(row["seeds"])


def results() -> str:
    """The table of results, in Markdown."""
    return table(HEADER, map(cells, HEADLINES))


def applications() -> str:
    """The table of applications, in Markdown: for each, the learner with the largest gain on held-out tasks."""
    best: dict[str, dict[str, Any]] = {}
    for row in read_rows("applications"):
        known = best.get(row["application"])
        if row["tasks"] == HELDOUT and (known is None or row["gain"][0] > known["gain"][0]):
            best[row["application"]] = row

    def cells(key: str) -> tuple[str, ...]:
        row = best[key]
        references = row["references"]
        ours, low, high, bar, ceiling = (
            _number(x, percent=False)
            for x in (row["ours"], *row["ci95"], references[row["bar"]], references[row["ceiling"]])
        )
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        return APPLICATIONS[key].title, row["learner"], f"**{ours}** ({low} to {high})", bar, ceiling, share

    return table(APPLICATIONS_HEADER, (cells(key) for key in APPLICATIONS if key in best))


def speeds() -> str:
    """The table of speed against peers, in Markdown."""

    def cells(workload: str, ours: float, peer: float, name: str, unit: str) -> tuple[str, ...]:
        here, theirs = (f"{x:,.0f}" if x >= 10 else f"{x:.2f}" for x in (ours, peer))
        ratio = ours / peer
        return workload, f"{here} {unit}", f"{theirs}, {name}", f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"

    rows, steps = [], "steps/s"
    row = find("gradient_speed", "maml-trpo", "training_speed")
    ours, peer = row["env_steps_per_s"], row["learn2learn_env_steps_per_s"]
    rows.append(cells("MAML-TRPO, point navigation", ours, peer, "learn2learn", steps))
    for name, algorithm in (("rl2", "RL²"), ("varibad", "VariBAD")):
        row = find("gridnavi", f"{name}-gridnavi", "training steps per second at published sizes")
        rows.append(cells(f"{algorithm}, GridNavi", row["ours"], row["peer"], "the authors' program", steps))
    row = find("xland_speed", "same network", "training_speed")
    ours, peer = row["env_steps_per_s_by_minibatches"]["4"], row["peer_env_steps_per_s"]
    rows.append(cells("RL², XLand-MiniGrid", ours, peer, "xminigrid's script (JAX)", steps))
    row = find("pearl_point_robot", "pearl-point-robot-dense", "gradient steps per second", "published sizes")
    rows.append(cells("PEARL, point robot", row["ours"], row["peer"], "the authors' program", "updates/s"))
    row = find("gradient_speed", "images, 5 inner steps", "training_speed")
    ours, peer = row["updates_per_s"], row["torch_compiled_updates_per_s"]
    rows.append(cells("MAML on images, 5 inner steps", ours, peer, "PyTorch, compiled", "updates/s"))
    row = find("gradient_speed", "waves, 1 inner step", "training_speed")
    ours, peer = row["updates_per_s"], row["torch_compiled_updates_per_s"]
    rows.append(cells("MAML on sinusoids", ours, peer, "PyTorch, compiled", "updates/s"))
    return table(SPEED_HEADER, rows)


def with_tables(readme: str) -> str:
    """README.md with the tables as they are now."""
    for program, text in ((PROGRAM, results()), (IN_USE, applications()), (SPEED, speeds())):
        readme = with_block(readme, program, text)
    return readme


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    if parser.parse_args().readme:
        README.write_text(with_tables(README.read_text()))
    print(results())
    print(applications())
    print(speeds())


if __name__ == "__main__":
    main()
