"""GridNavi of Zintgraf et al. (2020): VariBAD, RL² and a policy that gets the exact belief, compared with oracles.

python benchmarks/gridnavi.py                    # everything, three seeds each; call again after an interruption
python benchmarks/gridnavi.py --cells varibad    # one learner
python benchmarks/gridnavi.py --cells speed      # training at the published sizes

Each learner is tested on trials of 4 episodes, as in training, and of 6 episodes. For VariBAD, the benchmark also
measures the correlation between the decoded and the exact probability that a cell is the goal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from adaptation_table import TableRow, measure
from results_file import provenance, write_row

NAME = "gridnavi"
LEARNERS = ("varibad", "rl2", "belief-oracle")
LONGER = 6
# The acceptance bars of VariBAD, by metric.
TARGETS = {"reward of a trial": 36.0, "reward of episode 1": 3.5, "reward of episode 3": 10.8}
TARGETS["reward of episode 4"] = TARGETS[f"reward of episode {LONGER} of {LONGER}"] = 10.8


def report(learner: str, evaluation: dict[str, Any], longer: bool) -> None:
    """Write the rows of one evaluation: a trial's reward, and each episode's."""
    from metarl_jax.runs.folder import RunFolder

    folder, ours = Path(evaluation["folder"]), evaluation["ours"]
    summary = json.loads((folder / "summary.json").read_text())
    settings = RunFolder(folder).config.settings
    stages = evaluation["stages"]
    what: dict[str, tuple[Any, ...]] = {"reward of a trial": (ours["score"], ours["ci95"], ours["per_seed"], None)}
    for stage in range(stages):
        by_seed = [scores[stage] for scores in ours["per_seed_by_stage"]]
        estimate = ours["score_by_stage"][stage], ours["ci95_by_stage"][stage], by_seed, stage
        what[f"reward of episode {stage + 1}"] = estimate
    for metric, (mean, interval, by_seed, stage) in what.items():
        name = f"{metric} of {stages}" if longer and stage is not None else metric
        name = f"{name}, {stages} episodes" if longer and stage is None else name
        target = TARGETS.get(name) if learner == "varibad" else None
        row = {
            "experiment": f"{learner}-gridnavi",
            "metric": name,
            "ours": mean,
            "ci95": interval,
            "by_seed": by_seed,
            "target": target,
            "reached": None if target is None else min(by_seed) >= target,
            "references": {
                oracle["name"]: oracle["score"] if stage is None else oracle["score_by_stage"][stage]
                for oracle in evaluation["oracles"]
            },
            "seeds": len(by_seed),
            "heldout_tasks": evaluation["tasks"],
            "env_steps": summary["steps"],
            "train_wall_s": summary["train_wall_s"],
            "settings": settings,
            **provenance(),
        }
        write_row(NAME, row)
        print(f"{learner}: {name} {mean:.3f}, seeds {', '.join(f'{x:.3f}' for x in by_seed)}", flush=True)


class _Seen(NamedTuple):
    believed: jax.Array
    """The decoded probability that each cell is the goal, ``[cells]``."""
    exact: jax.Array
    """The exact posterior probability that each cell is the goal, ``[cells]``."""


def belief_correlation(folder: Path, trials: int = 200, samples: int = 16) -> None:
    """Measure the correlation between decoded and exact goal probabilities over steps, cells and trials.

    Cells that cannot be the goal a priori are left out.
    """
    from metarl_jax.interfaces.belief import BeliefNetworks
    from metarl_jax.oracles.gridnavi import Belief
    from metarl_jax.rollout import trial
    from metarl_jax.runs import train
    from metarl_jax.runs.folder import RunFolder

    run = RunFolder(folder)
    problem = train.build(run.config)
    family = problem.family
    networks = run.config.resolve().make_networks(run.config.settings, family)
    assert isinstance(networks, BeliefNetworks)
    pays = networks.decoder.pays
    assert pays is not None
    states = train.load_states(run, problem).state.algorithm
    posterior = Belief(family)

    def one(key: jax.Array, state: Any) -> _Seen:
        key_task, key_trial = jax.random.split(key)

        def probability(key: jax.Array, belief: Any) -> jax.Array:
            """Return the probability of a reward in each cell."""
            latent = jax.vmap(belief.sample)(jax.random.split(key, samples))
            return jnp.mean(pays(state.model.decoder, latent), axis=0)

        def act(key: jax.Array, memory: Any, inputs: Any) -> Any:
            memory, possible, cell = memory
            key_action, key_latent = jax.random.split(key)
            memory, belief = networks.encoder.step(state.model.encoder, memory, inputs)
            shown = inputs._replace(obs=networks.show(inputs.obs, belief))
            action = networks.policy.step(state.policy, (), shown)[1].distribution.sample(key_action)
            possible = posterior.update(possible, cell, inputs)
            seen = _Seen(probability(key_latent, belief), possible / jnp.sum(possible))
            return (memory, possible, inputs.obs), action, seen

        start = networks.encoder.initial_carry(state.model.encoder), posterior.prior, jnp.int32(0)
        task = family.tasks.sample_heldout(key_task)
        return trial(key_trial, act, start, family, task, run.config.settings["episodes"])[1].output

    keys = jax.random.split(jax.random.key(2**31 + 12), trials)
    seen = jax.jit(lambda s: jax.lax.map(lambda state: jax.vmap(one, (0, None))(keys, state), s))(states)
    inside = np.asarray(posterior.prior)
    by_seed = []
    for believed, exact in zip(np.asarray(seen.believed), np.asarray(seen.exact), strict=True):
        by_seed.append(float(np.corrcoef(believed[..., inside].ravel(), exact[..., inside].ravel())[0, 1]))
    row = {
        "experiment": run.config.experiment,
        "metric": "correlation of decoded and exact belief",
        "ours": float(np.mean(by_seed)),
        "by_seed": by_seed,
        "seeds": len(by_seed),
        "heldout_tasks": trials,
        **provenance(),
    }
    write_row(NAME, row)
    print(f"belief: correlation {row['ours']:.3f}, seeds {', '.join(f'{x:.3f}' for x in by_seed)}", flush=True)


# Rates of the authors' program on two CPU cores, in environment steps per second.
PUBLISHED_RATES = {"varibad": 880.0, "rl2": 895.0}
PUBLISHED_SIZES = {
    "varibad": {
        **{"trials": 16, "epochs": 2, "minibatches": 4, "model_trials": 25, "model_updates": 3},
        **{"buffer_trials": 8000, "policy_units": 32, "decoder_units": 32, "latent_size": 5},
        **{"hidden_size": 64, "embedding_size": 40},
    },
    "rl2": {"trials": 16, "epochs": 2, "minibatches": 4, "hidden_size": 64, "embedding_size": 40},
}


def speed(learner: str, iterations: int = 50, repeats: int = 5) -> None:
    """Measure environment steps per second of training, at the published sizes and ratios of updates to steps."""
    from metarl_jax import experiments

    experiment = experiments.get(f"{learner}-gridnavi")
    problem = experiment.build(experiment.with_overrides(PUBLISHED_SIZES[learner]))

    def many(state: Any, keys: jax.Array) -> Any:
        return jax.lax.scan(lambda s, key: (problem.algorithm.step(key, s)[0], ()), state, keys)[0]

    state = jax.jit(problem.algorithm.init)(jax.random.key(0))
    run = jax.jit(many, donate_argnums=0)
    keys = jax.random.split(jax.random.key(1), iterations)
    state = jax.block_until_ready(run(state, keys))
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        state = jax.block_until_ready(run(state, keys))
        seconds.append(time.perf_counter() - begin)
    rate = iterations * problem.steps_per_iteration / statistics.median(seconds)
    published = PUBLISHED_RATES[learner]
    row = {
        "experiment": f"{learner}-gridnavi",
        "metric": "training steps per second at published sizes",
        "ours": rate,
        "by_repeat": [iterations * problem.steps_per_iteration / s for s in seconds],
        "peer": published,
        "ratio": rate / published,
        "settings": PUBLISHED_SIZES[learner],
        **provenance(),
    }
    write_row(NAME, row)
    print(f"{learner}: {rate:,.0f} environment steps/s, {rate / published:.0f} times the published program's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=[*LEARNERS, "speed"], default=[*LEARNERS, "speed"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", type=int, help="held-out tasks; default: the experiment's")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of one run; call again to go on")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where run folders are")
    arguments = parser.parse_args()
    for learner in arguments.cells:
        if learner == "speed":
            for name in PUBLISHED_SIZES:
                speed(name)
            continue
        setting = "adaptation_episodes" if learner == "varibad" else "episodes"
        cell = TableRow(f"{learner}-gridnavi", {})
        for longer in (False, True):
            tested = cell._replace(testing={setting: LONGER} if longer else {})
            evaluation = measure(tested, arguments.seeds, arguments.tasks, arguments.folder, arguments.minutes, 1)
            if evaluation is None:
                print(f"{learner}: time ran out; call again to go on", flush=True)
                break
            report(learner, evaluation, longer)
        else:
            if learner == "varibad":
                belief_correlation(arguments.folder / f"{cell.experiment}-{arguments.seeds}-seeds")


if __name__ == "__main__":
    main()
