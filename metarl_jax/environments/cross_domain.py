"""Recommendation across domains: a user's tastes in one catalogue are informative about those in another one.

A task is a user. There are two domains, such as films and books, each with a catalogue of items of its own. An episode
is a session with the user. Each of its steps has one domain, and one item of this domain is recommended. The reward is
how much the user likes the item, plus noise. In sessions of the order "source first", the first half of the steps
belongs to domain 0 and the second half to domain 1. In mixed sessions, the domain of each step is drawn at random.

The observation has the domain that is due, one-hot, and the share of the session that has passed.

Likings of all items, of both domains together, have a normal distribution over users (``Likings``). With normal noise,
the posterior given some rewards is normal, too, and is known in closed form.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from metarl_jax.checks import boolean, choice, natural_int, positive_int, positive_number, real
from metarl_jax.environments.base import Environment
from metarl_jax.environments.recommendation import complete, read_ratings, split
from metarl_jax.types import Array, Box, Discrete, EnvFamily, Key, Privileged, TaskDistribution, Transition

DOMAINS = 2
"""The number of domains."""


@struct.dataclass
class User:
    """A task: a user."""

    likes: Array
    """The mean reward of each item of each domain, ``[2, N]`` float32."""
    max_steps_in_episode: int
    """The number of steps of an episode."""


@struct.dataclass
class SessionState:
    """The state of an episode."""

    domain: Array
    """The domain that is due, ``int32``."""
    time: Array
    """The number of steps in this episode, ``int32``."""


class Likings(NamedTuple):
    """The normal distribution of the likings of all items over users; item i of domain d has the index d N + i."""

    mean: Array
    """The means, ``[2 N]``."""
    covariance: Array
    """The covariances, ``[2 N, 2 N]``."""

    def observe(self, item: Array, reward: Array, noise: float) -> Likings:
        """Return the posterior after one reward.

        Args:
            item: the index of the item, a scalar.
            reward: the reward, a scalar.
            noise: the standard deviation of the noise of a reward.
        """
        column = self.covariance[:, item]
        gain = column / (column[item] + noise**2)
        return Likings(self.mean + gain * (reward - self.mean[item]), self.covariance - jnp.outer(gain, column))

    def separate(self) -> Likings:
        """Return the same distribution without dependencies between items of different domains."""
        domain = jnp.arange(len(self.mean)) // (len(self.mean) // DOMAINS)
        return self._replace(covariance=jnp.where(domain[:, None] == domain, self.covariance, 0.0))


class CrossDomain(Environment):
    """Sessions with one user.

    Args:
        items: the number N of items of a domain.
        steps: the number of steps of a session.
        mixed: whether domains are drawn at random.
        noise: the standard deviation of the noise of a reward.
        likings: the distribution of likings over training users.
    """

    def __init__(self, items: int, steps: int, mixed: bool, noise: float, likings: Likings) -> None:
        self.items = items
        self.steps = steps
        self.mixed = mixed
        self.noise = noise
        self.likings = likings

    def _due(self, key: Key, time: Array) -> Array:
        if self.mixed:
            return jax.random.randint(key, (), 0, DOMAINS, jnp.int32)
        return (2 * time >= self.steps).astype(jnp.int32)

    def _observe(self, state: SessionState) -> Array:
        passed = (state.time / self.steps).astype(jnp.float32)
        return jnp.append(jax.nn.one_hot(state.domain, DOMAINS, dtype=jnp.float32), passed)

    def reset_env(self, key: Key, params: User) -> tuple[Array, SessionState]:
        del params
        state = SessionState(self._due(key, jnp.int32(0)), jnp.int32(0))
        return self._observe(state), state

    def step_env(
        self, key: Key, state: SessionState, action: Array, params: User
    ) -> tuple[Array, SessionState, Array, Array, dict[Any, Any]]:
        key_noise, key_domain = jax.random.split(key)
        reward = params.likes[state.domain, action] + self.noise * jax.random.normal(key_noise, dtype=jnp.float32)
        time = state.time + 1
        after = SessionState(self._due(key_domain, time), time)
        return self._observe(after), after, reward, jnp.bool_(False), {}

    def action_space(self, params: User | None = None) -> Discrete:
        del params
        return Discrete(self.items)

    def observation_space(self, params: User | None = None) -> Box:
        del params
        return Box(0.0, 1.0, (DOMAINS + 1,))


def _family(env: CrossDomain, tasks: TaskDistribution) -> EnvFamily:
    def training_reward(task: User, t: Transition, discount: float) -> Array:
        """Compute the difference of the item's liking from that of the best item of the domain, which has no noise."""
        del discount
        likes = task.likes[jnp.argmax(t.inputs.obs[:, :DOMAINS], axis=-1)]
        return jnp.take_along_axis(likes, t.action[:, None], axis=-1)[:, 0] - jnp.max(likes, axis=-1)

    return EnvFamily(
        env=env,
        tasks=tasks,
        horizon=env.steps,
        observation_space=env.observation_space(),
        action_space=env.action_space(),
        # Half of the steps belong to each domain, at least on average.
        optimal_return=lambda user: env.steps / DOMAINS * jnp.sum(jnp.max(user.likes, axis=-1)),
        privileged=Privileged(training_reward=training_reward),
    )


Order = Literal["source first", "mixed"]
_order = choice("source first", "mixed")


def made_up(
    items: int = 20,
    factors: int = 4,
    interactions: int = 10,
    order: Order = "source first",
    *,
    noise: float = 0.5,
    shifted: bool = False,
    seed: int = 0,
) -> EnvFamily:
    """Make a family with synthetic catalogues, which are drawn once from ``seed``.

    Every task is a new user u ~ N(0, I). The mean reward of item i is b + v . u, where b ~ N(0, 1 / 4) is the item's
    quality, and the entries of v ~ N(0, 1 / factors).

    Args:
        items: The number of items of each domain, at least two.
        factors: The number of factors of a taste.
        interactions: The number of interactions with a user in each domain; in mixed sessions their mean.
        order: The order of the domains in a session, "source first" or "mixed".
        noise: The standard deviation of the noise of a reward.
        shifted: Whether held-out tasks are drawn from another distribution than training tasks: u ~ N(0, 4 I).
        seed: The seed of the catalogues.

    Raises:
        ValueError: if a setting is out of range.
    """
    items, factors = positive_int("items", items), positive_int("factors", factors)
    interactions, seed = positive_int("interactions", interactions), natural_int("seed", seed)
    noise, mixed = positive_number("noise", noise), _order("order", order) == "mixed"
    shifted = boolean("shifted", shifted)
    if items < 2:
        raise ValueError(f"items must be at least 2, not {items}")
    random = np.random.default_rng(seed)
    features = random.normal(size=(DOMAINS * items, factors)) / np.sqrt(factors)
    quality = 0.5 * random.normal(size=DOMAINS * items)
    likings = Likings(jnp.asarray(quality, jnp.float32), jnp.asarray(features @ features.T, jnp.float32))
    env = CrossDomain(items, DOMAINS * interactions, mixed, noise, likings)
    vectors = jnp.asarray(features, jnp.float32)

    def drawn(deviation: float) -> Any:
        def sample(key: Key) -> User:
            taste = deviation * jax.random.normal(key, (factors,), jnp.float32)
            return User((likings.mean + vectors @ taste).reshape(DOMAINS, items), env.steps)

        return sample

    return _family(env, TaskDistribution(drawn(1.0), drawn(2.0 if shifted else 1.0)))


def read_domains(path: str | Path, genre: str | None = None) -> dict[str, int]:
    """Read the domain of each item from a CSV file, such as ``movies.csv`` of MovieLens.

    The first line of the file names its columns. The columns ``item`` (or ``itemId``, ``movieId``), and ``domain`` (or
    ``genres``) are read. The column ``domain`` has two different values, whose alphabetical order is that of the
    domains. The column ``genres`` has names that are separated by "|": items with the name ``genre`` are domain 1.

    Args:
        path: the path of the file.
        genre: the genre that makes domain 1; None if the file has a column ``domain``.

    Returns:
        The domain of each item, 0 or 1.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not UTF-8 text or no CSV file, a column or a value is missing, or there are not exactly two
            domains.
    """
    path, wanted = Path(path), "domain" if genre is None else "genres"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of items {path}")
    values: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            named = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
            item_column = next((named[name] for name in ("item", "itemid", "movieid") if name in named), None)
            if item_column is None or wanted not in named:
                missing = wanted if item_column is not None else "item or itemid or movieid"
                raise ValueError(f"{path} has no column {missing}; it has {', '.join(named) or 'none'}")
            for row in rows:
                item, value = ((row[column] or "").strip() for column in (item_column, named[wanted]))
                if not item or not value or value.lower() == "nan":
                    raise ValueError(f"{path}, line {rows.line_num}: item {item!r} has no {wanted}")
                values[item] = value
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from error
    if genre is not None:
        wanted = genre.strip().lower()
        domains = {
            item: int(wanted in (name.strip() for name in value.lower().split("|"))) for item, value in values.items()
        }
    else:
        names = sorted(set(values.values()))
        domains = {item: names.index(value) for item, value in values.items()}
    if set(domains.values()) != set(range(DOMAINS)):
        found = len(set(domains.values()))
        raise ValueError(f"{path} has items of {found} domain{'s' * (found != 1)}: exactly 2 are needed")
    return domains


def from_ratings(
    path: str | Path,
    items_path: str | Path,
    *,
    genre: str | None = None,
    items: int = 20,
    rank: int = 8,
    interactions: int = 10,
    order: Order = "source first",
    heldout: float = 0.2,
    least: int = 5,
    seed: int = 0,
) -> EnvFamily:
    """Make a family whose tasks are the users of a ratings file, such as MovieLens, and a file of items.

    The ratings of the items of both domains with the most ratings are scaled and completed as by
    ``recommendation.from_ratings``. The distribution of likings has the mean and the covariance of training users.

    Args:
        path: The path of a CSV file of ratings (see ``recommendation.read_ratings``).
        items_path: The path of a CSV file of items (see ``read_domains``).
        genre: The genre that makes domain 1; None if the file of items has a column ``domain``.
        items: The largest number of items to keep in each domain; these are the items with the most ratings.
        rank: The rank of the completion.
        interactions: The number of interactions with a user in each domain; in mixed sessions their mean.
        order: The order of the domains in a session, "source first" or "mixed".
        heldout: The share of users that is held out.
        least: The smallest number of ratings of these items; users with fewer are left out.
        seed: The seed that decides which users are held out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a setting is out of range, a file cannot be read, a domain has fewer than two items, or fewer
            than two users are left for training.
    """
    items, rank = positive_int("items", items), positive_int("rank", rank)
    interactions, seed = positive_int("interactions", interactions), natural_int("seed", seed)
    heldout, mixed = real(above=0, below=1)("heldout", heldout), _order("order", order) == "mixed"
    domains = read_domains(items_path, genre)
    table = read_ratings(path, items=items, least=least, domains=domains).value
    number = table.shape[1] // DOMAINS
    trained, tested = split(len(table), heldout, seed)
    low, high = np.nanmin(table), np.nanmax(table)
    if high <= low:
        raise ValueError(f"all ratings in {path} are {low:g}: at least two different ratings are needed")
    table = (table - low) / (high - low)
    likes = np.clip(complete(table, rank), 0.0, 1.0)
    noise = max(float(np.sqrt(np.nanmean((table - likes) ** 2))), 1e-3)
    training = likes[trained]
    likings = Likings(
        jnp.asarray(training.mean(axis=0), jnp.float32), jnp.asarray(np.cov(training, rowvar=False), jnp.float32)
    )
    env = CrossDomain(number, DOMAINS * interactions, mixed, noise, likings)

    def among(users: np.ndarray) -> Any:
        rows = jnp.asarray(users.reshape(-1, DOMAINS, number), jnp.float32)
        return lambda key: User(rows[jax.random.randint(key, (), 0, len(rows), jnp.int32)], env.steps)

    return _family(env, TaskDistribution(among(training), among(likes[tested])))
