"""The families of tasks of the frozen benchmark, and their budgets. The import of this module does not import JAX."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from metarl_jax.checks import choice, did_you_mean

if TYPE_CHECKING:
    from metarl_jax.types import EnvFamily

VERSION = 1
"""The version of the benchmark. Anything that changes tasks, budgets or references needs a new version."""
Split: TypeAlias = Literal["heldout", "shifted"]
SPLITS: tuple[Split, ...] = ("heldout", "shifted")
TIERS: Mapping[int, tuple[str, int]] = {
    1: ("minutes on a CPU", 65_000_000),
    2: ("an hour on a CPU", 130_000_000),
    3: ("an accelerator", 100_000_000),
}
"""The meaning of each tier, and the budget of training in environment steps, which is that of each family and seed."""


class Shift(NamedTuple):
    """Tasks that lie outside of the distribution of the training tasks."""

    what: str
    """A description in one line."""
    sampler: str | None = None
    """The name of a function in ``shifts`` that draws a task. None: the family with ``settings`` draws held-out
    tasks."""
    family: str | None = None
    """The registered name of another family with the same spaces. None: the same family."""
    settings: Mapping[str, Any] = {}
    """The settings that differ from those of the training tasks."""
    horizon: int | None = None
    """The largest number of steps of an episode. None: that of the held-out tasks."""


class Entry(NamedTuple):
    """A family of tasks of the benchmark."""

    name: str
    tier: int
    family: str
    """The registered name of the family."""
    settings: Mapping[str, Any]
    """The settings of the family that differ from their defaults."""
    episodes: int
    """The adaptation budget: the number of episodes of a trial, all of which are scored."""
    horizon: int
    """The largest number of steps of an episode."""
    seed: int
    """The seed of the held-out tasks. The seed of the shifted tasks is one higher."""
    lowest: float
    """A lower bound of the return of an episode. Normal random numbers in float32 are within 5.42 of their mean."""
    highest: float
    """An upper bound of the return of an episode."""
    fixed_length: bool
    """Whether all episodes have the same number of steps."""
    whole_returns: bool = False
    """Whether the return of every episode is a whole number."""
    deviation: float | None = None
    """An upper bound of the standard deviation of the return of an episode on a known task, whatever the policy. None:
    the reference optimum is not the optimal policy of the known task on all splits, so that it is no upper bound of the
    mean return."""
    has_success: bool = False
    """Whether the tasks define success. An episode is then a success if and only if its return is positive."""
    shift: Shift | None = None
    """The shifted tasks; None: the family has none."""
    tasks: int = 256
    """The number of held-out tasks, and of shifted tasks."""

    @property
    def budget(self) -> int:
        """The largest number of environment steps with which a learner may be trained, for each seed."""
        return TIERS[self.tier][1]

    def horizon_of(self, split: Split) -> int:
        """Return the largest number of steps of an episode of a split."""
        other = self.shift.horizon if split == "shifted" and self.shift is not None else None
        return self.horizon if other is None else other

    @property
    def splits(self) -> tuple[Split, ...]:
        """The kinds of tasks that the family has."""
        return SPLITS if self.shift is not None else SPLITS[:1]


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "bandit",
        tier=1,
        family="bandit",
        settings={"arms": 5},
        episodes=100,
        horizon=1,
        seed=1001,
        lowest=0.0,
        highest=1.0,
        fixed_length=True,
        whole_returns=True,
        shift=Shift("success probabilities are cubes of uniform numbers, so that good arms are rare", "rare_rewards"),
    ),
    Entry(
        "gaussian-bandit",
        tier=1,
        family="gaussian-bandit",
        settings={"arms": 5, "noise": 0.3},
        episodes=100,
        horizon=1,
        seed=1011,
        lowest=-1.8,
        highest=3.8,
        fixed_length=True,
        deviation=0.3,
        shift=Shift("mean rewards are between 1 and 2 instead of 0 and 1", "higher_rewards"),
    ),
    Entry(
        "tabular-mdp-10",
        tier=1,
        family="tabular-mdp",
        settings={},
        episodes=10,
        horizon=10,
        seed=1021,
        lowest=-100.0,
        highest=120.0,
        fixed_length=True,
        deviation=10.0,
        shift=Shift("transitions are nearly deterministic", "sharp_transitions"),
    ),
    Entry(
        "gridnavi",
        tier=1,
        family="gridnavi",
        settings={},
        episodes=4,
        horizon=15,
        seed=1031,
        lowest=-1.5,
        highest=15.0,
        fixed_length=True,
        shift=Shift("goals are in the far half of the grid only", "far_goals"),
    ),
    Entry(
        "dark-room",
        tier=1,
        family="dark-room-new-goals",
        settings={},
        episodes=10,
        horizon=20,
        seed=1041,
        lowest=0.0,
        highest=20.0,
        fixed_length=True,
        deviation=0.0,
        whole_returns=True,
        shift=Shift("goals are in the four corners only", "corners"),
    ),
    Entry(
        "t-maze",
        tier=1,
        family="t-maze",
        settings={"length": 50, "noise_features": 1},
        episodes=1,
        horizon=50,
        seed=1051,
        lowest=0.0,
        highest=1.0,
        fixed_length=True,
        deviation=0.0,
        has_success=True,
        whole_returns=True,
        shift=Shift("the corridor has 100 steps instead of 50", settings={"length": 100}, horizon=100),
    ),
    Entry(
        "navigation",
        tier=1,
        family="navigation",
        settings={},
        episodes=4,
        horizon=100,
        seed=1061,
        lowest=-856.0,
        highest=0.0,
        fixed_length=False,
        deviation=0.0,
        shift=Shift("goals are up to twice as far away, outside of the square of the training goals", "distant_goals"),
    ),
    Entry(
        "cold-start",
        tier=1,
        family="cold-start",
        settings={},
        episodes=20,
        horizon=1,
        seed=1071,
        lowest=-0.6,
        highest=1.6,
        fixed_length=True,
        deviation=0.1,
        shift=Shift("users differ from their types by twice as much", settings={"spread": 1.0}),
    ),
    Entry(
        "half-circle",
        tier=2,
        family="half-circle",
        settings={},
        episodes=3,
        horizon=100,
        seed=2001,
        lowest=0.0,
        highest=100.0,
        fixed_length=True,
        deviation=0.0,
        has_success=True,
        shift=Shift("goals are on the other half of the circle", "other_half"),
    ),
    Entry(
        "key-to-door",
        tier=2,
        family="dark-key-to-door",
        settings={},
        episodes=10,
        horizon=50,
        seed=2011,
        lowest=0.0,
        highest=2.0,
        fixed_length=True,
        deviation=0.0,
        whole_returns=True,
        shift=Shift("key and door are in two of the four corners", "corners"),
    ),
    Entry(
        "maze",
        tier=2,
        family="maze-tiny",
        settings={},
        episodes=4,
        horizon=50,
        seed=2021,
        lowest=-0.6,
        highest=1.0,
        fixed_length=False,
        shift=Shift("mazes have 5 by 5 cells instead of 3 by 3", family="maze-small", settings={"horizon": 50}),
    ),
    Entry(
        "tabular-mdp-25",
        tier=2,
        family="tabular-mdp",
        settings={},
        episodes=25,
        horizon=10,
        seed=2031,
        lowest=-100.0,
        highest=120.0,
        fixed_length=True,
        deviation=10.0,
        shift=Shift("transitions are nearly deterministic", "sharp_transitions"),
    ),
    Entry(
        "half-cheetah-direction",
        tier=3,
        family="half-cheetah-direction",
        settings={},
        episodes=2,
        horizon=200,
        seed=3001,
        lowest=-10_000.0,
        highest=10_000.0,
        fixed_length=True,
        tasks=64,
    ),
    Entry(
        "xland",
        tier=3,
        family="xland-made-up",
        settings={},
        episodes=4,
        horizon=64,
        seed=3011,
        lowest=0.0,
        highest=1.0,
        fixed_length=False,
    ),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}


def get(name: str) -> Entry:
    """Return the entry of a name; raise a ValueError with similar names if there is none."""
    if name not in _BY_NAME:
        raise ValueError(f"the benchmark has no family {name!r}{did_you_mean(name, _BY_NAME)}")
    return _BY_NAME[name]


def of_tier(tier: int) -> tuple[Entry, ...]:
    """Return the entries of a tier.

    Raises:
        ValueError: if there is no such tier.
    """
    if tier not in TIERS:
        raise ValueError(f"tier must be one of {', '.join(map(str, TIERS))}, not {tier}")
    return tuple(entry for entry in ENTRIES if entry.tier == tier)


@functools.lru_cache(maxsize=64)
def make(name: str, split: Split = "heldout") -> EnvFamily:
    """Make the family of tasks of an entry, whose held-out tasks are those of a split.

    Args:
        name: the name of the entry.
        split: "heldout" or "shifted". Shifted tasks may be longer than those of training.

    Raises:
        ValueError: if there is no such entry or split, or the entry has no shifted tasks.
        ImportError: if the family needs a package that is not installed.
    """
    from metarl_jax.benchmark import shifts
    from metarl_jax.experiments import registry

    entry = get(name)
    choice(*SPLITS)("split", split)
    shift = entry.shift if split == "shifted" else None
    if split == "shifted" and shift is None:
        raise ValueError(f"{name} has no shifted tasks")
    chosen = registry.family(shift.family if shift and shift.family else entry.family)
    own = {} if shift is not None and shift.family is not None else entry.settings
    settings = {**chosen.defaults, **own, **(shift.settings if shift else {})}
    family = registry.resolve(chosen.make)(**settings)
    if shift is not None and shift.sampler is not None:
        sample = getattr(shifts, shift.sampler)(family)
        family = family._replace(tasks=family.tasks._replace(sample_heldout=sample))
    return family
