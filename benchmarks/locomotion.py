"""Robots with simulated physics: the held-out return by adaptation episode or gradient step, for all kinds of learners.

    python benchmarks/locomotion.py                                   # the half cheetah's direction, every algorithm
    python benchmarks/locomotion.py --cells rl2-half-cheetah-direction --seeds 1
    python benchmarks/locomotion.py --cells others                    # speed, ants, walkers: one algorithm or two each
    python benchmarks/locomotion.py --cells long --seeds 1            # gradient-based learners, 20 million steps each
    python benchmarks/locomotion.py --cells paper --seeds 1           # at published sizes, for an accelerator

The budgets are what two cores compute in minutes, and are smaller than those of the papers. Published curves are of
other bodies, and show only the order of magnitude. The value of adaptation is the paired gain over play before
adaptation, and over random actions.
"""

from adaptation_table import TableRow, main

DIRECTION = tuple(f"{method}-half-cheetah-direction" for method in ("maml", "promp", "rl2", "varibad", "pearl"))
OTHERS = (
    *(f"{method}-half-cheetah-velocity" for method in ("rl2", "varibad", "pearl")),
    "pearl-walker-parameters",
)
# These experiments have fewer iterations than the presets.
SHORT = {
    "varibad-half-cheetah-direction": 150,
    "maml-half-cheetah-velocity": 50,
    "promp-ant-direction": 40,
    "varibad-ant-direction": 200,
    "promp-walker-parameters": 38,
}
# Gradient-based learners with 20 million steps, the most informative ones first.
LONG: dict[str, dict[str, int]] = {
    "maml-half-cheetah-velocity": {"iterations": 250},
    "promp-walker-parameters": {"iterations": 250},
    "promp-ant-direction": {"iterations": 250},
    "maml-half-cheetah-direction": {"iterations": 125, "horizon": 200},
    "promp-half-cheetah-direction": {"iterations": 125, "horizon": 200},
}
# Networks, batches and steps of an iteration are those of Rakelly et al. (2019), with 144 of their 500 iterations.
# These iterations have 1.44 million environment steps, with which a replay gets about 370 episodes. Twenty training
# tasks are drawn from their two. The C engine simulates the physics, because 25 robots are few for a GPU. Their weight
# of the KL divergence, 0.1, is for its sum over a meta-batch, and not for its mean.
PUBLISHED = {
    "encoder_units": 200,
    "units": 300,
    "layers": 3,
    "learning_rate": 3e-4,
    "gradient_steps": 2000,
    "meta_batch": 4,
    "kl_weight": 0.4,
    "automatic_temperature": False,
    "prior_episodes": 5,
    "posterior_episodes": 5,
    "replay_episodes": 600,
    "exploration_episodes": 2,
    "adaptation_episodes": 4,
    "iterations": 144,
    "engine": "c",
}
PAPER = {
    "pearl-half-cheetah-direction-published": TableRow(
        "pearl-half-cheetah-direction", {}, settings=PUBLISHED, variant="published sizes"
    )
}


def cells(names: tuple[str, ...]) -> dict[str, TableRow]:
    return {name: TableRow(name, {}) for name in names}


def short() -> dict[str, TableRow]:
    return {
        f"{name}-{number}": TableRow(name, {}, settings={"iterations": number}, variant=f"{number} iterations")
        for name, number in SHORT.items()
    }


def long() -> dict[str, TableRow]:
    return {
        f"{name}-long": TableRow(name, {}, settings=dict(settings), variant=_variant(settings))
        for name, settings in LONG.items()
    }


def _variant(settings: dict[str, int]) -> str:
    horizon = f"{settings['horizon']} steps an episode, " if "horizon" in settings else ""
    return f"{horizon}20 million steps"


if __name__ == "__main__":
    main(
        "locomotion",
        __doc__ or "",
        cells(DIRECTION),
        more={"others": cells(OTHERS) | short(), "long": long(), "paper": PAPER},
    )
