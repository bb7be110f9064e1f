"""Evaluate all oracles on all cells of the tables of RL² (Duan et al. 2016): bandits (table 1), random MDPs (table 2).

    python benchmarks/oracles.py --minutes 10

The benchmark prints the mean ± standard error of this package, the result of an independent NumPy simulation of the
same policy if there is one, and the published value. The column z is the deviation from the simulation, in standard
errors of the difference. Each cell is written to ``benchmarks/results/oracles.json`` when it is done. Cells that the
file already has are left out, unless ``--again`` is given.

The published settings of greedy, ε-greedy, UCB1, OTS, OPSRL, UCRL2 and BEB are not known, so their values need not
agree.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metarl_jax.environments import bandits as bandit_environments
from metarl_jax.environments import tabular_mdp as mdp_environments
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import bandits, tabular_mdp
from metarl_jax.types import EnvFamily

RESULTS = Path(__file__).parent / "results" / "oracles.json"
SOURCE_BANDITS = "Duan et al. 2016, Table 1"
SOURCE_MDPS = "Duan et al. 2016, Table 2"
REFERENCE_SOURCE = "independent NumPy simulation of the same policy, or a closed form"

BANDIT_COLUMNS = (
    "random",
    "gittins",
    "thompson_sampling",
    "optimistic_thompson_sampling",
    "ucb1",
    "epsilon_greedy",
    "greedy",
)
# The published row of each (pulls, arms), in the order of the columns.
PUBLISHED_BANDITS = {
    (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6),
    (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6),
    (10, 50): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5),
    (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8),
    (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1),
    (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0),
    (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6),
    (500, 10): (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0),
    (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8),
}
SIMULATED_COLUMNS = ("gittins", "thompson_sampling", "optimistic_thompson_sampling", "greedy_posterior_mean")
# The (mean, standard error) of each (pulls, arms), in the order of the columns.
SIMULATED_BANDITS: dict[tuple[int, int], tuple[tuple[float, float], ...]] = {
    (10, 5): ((6.665, 0.004), (5.833, 0.003), (5.982, 0.003), (6.631, 0.004)),
    (10, 10): ((6.709, 0.003), (5.580, 0.003), (5.622, 0.003), (6.698, 0.003)),
    (10, 50): ((6.716, 0.003), (5.141, 0.003), (5.143, 0.003), (6.712, 0.003)),
    (100, 5): ((78.60, 0.04), (74.98, 0.04), (75.86, 0.04), (75.73, 0.05)),
    (100, 10): ((83.81, 0.03), (77.10, 0.03), (78.21, 0.03), (79.31, 0.04)),
    (100, 50): ((85.61, 0.02), (64.51, 0.01), (64.56, 0.01), (80.34, 0.04)),
    (500, 5): ((409.3, 0.5), (403.3, 0.5), (404.5, 0.5)),
    (500, 10): ((442.0, 0.3), (430.9, 0.3), (432.9, 0.3)),
    (500, 50): ((465.1, 0.2), (426.3, 0.15), (428.6, 0.15)),
}

MDP_COLUMNS = ("random", "psrl", "opsrl", "ucrl2", "beb", "epsilon_greedy", "greedy")
PUBLISHED_MDPS = {
    10: (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8),
    25: (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8),
    50: (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3),
    75: (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9),
    100: (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5),
}
# The (mean, standard error) by the number of episodes. The error of greedy was not stored; that of psrl is used.
SIMULATED_PSRL = {10: (133.7, 0.7), 25: (403.0, 1.5), 50: (900.0, 3.0), 75: (1414.0, 4.5), 100: (1936.0, 6.0)}
SIMULATED_GREEDY = {10: (150.1, 0.7), 25: (423.6, 1.5), 50: (895.0, 3.0), 75: (1370.0, 4.5), 100: (1848.0, 6.0)}


class TableRow(NamedTuple):
    """One oracle at one size of the tasks."""

    experiment: str
    """The name of the cell."""
    policy: str
    """The name of the oracle."""
    episodes: int
    """The number of episodes (pulls of a bandit) of a trial."""
    arms: int | None
    """The number of arms; None for random MDPs."""
    trials: int
    """The number of held-out tasks."""
    reference: tuple[float, float] | None
    """The mean and standard error of the same policy in an independent computation; None if there is none."""
    published: float | None
    """The published value; None if there is none."""


def cells() -> list[TableRow]:
    """Return all cells, the cheapest sizes first."""
    result = []
    bandit_trials = {10: 40_000, 100: 10_000, 500: 2_000}
    for (pulls, arms), published in PUBLISHED_BANDITS.items():
        references = dict(zip(SIMULATED_COLUMNS, SIMULATED_BANDITS[pulls, arms], strict=False))
        references |= {"best_arm": (pulls * arms / (arms + 1), 0.0), "random": (pulls / 2, 0.0)}
        papers: dict[str, float] = dict(zip(BANDIT_COLUMNS, published, strict=True))
        for policy in (*BANDIT_COLUMNS, "greedy_posterior_mean", "best_arm"):
            trials = bandit_trials[pulls] // (2 if arms == 50 and "thompson" in policy else 1)
            paper = papers.get(policy)
            result.append(
                TableRow(f"bandit-{pulls}x{arms}", policy, pulls, arms, trials, references.get(policy), paper)
            )
    mdp_trials = {10: 4000, 25: 2000, 50: 1000, 75: 1000, 100: 1000}
    for episodes, published in PUBLISHED_MDPS.items():
        references = {
            "psrl": SIMULATED_PSRL[episodes],
            "greedy": SIMULATED_GREEDY[episodes],
            "random": (10.0 * episodes, 0.0),
            "optimal": (21.83 * episodes, 0.02 * episodes),
        }
        papers = dict(zip(MDP_COLUMNS, published, strict=True))
        for policy in (*MDP_COLUMNS, "optimal"):
            paper = papers.get(policy)
            reference = references.get(policy)
            result.append(TableRow(f"mdp-{episodes}", policy, episodes, None, mdp_trials[episodes], reference, paper))
    return sorted(result, key=lambda cell: (cell.episodes * (cell.arms or 20), cell.experiment))


def evaluate(cell: TableRow, seed: int) -> tuple[np.ndarray, float]:
    """Return the total reward of each trial, ``[trials]``, and the seconds of the evaluation, including compilation."""
    start = time.perf_counter()
    family: EnvFamily = mdp_environments.make() if cell.arms is None else bandit_environments.bernoulli(cell.arms)
    oracle = getattr(tabular_mdp if cell.arms is None else bandits, cell.policy)(family, cell.episodes)

    def totals(key: jax.Array) -> jax.Array:
        evaluation = meta_test(key, oracle.adapt, (), family.tasks, num_tasks=cell.trials, batch_size=1000)
        return evaluation.score.sum(axis=-1)[0]

    rewards = np.asarray(jax.jit(totals)(jax.random.key(seed)), np.float64)
    return rewards, time.perf_counter() - start


def commit() -> str:
    """Return the checked-out commit, marked if the working tree differs from it."""
    try:
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def row(cell: TableRow, rewards: np.ndarray, seconds: float) -> dict[str, Any]:
    """Return a row of the results file."""
    mean = float(rewards.mean())
    standard_error = float(rewards.std() / math.sqrt(len(rewards)))
    horizon = 10 if cell.arms is None else 1
    exact = cell.arms is not None and cell.episodes <= 10
    paper = SOURCE_MDPS if cell.arms is None else SOURCE_BANDITS
    result: dict[str, Any] = {
        "experiment": cell.experiment,
        "metric": "trial_reward",
        "policy": cell.policy,
        "ours": round(mean, 4),
        "standard_error": round(standard_error, 4),
        "ci95": [round(mean - 1.96 * standard_error, 4), round(mean + 1.96 * standard_error, 4)],
        "paper": cell.published,
        "source": paper if cell.published is not None else None,
        "oracle": round(bandits.bayes_optimal_value(cell.arms or 1, cell.episodes), 6) if exact else None,
        "reference": cell.reference[0] if cell.reference else None,
        "reference_standard_error": cell.reference[1] if cell.reference else None,
        "reference_source": REFERENCE_SOURCE if cell.reference else None,
        "z": None,
        "seeds": 1,
        "heldout_tasks": len(rewards),
        "env_steps": len(rewards) * cell.episodes * horizon,
        "train_wall_s": 0,
        "evaluation_wall_s": round(seconds, 1),
        "device": f"{jax.devices()[0].device_kind} x{os.cpu_count() if jax.default_backend() == 'cpu' else 1}",
        "versions": {"jax": importlib.metadata.version("jax")},
        "commit": commit(),
    }
    if cell.reference:
        result["z"] = round((mean - cell.reference[0]) / math.hypot(standard_error, cell.reference[1]), 2)
    return result


def write(rows: list[dict[str, Any]]) -> None:
    """Replace the results file in one step."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    temporary = RESULTS.with_suffix(".json.tmp")
    temporary.write_text(json.dumps({"schema": 1, "rows": rows}, indent=1) + "\n")
    temporary.replace(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="number of minutes after which no new cell begins")
    parser.add_argument("--only", default="", help="only cells whose 'experiment policy' contains this")
    parser.add_argument("--again", action="store_true", help="evaluate cells again that the results file has")
    parser.add_argument("--seed", type=int, default=1_000_003)
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    print(f"{'experiment':16}{'policy':30}{'ours':>18}{'reference':>18}{'z':>7}{'paper':>9}{'seconds':>9}")
    left = 0
    for cell in cells():
        if arguments.only not in f"{cell.experiment} {cell.policy}":
            continue
        same = [i for i, r in enumerate(rows) if (r["experiment"], r["policy"]) == (cell.experiment, cell.policy)]
        if same and not arguments.again:
            continue
        if time.monotonic() > end:
            left += 1
            continue
        new = row(cell, *evaluate(cell, arguments.seed))
        if same:
            rows[same[0]] = new
        else:
            rows.append(new)
        write(rows)
        digits = 3 if cell.arms is not None and cell.episodes <= 10 else 2
        ours = f"{new['ours']:.{digits}f} ± {new['standard_error']:.{digits}f}"
        reference = f"{cell.reference[0]:.{digits}f} ± {cell.reference[1]:.{digits}f}" if cell.reference else ""
        z = f"{new['z']:.1f}" if cell.reference else ""
        paper = "" if cell.published is None else str(cell.published)
        seconds = f"{new['evaluation_wall_s']:.1f}"
        print(f"{cell.experiment:16}{cell.policy:30}{ours:>18}{reference:>18}{z:>7}{paper:>9}{seconds:>9}", flush=True)
    if left:
        print(f"time is up: {left} cells left")


if __name__ == "__main__":
    main()
