"""Sinusoids: MAML as in Table 2 of Finn et al. (2017), its variants on the same tasks, and Reptile on its own tasks.

The learners are trained with 10 points, and tested with 5.

    python benchmarks/maml_sinusoid.py                  # everything, three seeds each
    python benchmarks/maml_sinusoid.py --cells maml
"""

from adaptation_table import TableRow, main

CELLS = {
    "maml": TableRow("maml-sinusoid", {1: 0.67, 5: 0.38}, "MAML (Finn et al. 2017"),
    "first-order": TableRow("fomaml-sinusoid", {}),
    "anil": TableRow("anil-sinusoid", {}),
    "meta-sgd": TableRow("meta-sgd-sinusoid", {}),
    "cavia": TableRow("cavia-sinusoid", {}),
    "multi-task": TableRow("multi-task-sinusoid", {}, "pretrained on all tasks (Finn et al. 2017"),
    "reptile": TableRow("reptile-sinusoid", {}),
}

if __name__ == "__main__":
    main("maml_sinusoid", __doc__ or "", CELLS)
