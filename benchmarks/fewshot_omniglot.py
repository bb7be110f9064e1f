"""Few-shot classification of Omniglot: MAML, Reptile, SNAIL and Meta Networks.

    python benchmarks/fewshot_omniglot.py --data-dir DATA                    # 5 classes, 1 example, few iterations
    python benchmarks/fewshot_omniglot.py --data-dir DATA --cells paper      # everything as published; on accelerators

DATA is the folder of omniglot.npz. ``metarl_jax.datasets.omniglot.download(DATA)`` downloads the file into it.
"""

from adaptation_table import TableRow, main

SOURCES = {
    "maml": "MAML (Finn et al. 2017",
    "reptile": "Reptile + transduction (Nichol et al. 2018",
    "snail": "SNAIL (Mishra et al. 2018",
    "meta-network": "Meta Network (Munkhdalai & Yu 2017",
}
TARGETS = {
    "maml": {(5, 1): 0.987, (5, 5): 0.999, (20, 1): 0.958, (20, 5): 0.989},
    "reptile": {(5, 1): 0.9768, (5, 5): 0.9948, (20, 1): 0.8943, (20, 5): 0.9712},
    "snail": {(5, 1): 0.9907, (5, 5): 0.9978, (20, 1): 0.9764, (20, 5): 0.9936},
    "meta-network": {(5, 1): 0.9895},
}
# These settings are for a CPU of two cores. MAML and Reptile have the published settings, except for the number of
# iterations. SNAIL and the Meta Network also have fewer filters, and SNAIL has strides instead of pooling.
SMALL_SNAIL = {
    "iterations": 9000,
    "queries": 3,
    "key_size": 16,
    "value_size": 16,
    "filters": 32,
    "image_filters": 32,
    "pooling": False,
    "learning_rate": 1e-3,
}
SMALL_META_NETWORK = {
    "iterations": 7000,
    "tasks": 4,
    "queries": 3,
    "filters": 16,
    "generator_size": 8,
    "learning_rate": 2e-3,
    "final_learning_rate_fraction": 0.0,
}
CELLS = {
    "maml": TableRow(
        "maml-omniglot-5x1", {3: 0.95}, SOURCES["maml"], settings={"iterations": 3000}, variant="3000 iterations"
    ),
    "reptile": TableRow(
        "reptile-omniglot-5x1", {50: 0.90}, SOURCES["reptile"], settings={"iterations": 8000}, variant="8000 iterations"
    ),
    "snail": TableRow("snail-omniglot-5x1", {1: 0.95}, SOURCES["snail"], settings=SMALL_SNAIL, variant="small"),
    "meta-network": TableRow(
        "meta-network-omniglot-5x1",
        {1: 0.95},
        SOURCES["meta-network"],
        settings=SMALL_META_NETWORK,
        variant="small",
    ),
}
# The stage whose accuracy is published: a number of gradient steps, or the only reading.
LAST_STAGE = {("maml", 5): 3, ("maml", 20): 5} | {
    (name, ways): stage for name, stage in (("reptile", 50), ("snail", 1), ("meta-network", 1)) for ways in (5, 20)
}
PAPER = {
    f"{name}-{ways}x{shots}": TableRow(
        f"{name}-omniglot-{ways}x{shots}",
        {LAST_STAGE[name, ways]: target},
        SOURCES[name],
    )
    for name, targets in TARGETS.items()
    for (ways, shots), target in targets.items()
}

if __name__ == "__main__":
    main("fewshot_omniglot", __doc__ or "", CELLS, more={"paper": PAPER}, data=True)
