"""The registered families of tasks."""

from __future__ import annotations

from typing import Any

from metarl_jax.experiments.registry import Family, register

_ENVIRONMENTS, _ORACLES = "metarl_jax.environments", "metarl_jax.oracles"


def _references(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{_ORACLES}.{module}:{name}" for name in names)


_RANDOM, _KNOWN = _references("at_random", "uniform"), _references("known_task", "optimal")
_BANDIT = _references(
    "bandits",
    "random",
    "greedy_posterior_mean",
    "epsilon_greedy",
    "thompson_sampling",
    "optimistic_thompson_sampling",
    "ucb1",
    "best_arm",
)
_MANY: dict[str, Any] = {"heldout_tasks": 20_000, "validation_tasks": 512, "heldout_batch": 2048}

register(
    Family(
        "bandit",
        "Bernoulli bandits (Duan et al. 2016)",
        f"{_ENVIRONMENTS}.bandits:bernoulli",
        # The Gittins index is computed for rewards of 0 and 1.
        references=(*_BANDIT, *_references("bandits", "gittins")),
        finite_arms=True,
        tabular=True,
        optimal_action=True,
        source=f"{_ORACLES}.bandits:thompson_sampling",
        **_MANY,
    ),
    Family(
        "gaussian-bandit",
        "Gaussian bandits",
        f"{_ENVIRONMENTS}.bandits:gaussian",
        references=_BANDIT,
        tabular=True,
        optimal_action=True,
        source=f"{_ORACLES}.bandits:thompson_sampling",
        **_MANY,
    ),
    Family(
        "tabular-mdp",
        "random tabular MDPs (Duan et al. 2016)",
        f"{_ENVIRONMENTS}.tabular_mdp:make",
        references=_references(
            "tabular_mdp",
            "random",
            "greedy",
            "epsilon_greedy",
            "psrl",
            "opsrl",
            "ucrl2",
            "beb",
            "state_gittins",
            "optimal",
        ),
        tabular=True,
        optimal_action=True,
        source=f"{_ORACLES}.tabular_mdp:psrl",
        **_MANY,
    ),
    Family(
        "gridnavi",
        "GridNavi (Zintgraf et al. 2020)",
        f"{_ENVIRONMENTS}.gridnavi:make",
        references=(*_references("gridnavi", "bayes_optimal", "posterior_sampling"), *_KNOWN),
        tabular=True,
        optimal_action=True,
        source=f"{_ORACLES}.gridnavi:posterior_sampling",
        **_MANY,
    ),
    package=True,
)

# --------------------------------------------------------------------------------------------------- rooms and mazes

_SEARCHED = (*_references("dark_room", "posterior_sampling"), *_KNOWN)
_ROOMS: dict[str, Any] = {"heldout_tasks": 2000, "validation_tasks": 512, "heldout_batch": 2048}
register(
    Family(
        "dark-room",
        "the dark room (Laskin et al. 2022)",
        f"{_ENVIRONMENTS}.dark_room:algorithm_distillation",
        defaults={"heldout_share": 0.0},
        references=_SEARCHED,
        optimal_action=True,
        source=_SEARCHED[0],
        **_ROOMS,
    ),
    Family(
        "dark-room-new-goals",
        "the dark room with held-out goals (Laskin et al. 2022)",
        f"{_ENVIRONMENTS}.dark_room:algorithm_distillation",
        defaults={"heldout_share": 0.2},
        references=_SEARCHED,
        optimal_action=True,
        source=_SEARCHED[0],
        **_ROOMS,
    ),
    Family(
        "dark-room-10x10",
        "the 10x10 dark room (Lee et al. 2023)",
        f"{_ENVIRONMENTS}.dark_room:decision_pretrained",
        defaults={"heldout_share": 0.0},
        references=_SEARCHED,
        optimal_action=True,
        source=_SEARCHED[0],
        **_ROOMS,
    ),
    Family(
        "dark-key-to-door",
        "dark key-to-door with held-out pairs of positions (Laskin et al. 2022)",
        f"{_ENVIRONMENTS}.dark_room:key_to_door",
        references=_KNOWN,
        optimal_action=True,
        **_ROOMS,
    ),
    Family(
        "t-maze",
        "T-mazes with a cue to remember (Beck et al. 2020)",
        f"{_ENVIRONMENTS}.t_maze:make",
        references=(*_RANDOM, *_KNOWN),
        **_ROOMS,
    ),
    *(
        Family(
            f"maze-{size}",
            f"{size} mazes with first-person views (Duan et al. 2016)",
            f"{_ENVIRONMENTS}.maze:{size}",
            references=_references("maze", "random", "guide"),
            heldout_tasks=1000,
            validation_tasks=256,
            heldout_batch=128,
        )
        for size in ("tiny", "small", "large")
    ),
    *(
        Family(
            f"xland-{name}",
            f"XLand-MiniGrid with {title} (Nikulin et al. 2023)",
            f"{_ENVIRONMENTS}.xland:{function}",
            heldout_tasks=1000,
            validation_tasks=128,
            heldout_batch=250,
        )
        for name, function, title in (
            ("made-up", "made_up_family", "rulesets that this package generates"),
            ("trivial-21k", "trivial_21k", "the benchmark trivial-21k"),
        )
    ),
    Family(
        "navix",
        "layouts of a Navix environment (Pignatelli et al. 2024)",
        f"{_ENVIRONMENTS}.navix:make",
        heldout_tasks=2000,
        validation_tasks=256,
        heldout_batch=500,
    ),
    Family(
        "craftax-classic",
        "worlds of Craftax-Classic (Matthews et al. 2024)",
        f"{_ENVIRONMENTS}.craftax:classic",
        heldout_tasks=1000,
        validation_tasks=64,
        heldout_batch=125,
    ),
    package=True,
)

# ------------------------------------------------------------------------------------------------------------ points

_SEARCHES = _references(
    "point_robot", "prior_sampling", "posterior_sampling", "posterior_sampling_within_episodes", "goal_known"
)
register(
    Family(
        "navigation",
        "point navigation (Finn et al. 2017)",
        f"{_ENVIRONMENTS}.point_robot:maml",
        references=(*_RANDOM, *_KNOWN),
    ),
    Family("corners", "point navigation to four corners (Rothfuss et al. 2019)", f"{_ENVIRONMENTS}.point_robot:promp"),
    Family(
        "half-circle",
        "point robots with goals on a half-circle (Zintgraf et al. 2020)",
        f"{_ENVIRONMENTS}.point_robot:varibad",
        references=_SEARCHES,
    ),
    Family(
        "point-robot-dense",
        "point robots with a dense reward (Rakelly et al. 2019)",
        f"{_ENVIRONMENTS}.point_robot:pearl_dense",
        references=_references("point_robot", "goal_known"),
        **_ROOMS,
    ),
    Family(
        "point-robot-sparse",
        "point robots with a sparse reward (Rakelly et al. 2019)",
        f"{_ENVIRONMENTS}.point_robot:pearl_sparse",
        references=_SEARCHES,
        **_ROOMS,
    ),
    package=True,
)

# ---------------------------------------------------------------------------------------------------- classic control

register(
    *(
        Family(
            name,
            f"{title} with random physics",
            f"{_ENVIRONMENTS}.classic_control:{name.replace('-', '_')}",
            validation_tasks=20,
            heldout_batch=100,
        )
        for name, title in (
            ("cartpole", "CartPole"),
            ("pendulum", "Pendulum"),
            ("acrobot", "Acrobot"),
            ("mountain-car", "MountainCar"),
            ("mountain-car-continuous", "MountainCarContinuous"),
        )
    ),
    Family(
        "cold-start",
        "recommendations to new users (cold start)",
        f"{_ENVIRONMENTS}.recommendation:made_up",
        hidden=("seed",),
        tabular=True,
        references=(*_references("recommendation", "popularity", "thompson", "similar_users"), *_KNOWN),
        **_MANY,
    ),
    Family(
        "markets",
        "portfolios in markets with unknown drift, volatility and autocorrelation",
        f"{_ENVIRONMENTS}.markets:autoregressive",
        references=_references("markets", "buy_and_hold", "fixed_fraction", "estimated", "posterior", "known"),
        heldout_tasks=1000,
        validation_tasks=512,
        heldout_batch=500,
    ),
    Family(
        "motion-planning",
        "motion planning on hidden maps of rooms with doors",
        f"{_ENVIRONMENTS}.motion_planning:rooms",
        references=(*_RANDOM, *_references("motion_planning", "greedy", "optimistic", "shortest_path")),
        heldout_tasks=300,
        validation_tasks=128,
        heldout_batch=150,
    ),
    package=True,
)

# ------------------------------------------------------------------------------------------------------ applications

_ONE_EPISODE = "it adapts to earlier episodes, and a task that changes is over after one episode"
register(
    Family(
        "linear-quadratic",
        "adaptive control of linear plants with unknown dynamics",
        f"{_ENVIRONMENTS}.linear_quadratic:make",
        references=_references(
            "linear_quadratic", "nominal", "robust", "least_squares", "certainty_equivalence", "known_plant"
        ),
        **_ROOMS,
    ),
    *(
        Family(
            name,
            title,
            f"{_ENVIRONMENTS}.changing:{function}",
            hidden=("seed",) if function == "interests" else (),
            references=_references(
                "changing",
                "discounted_ucb",
                "sliding_window_ucb",
                "discounted_thompson",
                *(("discounted_linear_ucb",) if function == "interests" else ()),
                "thompson",
                "greedy",
                "knowledge_gradient",
                "best_arm",
            ),
            tabular=True,
            excluded=dict.fromkeys(("gradient", "context"), _ONE_EPISODE),
            heldout_tasks=4000,
            validation_tasks=512,
            heldout_batch=2000,
        )
        for name, title, function in (
            ("switching-bandit", "Bernoulli bandits whose arms switch", "switching"),
            ("drifting-bandit", "Gaussian bandits whose arms drift", "drifting"),
            ("drifting-interests", "recommendations to users whose interests drift", "interests"),
        )
    ),
    Family(
        "moving-goal",
        "a grid whose hidden goal moves within a trial",
        f"{_ENVIRONMENTS}.moving_goal:make",
        references=_references("moving_goal", "without_moves", "posterior_sampling", "known_course"),
        tabular=True,
        excluded=dict.fromkeys(("gradient", "context"), _ONE_EPISODE),
        heldout_tasks=4000,
        validation_tasks=512,
        heldout_batch=2000,
    ),
    package=True,
)

register(
    Family(
        "driving",
        "driving among drivers of unknown manners on roads of unknown grip",
        f"{_ENVIRONMENTS}.driving:motorway",
        references=(
            *_RANDOM,
            *_references("driving", "mean", "fixed", "measured", "planned_measured", "known", "planned"),
        ),
        heldout_tasks=1000,
        validation_tasks=256,
        heldout_batch=500,
    ),
    package=True,
)

_CROSS = ("popularity", "each_domain", "both_domains", "each_domain_sampling", "both_domains_sampling")
register(
    Family(
        "cross-domain",
        "recommendations in two domains to new users",
        f"{_ENVIRONMENTS}.cross_domain:made_up",
        hidden=("seed",),
        references=(*_RANDOM, *_references("cross_domain", *_CROSS), *_KNOWN),
        heldout_tasks=5000,
        validation_tasks=512,
        heldout_batch=1000,
    ),
    package=True,
)

# ------------------------------------------------------------------------------------------------------------ medicine

_DIAGNOSES = _references(
    "diagnosis", "mean_clinic", "counted_conditions", "counted_everything", "posterior_mean", "clinic_known"
)
register(
    Family(
        "diagnosis",
        "diagnosis by sequential tests in new clinics",
        f"{_ENVIRONMENTS}.diagnosis:make",
        references=(*_RANDOM, *_DIAGNOSES),
        optimal_action=True,
        source=_DIAGNOSES[3],
        heldout_tasks=2000,
        validation_tasks=256,
        heldout_batch=1000,
    ),
    Family(
        "icu-sepsis",
        "treatment of sepsis in populations that respond unalike (ICU-Sepsis, Choudhary et al. 2024)",
        f"{_ENVIRONMENTS}.icu_sepsis:make",
        references=_references("icu_sepsis", "random", "clinicians", "mean_model", "population_known"),
        heldout_tasks=1000,
        validation_tasks=128,
        heldout_batch=50,
    ),
    package=True,
)

# ------------------------------------------------------------------------------------------------------------ robots

_SLOW: dict[str, Any] = {"heldout_tasks": 200, "validation_tasks": 20, "heldout_batch": 100}
_BODIES = ("tasks", "heldout_tasks", "seed")
_ML1 = {
    "reach": "moves its gripper to a goal position",
    "push": "pushes a puck to a goal on the table",
    "pick-place": "lifts a puck to a goal position",
}
register(
    *(
        Family(
            name,
            title,
            f"{_ENVIRONMENTS}.locomotion:{name.replace('-', '_')}",
            hidden=_BODIES,
            **_SLOW,
        )
        for name, title in (
            ("half-cheetah-direction", "a half cheetah that runs forward or backward"),
            ("half-cheetah-velocity", "a half cheetah that runs at a target velocity"),
            ("ant-direction", "an ant that walks forward or backward"),
            ("ant-goal", "an ant that walks to a goal"),
            ("walker-parameters", "walkers with random body parameters"),
            ("hopper-parameters", "hoppers with random body parameters"),
            ("humanoid-direction", "a humanoid that walks in a target direction"),
        )
    ),
    *(
        Family(
            f"ml1-{skill}",
            f"Meta-World ML1 {skill}: an arm that {what}",
            f"{_ENVIRONMENTS}.manipulation:ml1",
            defaults={"skill": skill, "horizon": 150},
            hidden=("skill", *_BODIES),
            **_SLOW,
        )
        for skill, what in _ML1.items()
    ),
    Family(
        "ml10",
        "Meta-World ML10: ten training skills and five held-out skills",
        f"{_ENVIRONMENTS}.manipulation:ml10",
        defaults={"horizon": 150},
        hidden=_BODIES,
        **_SLOW,
    ),
    package=True,
)

# ---------------------------------------------------------------------------------------------------------- few-shot

_DATASETS = "metarl_jax.datasets"
register(
    Family(
        "sinusoid",
        "sinusoids (Finn et al. 2017)",
        f"{_DATASETS}.sinusoid:maml_family",
        "few-shot",
        references=(),
        score="mean squared error",
        adam_rate=0.01,
        **_MANY,
    ),
    Family(
        "sinusoid-reptile",
        "sinusoids (Nichol et al. 2018)",
        f"{_DATASETS}.sinusoid:reptile_family",
        "few-shot",
        references=(),
        score="mean squared error",
        adam_rate=0.01,
        **_MANY,
    ),
    *(
        Family(
            name,
            title,
            f"{_DATASETS}.{name}:family",
            "few-shot",
            references=(),
            score="accuracy",
            adam_rate=0.001,
            heldout_tasks=1000,
            validation_tasks=200,
            heldout_batch=50,
            excluded={"cavia": "no network for images in this package has context parameters"},
            inputs="images",
            without_data=without_data,
        )
        for name, title, without_data in (
            ("omniglot", "Omniglot", f"{_DATASETS}.omniglot:without_data"),
            ("glyphs", "synthetic glyphs (no download)", None),
        )
    ),
    *(
        Family(
            name,
            title,
            f"{_DATASETS}.text:family",
            "few-shot",
            defaults={"split": split},
            hidden=("split",),
            references=_references("few_shot_classifiers", "nearest_centroid", "ridge_regression", "many_examples"),
            score="accuracy",
            adam_rate=0.01,
            heldout_tasks=500,
            validation_tasks=100,
            heldout_batch=50,
            without_data=f"{_DATASETS}.text:without_data",
        )
        for name, title, split in (
            ("text", "topics of texts, with held-out topics", "labels"),
            ("text-domains", "topics of texts in held-out domains (domain adaptation)", "domains"),
        )
    ),
    package=True,
)
