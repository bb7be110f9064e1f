"""Robots with real physics: held-out return by adaptation episode or gradient step, for every family of algorithms.

    python benchmarks/locomotion.py                                   # the half cheetah's direction, every algorithm
    python benchmarks/locomotion.py --cells rl2-half-cheetah-direction --seeds 1
    python benchmarks/locomotion.py --cells others                    # speed, ants, walkers: one algorithm or two each
    python benchmarks/locomotion.py --cells long --seeds 1            # gradient-based learners, 20 million steps each
    python benchmarks/locomotion.py --cells paper --seeds 1           # at published sizes, for an accelerator

Budgets are what two cores do in minutes, not what the papers ran; published curves are of other bodies and serve as
orders of magnitude. What adaptation is worth: the gains over play before it, and over acting at random, task by task.
"""

from adaptation_table import TableRow, main

DIRECTION = tuple(f"{method}-half-cheetah-direction" for method in ("maml", "promp", "rl2", "varibad", "pearl"))
OTHERS = (
    *(f"{method}-half-cheetah-velocity" for method in ("rl2", "varibad", "pearl")),
    "pearl-walker-parameters",
)
# For fewer iterations than the presets say.
SHORT = {
    "varibad-half-cheetah-direction": 150,
    "maml-half-cheetah-velocity": 50,
    "promp-ant-direction": 40,
    "varibad-ant-direction": 200,
    "promp-walker-parameters": 38,
}
# Gradient-based learners for 20 million steps, in the order of what their results say.
LONG: dict[str, dict[str, int]] = {
    "maml-half-cheetah-velocity": {"iterations": 250},
    "promp-walker-parameters": {"iterations": 250},
    "promp-ant-direction": {"iterations": 250},
    "maml-half-cheetah-direction": {"iterations": 125, "horizon": 200},
    "promp-half-cheetah-direction": {"iterations": 125, "horizon": 200},
}
# Networks, batches and the steps of an iteration as Rakelly et al. (2019) have them, but 144 iterations of their 500:
# 1.44 million environment steps, to which a replay comes to some 370 episodes. Twenty training tasks are drawn from
# their two. Physics are C's, since 25 robots are few for a GPU. Their weight of the KL divergence, 0.1, is of its sum
# over a meta-batch, not of its mean.
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
