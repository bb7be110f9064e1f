"""Point navigation of Finn et al. (2017): MAML-TRPO, E-MAML and ProMP, and multi-task training beside them.

python benchmarks/maml_navigation.py                # everything, three seeds each
python benchmarks/maml_navigation.py --cells maml
"""

from gradient_cells import Cell, main

CELLS = {
    "maml": Cell("maml-navigation", {1: -11.7, 3: -3.5}, "MAML (Finn et al. 2017"),
    "e-maml": Cell("e-maml-navigation", {}),
    "promp": Cell("promp-navigation", {}),
    "multi-task": Cell("multi-task-navigation", {}, "pretrained on all tasks (Finn et al. 2017"),
}

if __name__ == "__main__":
    main("maml_navigation", __doc__ or "", CELLS)
