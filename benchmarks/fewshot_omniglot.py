"""Few-shot classification of Omniglot: MAML (Finn et al. 2017) and Reptile (Nichol et al. 2018).

    python benchmarks/fewshot_omniglot.py --data-dir DATA                    # 5 classes, 1 example, few iterations
    python benchmarks/fewshot_omniglot.py --data-dir DATA --cells paper      # everything as published: an accelerator

DATA is the folder of omniglot.npz; ``metarl_jax.datasets.omniglot.download(DATA)`` puts it there.
"""

from gradient_cells import Cell, main

MAML, REPTILE = "MAML (Finn et al. 2017", "Reptile + transduction (Nichol et al. 2018"
TARGETS = {
    "maml": {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
    "reptile": {(5, 1): 0.9768, (5, 5): 0.9948, (20, 1): 0.8943, (20, 5): 0.9712},
}
SOURCES = {"maml": MAML, "reptile": REPTILE}
# As published but for the number of iterations, for a CPU of two cores.
CELLS = {
    "maml": Cell("maml-omniglot-5x1", {3: 0.95}, MAML, settings={"iterations": 3000}, variant="3000 iterations"),
    "reptile": Cell(
        "reptile-omniglot-5x1", {50: 0.90}, REPTILE, settings={"iterations": 8000}, variant="8000 iterations"
    ),
}
PAPER = {
    f"{name}-{ways}x{shots}": Cell(
        f"{name}-omniglot-{ways}x{shots}",
        {50 if name == "reptile" else 3 if ways == 5 else 5: target},
        SOURCES[name],
    )
    for name, targets in TARGETS.items()
    for (ways, shots), target in targets.items()
}

if __name__ == "__main__":
    main("fewshot_omniglot", __doc__ or "", CELLS, more={"paper": PAPER}, data=True)
