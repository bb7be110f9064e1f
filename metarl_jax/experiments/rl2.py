"""Presets: RL² on bandits and random tabular MDPs (Duan et al. 2016, arXiv 1611.02779), and in dark rooms; RL³.

Published numbers are those of Table 1 (bandits) and Table 2 (MDPs): the mean total reward of a trial over 1000 trials.
Exact optima were computed by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metarl_jax.experiments import registry
from metarl_jax.experiments.base import Experiment, experiment

# ---------------------------------------------------------------------------------------------------------------
# The settings of every preset: for bandits by (pulls, arms), for MDPs by the number of episodes. All other settings
# have the defaults of ``algorithms.rl2.Config`` and of the network.

_SHORT = {"hidden_size": 64, "iterations": 2000}
_LONG = {"hidden_size": 64, "iterations": 1200, "minibatches": 8, "gae_lambda": 0.8}
_MANY_ARMS = {**_LONG, "iterations": 3000, "entropy_coefficient": 0.06}
# 50 arms and two rewards give a hundred combinations, which need a wider embedding than the default.
_FIFTY_ARMS = {
    **_MANY_ARMS,
    "hidden_size": 128,
    "embedding_size": 192,
    "iterations": 4000,
    "minibatches": 16,
    "learning_rate": 2e-3,
    "gae_lambda": 0.7,
    "gae_lambda_rise": 0.85,
    "entropy_coefficient": 0.1,
    "entropy_decay": 0.75,
}

BANDIT_SETTINGS: dict[tuple[int, int], dict[str, Any]] = {
    (10, 5): _SHORT,
    (10, 10): _SHORT,
    (10, 50): {**_SHORT, "iterations": 4000, "embedding_size": 192},
    (100, 5): _LONG,
    (100, 10): _MANY_ARMS,
    (100, 50): _FIFTY_ARMS,
    (500, 5): {**_LONG, "trials": 128},
    (500, 10): {**_MANY_ARMS, "trials": 128},
    (500, 50): {**_FIFTY_ARMS, "trials": 128},
}
GAUSSIAN_BANDIT_SETTINGS: dict[tuple[int, int], dict[str, Any]] = {(100, 5): _LONG}

# Ten states and five actions give 50 pairs to distinguish. The discount is used for learning only: states differ in
# value by one or two rewards, which a critic of undiscounted returns of a hundred steps does not resolve.
_MDP = {"iterations": 2000, "minibatches": 16, "discount": 0.95, "value_coefficient": 1.0}
TABULAR_MDP_SETTINGS: dict[int, dict[str, Any]] = {
    10: _MDP,
    25: {**_MDP, "trials": 256},
    50: {**_MDP, "trials": 128},
    75: {**_MDP, "trials": 128},
    100: {**_MDP, "trials": 128},
}
# The paper's policy has a GRU.
GRU_TABULAR_MDP_SETTINGS: dict[int, dict[str, Any]] = {
    10: {
        **_MDP,
        "iterations": 5500,
        "hidden_size": 64,
        "embedding_size": 192,
        "readout_size": 64,
        "previous_observation": True,
    }
}
# The training rewards are regrets, which already include the effect of a step on the rest of its episode. The critic
# then only has to predict the value of information, and the discount can be close to 1.
_MDP_REGRET = {
    **_MDP,
    "training_reward": "task",
    "discount": 0.99,
    "gae_lambda": 0.8,
    "gae_lambda_rise": 0.85,
    "value_coefficient": 5.0,
    "entropy_decay": 0.75,
}
# RL³: the policies also observe estimated action values. The prior is the distribution of the tasks. All other settings
# are those of RL², but for fewer iterations.
_ESTIMATES = {"prior_transitions": 1.0, "prior_rewards": 1.0, "prior_reward": 1.0, "iterations": 600}
RL3_TABULAR_MDP_SETTINGS: dict[int, dict[str, Any]] = {10: {**TABULAR_MDP_SETTINGS[10], **_ESTIMATES}}
RL3_GRU_TABULAR_MDP_SETTINGS: dict[int, dict[str, Any]] = {10: {**GRU_TABULAR_MDP_SETTINGS[10], **_ESTIMATES}}
SNAIL_TABULAR_MDP_SETTINGS: dict[int, dict[str, Any]] = {
    10: {**_MDP_REGRET, "filters": 16, "iterations": 600},
    25: {**_MDP_REGRET, "filters": 16, "window": 250, "trials": 256, "iterations": 700},
}

# The search of a whole room needs a large entropy bonus that decays slowly, as in ``experiments.exploration``. The step
# size must still be large enough to converge when the bonus is zero.
_DARK_ROOM: dict[str, Any] = {
    "hidden_size": 64,
    "previous_observation": True,
    "episodes": 10,
    "trials": 64,
    "epochs": 4,
    "discount": 0.97,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.2,
    "entropy_decay": 0.6,
    "iterations": 7000,
}
DARK_ROOM_SETTINGS: dict[str, dict[str, Any]] = {
    "dark-room": _DARK_ROOM,
    "dark-room-new-goals": _DARK_ROOM,
    "dark-room-10x10": {**_DARK_ROOM, "episodes": 4, "trials": 32},
    # The return of an episode is at most 2, not 16, so a larger bonus would dominate the reward.
    "dark-key-to-door": {
        **_DARK_ROOM,
        "trials": 32,
        "entropy_coefficient": 0.03,
        "entropy_decay": 0.9,
        "iterations": 6000,
    },
}
# Settings of other memories. A trial has 500 steps, which a linear recurrent memory computes in parallel on an
# accelerator.
MEMORY_DARK_ROOM_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("linear", "dark-key-to-door"): {
        "model_size": 128,
        "hidden_size": 128,
        "episodes": 10,
        "trials": 1024,
        "epochs": 2,
        "minibatches": 8,
        "learning_rate": 2e-3,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.05,
        "entropy_decay": 0.6,
        "iterations": 800,
    },
}

# Settings of other memories, by name. They are those of the GRU with smaller steps, hardly tuned, and the number of
# iterations that a core does in about ten minutes. SNAIL has settings of its own: half of the paper's filters and, on
# bandits, one block of convolutions between two attentions instead of two blocks before one attention.
_ANY_MEMORY = {**{name: value for name, value in _LONG.items() if name != "hidden_size"}, "learning_rate": 1e-3}
# The training rewards are regrets, because most of the variance of rewards comes from random pulls and random tasks.
_REGRET = {**_ANY_MEMORY, "training_reward": "task", "gae_lambda_rise": 0.85, "entropy_decay": 0.75}
# At the end of training, differences of a thousandth of the reward remain. A privileged critic, and advantages of all
# arms at every step, resolve them.
_SNAIL_SETTINGS: dict[str, Any] = {
    "attention_first": True,
    "blocks": 1,
    "filters": 16,
    "trials": 256,
    "minibatches": 8,
    "learning_rate": 3e-3,
    "adam_epsilon": 3e-6,
    "entropy_coefficient": 0.017,
    "entropy_decay": 0.75,
    "iterations": 450,
}
MEMORY_BANDIT_SETTINGS: dict[tuple[str, int, int], dict[str, Any]] = {
    ("snail", 100, 5): _SNAIL_SETTINGS,
    ("snail", 100, 10): {**_SNAIL_SETTINGS, "iterations": 400},
    ("transformer", 100, 5): {**_ANY_MEMORY, "trials": 128, "minibatches": 4, "iterations": 500},
    # A critic of regrets has smaller targets than one of returns, and with the default weight its loss would dominate.
    ("linear", 100, 5): {
        **_REGRET,
        "value_coefficient": 20.0,
        "entropy_coefficient": 0.1,
        "learning_rate": 2e-3,
        "iterations": 300,
    },
    ("lstm", 100, 5): {**_LONG, "cell": "lstm"},
    ("fast-weights", 100, 5): _ANY_MEMORY,
    ("meta-network", 100, 5): {**_ANY_MEMORY, "iterations": 700},
}

# ---------------------------------------------------------------------------------------------------------------
# Published rewards of a trial of the paper's learners.

_BANDIT_LEARNERS = (
    "random",
    "Gittins index",
    "Thompson sampling",
    "optimistic Thompson sampling",
    "UCB1",
    "ε-greedy",
    "greedy",
    "RL²",
)
_BANDIT_TABLE: dict[tuple[int, int], tuple[float, ...]] = {
    (10, 5): (5.0, 6.6, 5.7, 6.5, 6.7, 6.6, 6.6, 6.7),
    (10, 10): (5.0, 6.6, 5.5, 6.2, 6.7, 6.6, 6.6, 6.7),
    (10, 50): (5.1, 6.5, 5.2, 5.5, 6.6, 6.5, 6.5, 6.8),
    (100, 5): (49.9, 78.3, 74.7, 77.9, 78.0, 75.4, 74.8, 78.7),
    (100, 10): (49.9, 82.8, 76.7, 81.4, 82.4, 77.4, 77.1, 83.5),
    (100, 50): (49.8, 85.2, 64.5, 67.7, 84.3, 78.3, 78.0, 84.9),
    (500, 5): (249.8, 405.8, 402.0, 406.7, 405.8, 388.2, 380.6, 401.6),
    (500, 10): (249.0, 437.8, 429.5, 438.9, 437.1, 408.0, 395.0, 432.5),
    (500, 50): (249.6, 463.7, 427.2, 437.6, 457.6, 413.6, 402.8, 438.9),
}
_MDP_LEARNERS = ("random", "PSRL", "OPSRL", "UCRL2", "BEB", "ε-greedy", "greedy", "RL²")
_MDP_TABLE: dict[int, tuple[float, ...]] = {
    10: (100.1, 138.1, 144.1, 146.6, 150.2, 132.8, 134.8, 156.2),
    25: (250.2, 408.8, 425.2, 424.1, 427.8, 377.3, 368.8, 445.7),
    50: (499.7, 904.4, 930.7, 918.9, 917.8, 823.3, 769.3, 936.1),
    75: (749.9, 1417.1, 1449.2, 1427.6, 1422.6, 1293.9, 1172.9, 1428.8),
    100: (999.4, 1939.5, 1973.9, 1942.1, 1935.1, 1778.2, 1578.5, 1913.7),
}
# The rewards of SNAIL on the same tasks, published by Mishra et al. (2018, arXiv 1707.03141).
_SNAIL = "SNAIL (Mishra et al. 2018)"
_SNAIL_BANDITS: dict[tuple[int, int], float] = {
    (10, 5): 6.6,
    (10, 10): 6.7,
    (10, 50): 6.7,
    (100, 5): 79.1,
    (100, 10): 83.5,
    (100, 50): 85.1,
    (500, 5): 408.1,
    (500, 10): 432.4,
    (500, 50): 442.6,
}
_SNAIL_MDPS: dict[int, float] = {10: 159.1, 25: 447.2, 50: 942.3, 75: 1447.5, 100: 1953.1}
_BANDIT_OPTIMUM = {(10, 5): 6.659988, (10, 10): 6.713951, (10, 50): 6.713951}


def _published(
    learners: tuple[str, ...], row: tuple[float, ...], table: str, snail: float, network: str
) -> dict[str, Any]:
    """Return the fields ``paper`` and ``same_method`` of an experiment.

    RL² with other memories than a GRU or an LSTM was not published, so that no number is that of the same method.

    Args:
        learners: the learners of Duan et al. (2016). RL² is the last one.
        row: their published rewards.
        table: the name of the table.
        snail: the published reward of SNAIL.
        network: the name of the network of an experiment with RL².
    """
    names = [f"{name} (Duan et al. 2016, {table})" for name in learners]
    paper = {**dict(zip(names, row, strict=True)), _SNAIL: snail}
    return {"paper": paper, "same_method": {"recurrent": names[-1], "snail": _SNAIL}.get(network)}


def experiments() -> Iterator[Experiment]:
    """Yield every preset of this file."""
    bandits: list[tuple[str, str, str, tuple[int, int], dict[str, Any]]] = [
        ("rl2", "rl2", "recurrent", *item) for item in BANDIT_SETTINGS.items()
    ]
    for (memory, pulls, arms), settings in MEMORY_BANDIT_SETTINGS.items():
        algorithm = "rl2_asymmetric" if memory == "snail" else "rl2"
        network = "recurrent" if memory == "lstm" else memory
        bandits.append((f"rl2-{memory}", algorithm, network, (pulls, arms), settings))
    titles = {
        "rl2-snail": "RL² with SNAIL and a privileged critic",
        "rl2-transformer": "RL² with a gated transformer",
        "rl2-linear": "RL² with a linear recurrent memory",
        "rl2-lstm": "RL² with an LSTM",
        "rl2-fast-weights": "RL² with fast weights",
        "rl2-meta-network": "RL² with a Meta Network's fast weights",
    }
    for prefix, algorithm, network, (pulls, arms), settings in bandits:
        yield experiment(
            name=f"{prefix}-bandit-{pulls}x{arms}",
            description=f"{titles.get(prefix, 'RL²')} on Bernoulli bandits: {pulls} pulls, {arms} arms",
            algorithm=algorithm,
            family="bandit",
            network=network,
            settings={"arms": arms, "episodes": pulls, **settings},
            tuned=True,
            **_published(_BANDIT_LEARNERS, _BANDIT_TABLE[pulls, arms], "Table 1", _SNAIL_BANDITS[pulls, arms], network),
            optimum=_BANDIT_OPTIMUM.get((pulls, arms)),
        )
    for (pulls, arms), settings in GAUSSIAN_BANDIT_SETTINGS.items():
        yield experiment(
            name=f"rl2-gaussian-bandit-{pulls}x{arms}",
            description=f"RL² on Gaussian bandits (noise 0.3): {pulls} pulls, {arms} arms",
            algorithm="rl2",
            family="gaussian-bandit",
            settings={"arms": arms, "episodes": pulls, **settings},
            tuned=True,
        )
    mdps: list[tuple[str, str, str, int, dict[str, Any]]] = [
        ("rl2", "fast-weights", "fast weights", *item) for item in TABULAR_MDP_SETTINGS.items()
    ]
    mdps += [("rl2-gru", "recurrent", "a GRU", *item) for item in GRU_TABULAR_MDP_SETTINGS.items()]
    mdps += [("rl2-snail", "snail", "SNAIL", *item) for item in SNAIL_TABULAR_MDP_SETTINGS.items()]
    mdps += [("rl3", "fast-weights", "fast weights", *item) for item in RL3_TABULAR_MDP_SETTINGS.items()]
    mdps += [("rl3-gru", "recurrent", "a GRU", *item) for item in RL3_GRU_TABULAR_MDP_SETTINGS.items()]
    for prefix, network, memory, episodes, settings in mdps:
        learner, title = ("rl3", "RL³") if prefix.startswith("rl3") else ("rl2", "RL²")
        yield experiment(
            name=f"{prefix}-tabular-mdp-{episodes}",
            description=f"{title} with {memory} on random MDPs (10 states, 5 actions): {episodes} episodes of 10 steps",
            algorithm=learner,
            family="tabular-mdp",
            network=network,
            settings={"episodes": episodes, **settings},
            tuned=prefix != "rl3-gru",
            **_published(
                _MDP_LEARNERS,
                _MDP_TABLE[episodes],
                "Table 2",
                _SNAIL_MDPS[episodes],
                network if learner == "rl2" else learner,
            ),
        )
    rooms = [("rl2", "recurrent", "RL²", *item) for item in DARK_ROOM_SETTINGS.items()]
    for (memory, family), settings in MEMORY_DARK_ROOM_SETTINGS.items():
        rooms.append((f"rl2-{memory}", memory, "RL² with a linear recurrent memory", family, settings))
    for prefix, network, title, family, settings in rooms:
        yield experiment(
            name=f"{prefix}-{family}",
            description=f"{title} on {registry.family(family).title}",
            algorithm="rl2",
            family=family,
            network=network,
            settings=settings,
            tuned=True,
        )
