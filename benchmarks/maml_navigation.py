"""Point navigation of Finn et al. (2017): MAML-TRPO, E-MAML and ProMP, compared with multi-task training.

python benchmarks/maml_navigation.py                # everything, three seeds each
python benchmarks/maml_navigation.py --cells maml
"""

from adaptation_table import TableRow, main

# A gradient step on a held-out task uses twice the number of episodes of training, as in the publication.
TESTING = {"episodes": 40}
CELLS = {
    "maml": TableRow("maml-navigation", {1: -11.7, 3: -3.5}, "MAML (Finn et al. 2017", testing=TESTING),
    "e-maml": TableRow("e-maml-navigation", {}, testing=TESTING),
    "promp": TableRow("promp-navigation", {}, testing=TESTING),
    "multi-task": TableRow("multi-task-navigation", {}, "pretrained on all tasks (Finn et al. 2017", testing=TESTING),
}

if __name__ == "__main__":
    main("maml_navigation", __doc__ or "", CELLS)
