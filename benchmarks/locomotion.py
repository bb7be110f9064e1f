"""Robots with real physics: held-out return by adaptation episode or gradient step, for every family of algorithms.

    python benchmarks/locomotion.py                                   # the half cheetah's direction, every algorithm
    python benchmarks/locomotion.py --cells rl2-half-cheetah-direction --seeds 1
    python benchmarks/locomotion.py --cells others                    # speed, ants, walkers: one algorithm or two each

Budgets are what two cores do in minutes, not what the papers ran; published curves are of other bodies and serve as
orders of magnitude. What adaptation is worth: the gains over play before it, and over acting at random, task by task.
"""

from stage_cells import Cell, main

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


def cells(names: tuple[str, ...]) -> dict[str, Cell]:
    return {name: Cell(name, {}) for name in names}


def short() -> dict[str, Cell]:
    return {
        f"{name}-{number}": Cell(name, {}, settings={"iterations": number}, variant=f"{number} iterations")
        for name, number in SHORT.items()
    }


if __name__ == "__main__":
    main("locomotion", __doc__ or "", cells(DIRECTION), more={"others": cells(OTHERS) | short()})
