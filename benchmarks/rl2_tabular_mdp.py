"""RL² and RL³ on random tabular MDPs, on each cell of Table 2 of Duan et al. (2016): the reward over n episodes.

python benchmarks/rl2_tabular_mdp.py --cells 10 25
"""

from rl2_table import TableRow, main

# The oracle is the optimum of the known MDP, 21.83 per episode, which no learner can reach. An exact Bayes-optimal
# value is not known.
CELLS = {
    "10-gru": TableRow("rl2-gru-tabular-mdp-10", target=156.2, paper=156.2, oracle=218.3),
    "10": TableRow("rl2-tabular-mdp-10", target=156.2, paper=156.2, oracle=218.3),
    # RL³ also observes estimated action values. Its bar is the score of RL² with the same memory.
    "10-rl3": TableRow("rl3-tabular-mdp-10", target=157.4, paper=None, oracle=218.3),
    "10-rl3-gru": TableRow("rl3-gru-tabular-mdp-10", target=154.2, paper=None, oracle=218.3),
    "25": TableRow("rl2-tabular-mdp-25", target=445.7, paper=445.7, oracle=545.8),
    "50": TableRow("rl2-tabular-mdp-50", target=936.1, paper=936.1, oracle=1091.5),
    "75": TableRow("rl2-tabular-mdp-75", target=1428.8, paper=1428.8, oracle=1637.3),
    "100": TableRow("rl2-tabular-mdp-100", target=1913.7, paper=1913.7, oracle=2183.0),
}

if __name__ == "__main__":
    main("rl2_tabular_mdp", __doc__ or "", CELLS)
