"""SNAIL and other memories on Bernoulli bandits and random tabular MDPs (Mishra et al. 2018, Tables 3 and 4).

    python benchmarks/snail_bandits_mdps.py                    # every cell, three seeds
    python benchmarks/snail_bandits_mdps.py --cells snail-10   # one; call again after an interruption to go on
    python benchmarks/snail_bandits_mdps.py --cells snail-100x5 snail-100x10 --together --trials 200000   # accelerator

Only SNAIL has bars. The scores of other memories on the same tasks are reported without a bar. The cells of the GRU are
in ``rl2_bandits.py`` and ``rl2_tabular_mdp.py``. In the latter, most cells have fast weights as their memory.
"""

from rl2_table import TableRow, main

SOURCE = "Mishra et al. 2018"
# The oracles are those of the two files that the docstring names.
CELLS = {
    "snail-100x5": TableRow("rl2-snail-bandit-100x5", target=78.5, paper=79.1, oracle=78.60, source=SOURCE),
    "snail-100x10": TableRow("rl2-snail-bandit-100x10", target=83.5, paper=83.5, oracle=83.81, source=SOURCE),
    "snail-10": TableRow("rl2-snail-tabular-mdp-10", target=159.1, paper=159.1, oracle=218.3, source=SOURCE),
    "snail-25": TableRow("rl2-snail-tabular-mdp-25", target=445.7, paper=447.2, oracle=545.8, source=SOURCE),
    **{
        f"{memory}-100x5": TableRow(f"rl2-{memory}-bandit-100x5", target=None, paper=None, oracle=78.60)
        for memory in ("transformer", "linear", "lstm", "fast-weights", "meta-network")
    },
}

if __name__ == "__main__":
    main("snail_bandits_mdps", __doc__ or "", CELLS)
