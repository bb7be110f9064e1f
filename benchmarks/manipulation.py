"""Meta-World's ML1 and ML10: success rate and return on held-out goals, or skills, by adaptation episode.

    python benchmarks/manipulation.py                                # reach
    python benchmarks/manipulation.py --cells others --seeds 1       # push, pick-place
    python benchmarks/manipulation.py --cells ml10 --seeds 1         # ten skills to train on, five others to test on

An episode is a success if any of its steps is. The bar: nine of ten held-out goals reached, by the last episode.
"""

from stage_cells import Cell, main

BAR = 0.9
REACH = {
    f"{name}-ml1-reach": Cell(f"{name}-ml1-reach", {}, success_targets={last: BAR})
    for name, last in (("rl2", 2), ("varibad", 2), ("pearl", 3))
}
OTHERS = {
    name: Cell(name, {})
    for name in (f"{method}-ml1-{skill}" for skill in ("push", "pick-place") for method in ("rl2", "varibad", "pearl"))
}

ML10 = {name: Cell(name, {}) for name in ("rl2-ml10", "maml-ml10", "pearl-ml10")}


if __name__ == "__main__":
    main("manipulation", __doc__ or "", REACH, more={"others": OTHERS, "ml10": ML10})
