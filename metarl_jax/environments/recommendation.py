"""Cold-start recommendation: recommend items to a new user, of whom only a group is known, and infer the user's taste.

A task is a user. Every interaction recommends one item of a catalogue. The reward is how much the user likes the item,
from 0 to 1, plus noise. A user's liking of an item does not change. Tastes have a low rank: each user is one of a few
types plus an individual deviation, and the liking of an item depends on an inner product of a few numbers. A few
rewards are therefore informative about all other items. The observation is the user's group, which is informative
about the type, as age or country would be. An interaction is an episode of one step, like a pull of a bandit's arm.
"""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import natural_int, positive_int, positive_number, real
from metarl_jax.environments.base import Environment
from metarl_jax.types import Array, Discrete, EnvFamily, Key, TaskDistribution


@struct.dataclass
class User:
    """A task: a user."""

    likes: Array
    """The mean reward of each item, ``[items]`` float32 in [0, 1]."""
    group: Array
    """The index of the user's group, ``int32``."""
    max_steps_in_episode: int = 1
    """The number of steps of an episode."""


@struct.dataclass
class InteractionState:
    """The state of an episode."""

    time: Array
    """The number of interactions in this episode, ``int32``."""


class Recommendation(Environment):
    """The recommendation of items of a catalogue to one user.

    Args:
        items: the number of items.
        groups: the number of groups of users.
        noise: the standard deviation of a reward around the user's mean for the item.
    """

    def __init__(self, items: int, groups: int, noise: float) -> None:
        self.items = items
        self.groups = groups
        self.noise = noise

    def reset_env(self, key: Key, params: User) -> tuple[Array, InteractionState]:
        del key
        return params.group, InteractionState(jnp.int32(0))

    def step_env(
        self, key: Key, state: InteractionState, action: Array, params: User
    ) -> tuple[Array, InteractionState, Array, Array, dict[Any, Any]]:
        reward = params.likes[action] + self.noise * jax.random.normal(key, dtype=jnp.float32)
        return params.group, InteractionState(state.time + 1), reward, jnp.bool_(True), {}

    def action_space(self, params: User | None = None) -> Discrete:
        return Discrete(self.items if params is None else params.likes.shape[-1])

    def observation_space(self, params: User | None = None) -> Discrete:
        del params
        return Discrete(self.groups)


def _family(env: Recommendation, tasks: TaskDistribution) -> EnvFamily:
    return EnvFamily(
        env=env,
        tasks=tasks,
        horizon=1,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        optimal_return=lambda user: jnp.max(user.likes),
    )


def made_up(
    items: int = 50,
    types: int = 5,
    groups: int = 3,
    rank: int = 4,
    *,
    spread: float = 0.5,
    noise: float = 0.1,
    seed: int = 0,
) -> EnvFamily:
    """Make a family with a synthetic catalogue and synthetic types of users, which are drawn once from ``seed``.

    Every task is a new user, in training, validation and evaluation. An item is a vector v of ``rank`` numbers ~
    N(0, 1 / rank), and a quality b ~ N(0, 1 / 4). A type is a vector of N(0, 1) numbers. A user's vector u is that of
    one of the types plus N(0, spread^2) noise. The user's mean reward of the item is ``sigmoid(b + 2 u . v)``. Each
    group has its own distribution over types, drawn from Dirichlet(1/2).

    Args:
        items: The number of items of the catalogue, at least two.
        types: The number of types of users.
        groups: The number of groups of users.
        rank: The number of factors of a taste.
        spread: The standard deviation of the users of one type.
        noise: The standard deviation of a reward.
        seed: The seed of the catalogue, the types and the groups.

    Raises:
        ValueError: if a setting is out of range.
    """
    items, types, groups = positive_int("items", items), positive_int("types", types), positive_int("groups", groups)
    rank, seed = positive_int("rank", rank), natural_int("seed", seed)
    spread, noise = real(at_least=0)("spread", spread), positive_number("noise", noise)
    if items < 2:
        raise ValueError(f"items must be at least 2, not {items}")
    random = np.random.default_rng(seed)
    features = jnp.asarray(random.normal(size=(items, rank)) / np.sqrt(rank), jnp.float32)
    quality = jnp.asarray(0.5 * random.normal(size=items), jnp.float32)
    centres = jnp.asarray(random.normal(size=(types, rank)), jnp.float32)
    shares = jnp.asarray(random.dirichlet(np.full(types, 0.5), size=groups), jnp.float32)

    def sample(key: Key) -> User:
        key_group, key_type, key_taste = jax.random.split(key, 3)
        group = jax.random.randint(key_group, (), 0, groups, jnp.int32)
        kind = jax.random.choice(key_type, types, p=shares[group])
        taste = centres[kind] + spread * jax.random.normal(key_taste, (rank,), jnp.float32)
        return User(jax.nn.sigmoid(quality + 2 * features @ taste), group)

    return _family(Recommendation(items, groups, noise), TaskDistribution(sample, sample))


class Ratings(NamedTuple):
    """The ratings of a file, as a table with gaps."""

    users: list[str]
    """The names of the users (rows)."""
    items: list[str]
    """The names of the items (columns)."""
    value: np.ndarray
    """The ratings, ``[users, items]`` float64; NaN where there is no rating."""


def read_ratings(
    path: str | Path, *, items: int = 50, least: int = 5, domains: Mapping[str, int] | None = None
) -> Ratings:
    """Read a CSV file of ratings.

    The first line of the file names its columns. The columns ``user`` (or ``userId``), ``item`` (or ``itemId``,
    ``movieId``) and ``rating`` are read. If a user rated an item more than once, the last rating counts.

    The items with the most ratings are chosen first. Users with too few ratings of these items are then left out, and
    so are items without a rating by any other user.

    Args:
        path: the path of the file, which is UTF-8 text.
        items: the largest number of items to keep, of each domain.
        least: the smallest number of a user's ratings of these items.
        domains: the domain of each item, from 0 on; other items are left out. The same number of items is kept of each
            domain, and the items of domain 0 are first. None: all items are of one domain.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not UTF-8 text or no CSV file, a column is missing, a row has no number for a rating,
            or fewer than 10 users or 2 items of a domain remain.
    """
    path, items, least = Path(path), positive_int("items", items), positive_int("least", least)
    if not path.is_file():
        raise FileNotFoundError(f"there is no ratings file {path}")
    try:
        found = _read_rows(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    popularity = Counter(item for _, item in found)
    domain_of = dict.fromkeys(popularity, 0) if domains is None else domains
    groups: list[list[str]] = [[] for _ in range(1 + max(domain_of.values(), default=0))]
    for item in sorted(popularity, key=lambda item: (-popularity[item], item)):
        if item in domain_of:
            groups[domain_of[item]].append(item)
    left = items
    while True:
        left = min(left, *map(len, groups))
        groups = [group[:left] for group in groups]
        column_of = {item: column for column, item in enumerate(itertools.chain(*groups))}
        by_user: dict[str, dict[int, float]] = {}
        for (user, item), value in found.items():
            if item in column_of:
                by_user.setdefault(user, {})[column_of[item]] = value
        users = sorted(user for user, rated in by_user.items() if len(rated) >= least)
        rated = {column for user in users for column in by_user[user]}
        if len(rated) == len(column_of) or left < 2 or len(users) < 10:
            break
        # Fewer items of one domain mean fewer of all, so that users may have too few ratings.
        groups = [[item for item in group if column_of[item] in rated] for group in groups]
    if left < 2 or len(users) < 10:
        kept = "items with the most ratings" if domains is None else "items of each domain with the most ratings"
        raise ValueError(
            f"{path} has {len(users)} users with {least} ratings or more of the {left} {kept}: "
            f"at least 10 users and 2 items{'' if domains is None else ' of each domain'} are needed"
        )
    table = np.full((len(users), len(column_of)), np.nan)
    for row, user in enumerate(users):
        for column, value in by_user[user].items():
            table[row, column] = value
    return Ratings(users, list(column_of), table)


def _read_rows(path: Path) -> dict[tuple[str, str], float]:
    """Read the rating of each pair of a user and an item."""
    found: dict[tuple[str, str], float] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        named = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        columns = []
        for choices in (("user", "userid"), ("item", "itemid", "movieid"), ("rating",)):
            column = next((named[choice] for choice in choices if choice in named), None)
            if column is None:
                raise ValueError(f"{path} has no column {' or '.join(choices)}; it has {', '.join(named) or 'none'}")
            columns.append(column)
        for row in rows:
            user, item, text = (row[column] and row[column].strip() for column in columns)
            try:
                value = float(text)
            except (TypeError, ValueError):
                value = np.nan
            if not user or not item or not np.isfinite(value):
                raise ValueError(f"{path}, line {rows.line_num}: {text!r} is not a rating of {item!r} by {user!r}")
            found[user, item] = value
    return found


def split(users: int, heldout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose at random which users are held out.

    Args:
        users: the number of users.
        heldout: the share of users that is held out; it is at least one user.
        seed: the seed of the choice.

    Returns:
        The indices of the training users, and those of the held-out ones.

    Raises:
        ValueError: if fewer than two training users remain.
    """
    order = np.random.default_rng(seed).permutation(users)
    number = max(1, round(heldout * users))
    if users - number < 2:
        raise ValueError(
            f"heldout must leave at least 2 of the {users} users for training, not {users - number}: it is {heldout:g}"
        )
    return order[number:], order[:number]


def complete(table: np.ndarray, rank: int, penalty: float = 1.0, rounds: int = 30) -> np.ndarray:
    """Fill the gaps of a table by a low-rank approximation, computed by alternating ridge regressions.

    Args:
        table: the known values, ``[users, items]``; NaN where unknown.
        rank: the rank of the approximation of the deviations from the items' means.
        penalty: the weight of the squares of both factors.
        rounds: the number of alternations.

    Returns:
        The approximation of all values, known and unknown, ``[users, items]``.
    """
    known = np.isfinite(table)
    means = np.nanmean(table, axis=0)
    residual = np.where(known, table - means, 0.0)
    item_factors = 0.1 * np.random.default_rng(0).normal(size=(table.shape[1], rank))
    user_factors = np.zeros((table.shape[0], rank))

    def regress(factors: np.ndarray, where: np.ndarray, values: np.ndarray) -> np.ndarray:
        gram = np.einsum("ri,ia,ib->rab", where.astype(float), factors, factors) + penalty * np.eye(rank)
        return np.linalg.solve(gram, (values @ factors)[..., None])[..., 0]

    for _ in range(rounds):
        user_factors = regress(item_factors, known, residual)
        item_factors = regress(user_factors, known.T, residual.T)
    return means + user_factors @ item_factors.T


def from_ratings(
    path: str | Path, *, items: int = 50, rank: int = 8, heldout: float = 0.2, least: int = 5, seed: int = 0
) -> EnvFamily:
    """Make a family whose tasks are the users of a ratings file.

    A low-rank completion of the table of ratings (``complete``) gives the mean reward of all items for each user.
    Ratings are scaled to [0, 1] by the lowest and the highest rating of the file. The noise is the root mean squared
    difference between the ratings and their completion. There is one group. A share of the users is held out, but the
    factors of items are learned from all users. Validation tasks are training users, because a file has no other ones.

    Args:
        path: The path of a CSV file (see ``read_ratings``).
        items: The largest number of items to keep; these are the items with the most ratings.
        rank: The rank of the completion.
        heldout: The share of users that is held out.
        least: The smallest number of ratings of these items; users with fewer are left out.
        seed: The seed that decides which users are held out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting is out of range, the file cannot be read, all of its ratings are equal, or fewer than
            two users are left for training.
    """
    rank, heldout = positive_int("rank", rank), real(above=0, below=1)("heldout", heldout)
    seed = natural_int("seed", seed)
    table = read_ratings(path, items=items, least=least).value
    training, tested = split(len(table), heldout, seed)
    low, high = np.nanmin(table), np.nanmax(table)
    if high <= low:
        raise ValueError(f"all ratings in {path} are {low:g}: at least two different ratings are needed")
    table = (table - low) / (high - low)
    likes = np.clip(complete(table, rank), 0.0, 1.0)
    noise = max(float(np.sqrt(np.nanmean((table - likes) ** 2))), 1e-3)

    def among(users: np.ndarray) -> Any:
        rows = jnp.asarray(likes[users], jnp.float32)
        return lambda key: User(rows[jax.random.randint(key, (), 0, len(rows), jnp.int32)], jnp.int32(0))

    tasks = TaskDistribution(among(training), among(tested))
    return _family(Recommendation(likes.shape[1], 1, noise), tasks)
