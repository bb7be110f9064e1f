"""Classic control with physics as the task: MAML-TRPO, ProMP and Reptile on CartPole, MAML-TRPO on the others.

The measure is the return by gradient step on held-out physics, drawn as in training and out of its range. It is
compared with no adaptation, and with learning from scratch on the same number of episodes. Gains are paired by task.

    python benchmarks/maml_classic_control.py                      # everything, three seeds each
    python benchmarks/maml_classic_control.py --cells maml-cartpole
"""

from adaptation_table import TableRow, main

METHODS = ("maml", "promp", "reptile", "multi-task")
OTHERS = ("pendulum", "acrobot", "mountain-car", "mountain-car-continuous")
EXPERIMENTS = (*(f"{method}-cartpole" for method in METHODS), *(f"maml-{task}" for task in OTHERS))
CELLS = {
    name + suffix: TableRow(name, {}, testing=testing, test_variant=tested)
    for name in EXPERIMENTS
    for suffix, testing, tested in (("", {}, ""), ("-far", {"heldout": "out_of_range"}, "out of range"))
}

if __name__ == "__main__":
    main("maml_classic_control", __doc__ or "", CELLS)
