"""Meta-World's ML1: success rate and return on held-out goals by adaptation episode.

    python benchmarks/manipulation.py                                # reach
    python benchmarks/manipulation.py --cells others --seeds 1       # push, pick-place

An episode is a success if any of its steps is. The bar: nine of ten held-out goals reached, by the last episode.
"""

from stage_cells import Cell, main

BAR = 0.9
REACH = {
    f"{name}-ml1-reach": Cell(f"{name}-ml1-reach", {}, success_targets={last: BAR})
    for name, last in (("rl2", 2), ("varibad", 2), ("pearl", 3))
}
# Which the settings that Meta-World's authors publish for RL² do not have.
NORMALISED = {
    "normalised": Cell(
        "rl2-ml1-reach", {}, settings={"normalise_observations": True}, variant="normalised", success_targets={2: BAR}
    )
}
OTHERS = {
    name: Cell(name, {})
    for name in (f"{method}-ml1-{skill}" for skill in ("push", "pick-place") for method in ("rl2", "varibad", "pearl"))
}


if __name__ == "__main__":
    main("manipulation", __doc__ or "", REACH, more={"others": OTHERS, "observations": NORMALISED})
