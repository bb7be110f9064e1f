"""RL² on Bernoulli bandits, on each cell of Table 1 of Duan et al. (2016).

python benchmarks/rl2_bandits.py                  # every cell, three seeds
python benchmarks/rl2_bandits.py --cells 100x5    # one; call again after an interruption to go on
"""

from rl2_table import TableRow, main

# The oracle is the exact Bayes-optimal value for 10 pulls. For more pulls it is the finite-horizon Gittins index, with
# a standard error of 0.02 to 0.5.
CELLS = {
    "10x5": TableRow("rl2-bandit-10x5", target=6.62, paper=6.7, oracle=6.659988),
    "10x10": TableRow("rl2-bandit-10x10", target=6.67, paper=6.7, oracle=6.713951),
    "10x50": TableRow("rl2-bandit-10x50", target=6.67, paper=6.8, oracle=6.713951),
    "100x5": TableRow("rl2-bandit-100x5", target=78.2, paper=78.7, oracle=78.60),
    "100x10": TableRow("rl2-bandit-100x10", target=83.2, paper=83.5, oracle=83.81),
    "100x50": TableRow("rl2-bandit-100x50", target=84.9, paper=84.9, oracle=85.61),
    "500x5": TableRow("rl2-bandit-500x5", target=401.6, paper=401.6, oracle=409.3),
    "500x10": TableRow("rl2-bandit-500x10", target=432.5, paper=432.5, oracle=442.0),
    "500x50": TableRow("rl2-bandit-500x50", target=438.9, paper=438.9, oracle=465.1),
}

if __name__ == "__main__":
    main("rl2_bandits", __doc__ or "", CELLS)
