"""Recommendation across domains: sessions, the normal posterior, files, and reference learners."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import cross_domain, recommendation
from metarl_jax.oracles import cross_domain as oracles
from metarl_jax.oracles import known_task
from metarl_jax.rollout import trial
from metarl_jax.types import EnvFamily, Inputs, Oracle, Transition


def play(family: EnvFamily, key: jax.Array, users: int) -> tuple[cross_domain.User, Transition]:
    """Play a session with random recommendations to each of several users."""

    def act(key: jax.Array, carry: tuple[()], inputs: Inputs) -> tuple[tuple[()], jax.Array, tuple[()]]:
        del inputs
        return carry, jax.random.randint(key, (), 0, family.action_space.n, jnp.int32), ()  # type: ignore[union-attr]

    def one(key: jax.Array) -> tuple[cross_domain.User, Transition]:
        task = family.tasks.sample(key)
        return task, trial(jax.random.fold_in(key, 1), act, (), family, task, 1)[1]

    return jax.jit(jax.vmap(one))(jax.random.split(key, users))


@pytest.mark.parametrize("order", ["source first", "mixed"])
def test_rewards_are_the_likings_of_the_domain_that_is_due_plus_noise(order: Any) -> None:
    family = cross_domain.made_up(5, 2, 4, order, noise=0.3)
    users, steps = play(family, jax.random.key(0), 500)
    seen = np.asarray(steps.inputs.obs)
    domain = seen[..., :2].argmax(axis=-1)
    np.testing.assert_array_equal(seen[..., :2].sum(axis=-1), 1)
    np.testing.assert_allclose(seen[..., 2], np.broadcast_to(np.arange(8) / 8, (500, 8)), atol=1e-6)
    if order == "source first":
        np.testing.assert_array_equal(domain, np.broadcast_to(np.arange(8) >= 4, (500, 8)))
    else:
        assert abs(domain.mean() - 0.5) < 0.04
        assert abs(np.corrcoef(domain[:, 0], domain[:, 1])[0, 1]) < 0.2
    likes = np.asarray(users.likes)[np.arange(500)[:, None], domain, np.asarray(steps.action)]
    noise = np.asarray(steps.reward) - likes
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert family.privileged is not None
    assert family.privileged.training_reward is not None
    own = jax.vmap(lambda user, t: family.privileged.training_reward(user, t, 1.0))(users, steps)  # type: ignore[union-attr]
    best = np.asarray(users.likes).max(axis=-1)[np.arange(500)[:, None], domain]
    np.testing.assert_allclose(own, likes - best, atol=1e-5)
    np.testing.assert_array_equal(steps.truncated[:, -1], True)


def test_likings_of_users_have_the_distribution_of_the_prior() -> None:
    for shifted, factor in ((False, 1.0), (True, 4.0)):
        family = cross_domain.made_up(4, 2, shifted=shifted)
        assert isinstance(family.env, cross_domain.CrossDomain)
        draw = jax.jit(jax.vmap(family.tasks.sample_heldout))
        likes = np.asarray(draw(jax.random.split(jax.random.key(0), 40_000)).likes).reshape(-1, 8)
        mean, covariance = (np.asarray(x) for x in family.env.likings)
        np.testing.assert_allclose(likes.mean(axis=0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(likes, rowvar=False), factor * covariance, atol=0.05 * factor)
        # Likings of the two domains depend on each other.
        assert np.abs(covariance[:4, 4:]).max() > 0.1


def test_the_posterior_is_that_of_the_normal_equations() -> None:
    family = cross_domain.made_up(4, 3, noise=0.5)
    assert isinstance(family.env, cross_domain.CrossDomain)
    random, prior = np.random.default_rng(0), family.env.likings
    chosen, rewards = random.integers(0, 8, 6), random.normal(size=6)
    posterior = prior
    for item, reward in zip(chosen, rewards, strict=True):
        posterior = posterior.observe(jnp.int32(item), jnp.float32(reward), 0.5)
    mean, covariance = (np.asarray(x, np.float64) for x in prior)
    among = covariance[np.ix_(chosen, chosen)] + 0.25 * np.eye(6)
    gain = covariance[:, chosen] @ np.linalg.inv(among)
    np.testing.assert_allclose(posterior.mean, mean + gain @ (rewards - mean[chosen]), atol=1e-4)
    np.testing.assert_allclose(posterior.covariance, covariance - gain @ covariance[chosen], atol=1e-4)
    separate = prior.separate().observe(jnp.int32(1), jnp.float32(3.0), 0.5)
    np.testing.assert_array_equal(separate.mean[4:], prior.mean[4:])
    assert bool(jnp.any(separate.mean[:4] != prior.mean[:4]))


def test_a_reference_learner_recommends_by_the_posterior_of_all_steps_before() -> None:
    family = cross_domain.made_up(6, 3, 5, "mixed")
    env = family.env
    assert isinstance(env, cross_domain.CrossDomain)
    for make, prior in ((oracles.both_domains, env.likings), (oracles.each_domain, env.likings.separate())):
        oracle = make(family, 1)
        assert oracle.play is not None
        steps = jax.jit(oracle.play)(jax.random.key(1), family.tasks.sample(jax.random.key(0)))
        posterior = prior
        for t in range(10):
            domain = int(jnp.argmax(steps.inputs.obs[t, :2]))
            assert int(steps.action[t]) == int(jnp.argmax(posterior.mean.reshape(2, 6)[domain]))
            posterior = posterior.observe(domain * 6 + steps.action[t], steps.reward[t], env.noise)


@pytest.mark.slow
def test_reference_learners_are_ordered_by_what_they_know() -> None:
    family = cross_domain.made_up()
    tasks = jax.vmap(family.tasks.sample_heldout)(jax.random.split(jax.random.key(0), 1500))
    keys = jax.random.split(jax.random.key(1), 1500)

    def score(oracle: Oracle) -> np.ndarray:
        return np.asarray(jax.jit(jax.vmap(lambda key, task: oracle.adapt(key, (), task).score[0]))(keys, tasks))

    makers = (oracles.popularity, oracles.each_domain, oracles.both_domains, known_task.optimal)
    scores = [score(make(family, 1)) for make in makers]
    for less, more in itertools.pairwise(scores):
        difference = more - less
        assert difference.mean() > 4 * difference.std() / np.sqrt(1500)
    for make, greedy in ((oracles.each_domain_sampling, scores[1]), (oracles.both_domains_sampling, scores[2])):
        assert abs(score(make(family, 1)).mean() - greedy.mean()) < 0.1 * greedy.mean()


def files(folder: Path, users: int = 60, items: int = 12) -> tuple[Path, Path]:
    """Write ratings that depend on one factor, and a file of items as in MovieLens."""
    random = np.random.default_rng(0)
    loading = random.normal(size=items)
    stars = 3 + 0.7 * random.normal(size=(users, 1)) * loading + 0.2 * random.normal(size=(users, items))
    stars = np.clip(stars, 1, 5)
    ratings, movies = folder / "ratings.csv", folder / "movies.csv"
    rows = [f"{u},{i},{x},0" for (u, i), x in np.ndenumerate(stars) if random.uniform() < 0.9]
    ratings.write_text("\n".join(["userId,movieId,rating,timestamp", *rows, ""]))
    genres = ["Drama|Comedy" if i % 3 == 0 else "Drama" for i in range(items)]
    rows = [f'{i},"Film {i}, The",{genre}' for i, genre in enumerate(genres)]
    movies.write_text("\n".join(["movieId,title,genres", *rows, ""]))
    return ratings, movies


def test_files_of_movielens_become_two_domains(tmp_path: Path) -> None:
    ratings, movies = files(tmp_path)
    assert cross_domain.read_domains(movies, "comedy") == {str(i): int(i % 3 == 0) for i in range(12)}
    family = cross_domain.from_ratings(ratings, movies, genre="Comedy", rank=1, interactions=3, heldout=0.25)
    env = family.env
    assert isinstance(env, cross_domain.CrossDomain)
    # There are four comedies, so that each domain has four items.
    assert (env.items, env.steps, family.horizon) == (4, 6, 6)
    draw = jax.random.split(jax.random.key(0), 2000)
    training, heldout = (
        np.unique(np.asarray(jax.vmap(sample)(draw).likes).reshape(2000, 8), axis=0)
        for sample in (family.tasks.sample, family.tasks.sample_heldout)
    )
    assert (len(training), len(heldout)) == (45, 15)
    assert not {row.tobytes() for row in training} & {row.tobytes() for row in heldout}
    np.testing.assert_allclose(env.likings.mean, training.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(env.likings.covariance, np.cov(training, rowvar=False), atol=1e-5)
    # One factor makes the likings of both domains depend on each other.
    scale = np.sqrt(np.diag(env.likings.covariance))
    assert np.abs(np.asarray(env.likings.covariance) / np.outer(scale, scale))[:4, 4:].max() > 0.8


@pytest.mark.parametrize(
    ("content", "genre", "message"),
    [
        (b"", None, "has no column item or itemid or movieid; it has none"),
        (b"item,title\n1,x\n", None, "has no column domain; it has item, title"),
        (b"item,domain\n1,film\n2,\n", None, "line 3: item '2' has no domain"),
        (b"item,domain\n1,film\n2,NaN\n", None, "line 3: item '2' has no domain"),
        (b"item,domain\n1\n", None, "line 2: item '1' has no domain"),
        (b"item,domain\n1,film\n2,film\n", None, "has items of 1 domain: exactly 2 are needed"),
        (b"item,domain\n1,a\n2,b\n3,c\n", None, "has items of 3 domains: exactly 2 are needed"),
        (b"movieId,genres\n1,Drama\n2,Drama\n", "Comedy", "has items of 1 domain: exactly 2 are needed"),
        ("item,domain\n1,café\n".encode("latin-1"), None, "is not UTF-8 text"),
    ],
)
def test_files_of_items_that_cannot_be_used_are_explained(
    tmp_path: Path, content: bytes, genre: str | None, message: str
) -> None:
    (tmp_path / "items.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        cross_domain.read_domains(tmp_path / "items.csv", genre)
    assert "\n" not in str(error.value)


def test_files_of_ratings_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    ratings, movies = files(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file of items"):
        cross_domain.read_domains(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="exactly 2 are needed"):
        cross_domain.from_ratings(ratings, movies, genre="Western")
    movies.write_text("item,domain\n0,a\n1,b\n2,b\n")
    with pytest.raises(ValueError, match="of the 1 items of each domain with the most ratings"):
        cross_domain.from_ratings(ratings, movies)
    ratings.write_bytes("user,item,rating\ncafé,1,3\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        cross_domain.from_ratings(ratings, movies)


def test_users_are_chosen_by_their_ratings_of_the_items_of_both_domains(tmp_path: Path) -> None:
    movies, ratings = tmp_path / "movies.csv", tmp_path / "ratings.csv"
    movies.write_text("item,domain\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(6)))
    # Users 0 to 11 rate items 0 to 3. Twenty other users rate item 4 or 5, and some that are in no domain.
    rows = [f"u{user:02},{item},{1 + (user + item) % 5}" for user in range(12) for item in range(4)]
    rows += [f"v{user},{item},3" for user in range(20) for item in (4 + user % 2, 6, 7, 8)]
    ratings.write_text("\n".join(["user,item,rating", *rows]))
    read = recommendation.read_ratings(ratings, least=2, domains=cross_domain.read_domains(movies))
    assert read.users == [f"u{user:02}" for user in range(12)]
    assert read.items == ["0", "2", "1", "3"]
    family = cross_domain.from_ratings(ratings, movies, rank=1, least=2)
    assert isinstance(family.env, cross_domain.CrossDomain)
    assert family.env.items == 2
    assert bool(jnp.all(jnp.isfinite(family.env.likings.covariance)))
    with pytest.raises(ValueError, match="heldout must leave at least 2 of the 12 users for training"):
        cross_domain.from_ratings(ratings, movies, rank=1, least=2, heldout=0.9)


def test_spaces_around_items_and_genres_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text("movieId,genres\n 1 ,Drama | Comedy\n2, Drama\n")
    assert cross_domain.read_domains(path, " comedy ") == {"1": 1, "2": 0}
    path.write_text("movieId,genres\n" + "x" * 200_000)
    with pytest.raises(ValueError, match=r"movies.csv is not a CSV file: field larger"):
        cross_domain.read_domains(path, "comedy")


def test_bad_settings_are_refused() -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"items": 1}, "items must be at least 2"),
        ({"interactions": 0}, "interactions must be a positive whole number"),
        ({"order": "target first"}, "order must be one of source first, mixed"),
        ({"noise": 0.0}, "noise must be a finite number above 0"),
        ({"shifted": 1}, "shifted must be True or False"),
    )
    for settings, message in refused:
        with pytest.raises(ValueError, match=message):
            cross_domain.made_up(**settings)
