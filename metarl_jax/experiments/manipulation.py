"""Presets: Meta-World's ML1 and ML10, where a robot arm adapts to an unobserved new goal (ML1) or a new skill (ML10).

The main result is the success rate: the share of episodes with a step that is a success, on held-out goals (ML1) or
skills (ML10), each episode counted once. ``manipulation_evaluation`` also computes the official rule, which is larger.

Episodes of ML1 have 150 steps, as in Yu et al. (2019). The public JAX baselines have Meta-World's own horizon of 500,
10 epochs, most likely actions at test and 2 million steps for each skill: for 2 episodes in a trial these are the
options ``--horizon 500 --epochs 10 --deterministic --iterations 63``. RL² and MAML-TRPO have this horizon and 20
million steps on ML10. The baselines' success rates are by the official rule, so that only rates by it are comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment
from metarl_jax.experiments.starting_points import OFF_POLICY, ON_POLICY, VARIBAD

# Settings of each method in addition to those of ``starting_points``. The reward of a step is up to 10, which PEARL's
# published scale of 5 would make 50.
OWN_SETTINGS: dict[str, dict[str, Any]] = {
    # Half of the training reward is for success. Without it the hand stops before the goal region, because a further
    # centimetre increases the reward by only a hundredth. The entropy bonus ends while the step size is still large.
    "rl2": {"iterations": 600, "entropy_decay": 0.6, "training_reward": "task"},
    "varibad": {},
    "pearl": {"training_tasks": 50, "initial_episodes": 4, "replay_episodes": 100, "reward_scale": 0.5},
}
SKILLS = ("reach", "push", "pick-place")
METHODS = {"rl2": ON_POLICY, "varibad": VARIBAD, "pearl": OFF_POLICY}

# Settings of ML10 are not tuned. RL² and MAML-TRPO have those of public JAX baselines (rainx0r/metaworld-algorithms):
# 20 tasks of 10 episodes, a horizon of 500 and 20 million steps. RL² here computes gradients through whole trials (250
# steps in the baselines), and its network has one layer before the memory (two). MAML here has 128 units in a layer
# (512), samples its actions at test (most likely actions), and has the inner step size of Yu et al. (2019). PEARL is
# not among these baselines; its episodes here have 150 steps.
ML10 = {
    "rl2": (
        "RL²",
        "rl2",
        {
            **ON_POLICY,
            "horizon": 500,
            "iterations": 200,
            "episodes": 10,
            "trials": 20,
            "epochs": 10,
            "hidden_size": 256,
            "learning_rate": 5e-4,
            "discount": 0.99,
            "gae_lambda": 0.95,
            "entropy_coefficient": 5e-3,
            "max_grad_norm": 1.0,
            "deterministic": True,
        },
    ),
    "maml": (
        "MAML-TRPO",
        "maml_trpo",
        {
            "horizon": 500,
            "iterations": 100,
            "tasks": 20,
            "episodes": 10,
            "inner_rate": 0.05,
            "adaptation_steps": 1,
            "units": 128,
            "activation": "tanh",
        },
    ),
    "pearl": (
        "PEARL",
        "pearl",
        {
            **OFF_POLICY,
            "training_tasks": 100,
            "tasks": 10,
            "meta_batch": 10,
            "initial_episodes": 2,
            "replay_episodes": 60,
            "reward_scale": 0.5,
        },
    ),
}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    for skill in SKILLS:
        for algorithm, settings in OWN_SETTINGS.items():
            family = f"ml1-{skill}"
            yield experiment(
                name=f"{algorithm}-{family}",
                description=f"{registry.algorithm(algorithm).title} on {registry.family(family).title}",
                algorithm=algorithm,
                family=family,
                settings={**METHODS[algorithm], **settings},
                tuned=True,
            )
    for name, (title, algorithm, settings) in ML10.items():
        yield experiment(
            name=f"{name}-ml10",
            description=f"{title} on {registry.family('ml10').title}",
            algorithm=algorithm,
            family="ml10",
            settings=settings,
            tuned=True,
        )
