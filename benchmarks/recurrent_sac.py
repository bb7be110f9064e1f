"""Off-policy and on-policy RL² on a sparse half-circle with a million environment steps each, as in Ni et al. (2022).

    python benchmarks/recurrent_sac.py                                  # both learners, three seeds each
    python benchmarks/recurrent_sac.py --cells recurrent-sac --seeds 1

Trials have two episodes of 60 steps. The measure is the share of held-out goals that are met in an episode. The bar is
80 % in the second episode for the off-policy learner.
"""

from __future__ import annotations

from adaptation_table import TableRow, main

NAME = "recurrent_sac"
_TRIALS = {"horizon": 60, "episodes": 2}
VARIANT = "2 episodes of 60 steps"
# An iteration has 25 trials of recurrent soft actor-critic, or 32 trials of RL².
CELLS = {
    "recurrent-sac": TableRow(
        "recurrent-sac-half-circle",
        {},
        settings={**_TRIALS, "iterations": 330},
        variant=VARIANT,
        success_targets={2: 0.8},
    ),
    "rl2": TableRow("rl2-half-circle", {}, settings={**_TRIALS, "iterations": 260}, variant=VARIANT),
}

if __name__ == "__main__":
    main(NAME, __doc__ or "", CELLS)
