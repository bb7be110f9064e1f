"""Recommendation: the rewards of users, the reading of rating files, and recommenders without meta-learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.environments import recommendation
from metarl_jax.evaluation import meta_test
from metarl_jax.oracles import known_task
from metarl_jax.oracles import recommendation as oracles
from metarl_jax.types import EnvFamily

INTERACTIONS = 20


def test_the_reward_of_a_recommendation_is_the_users_rating_plus_noise() -> None:
    family = recommendation.made_up(items=7, noise=0.3)
    user = family.tasks.sample(jax.random.key(0))
    assert user.likes.shape == (7,)
    assert bool(jnp.all((user.likes > 0) & (user.likes < 1)))
    group, state = family.env.reset(jax.random.key(0), user)
    assert int(group) == int(user.group)

    def pay(key: jax.Array, item: jax.Array) -> jax.Array:
        _, _, reward, terminated, _, _ = family.env.step(key, state, item, user)
        return jnp.where(terminated, reward, jnp.nan)

    keys = jax.random.split(jax.random.key(1), (7, 2000))
    paid = np.asarray(jax.vmap(jax.vmap(pay, (0, None)))(keys, jnp.arange(7)))
    np.testing.assert_allclose(paid.mean(axis=1), user.likes, atol=5 * 0.3 / np.sqrt(2000))
    np.testing.assert_allclose(paid.std(axis=1), 0.3, rtol=0.1)
    assert family.optimal_return is not None
    assert float(family.optimal_return(user)) == float(jnp.max(user.likes))


def test_tastes_have_a_low_rank_and_groups_are_informative() -> None:
    family = recommendation.made_up(items=30, types=4, groups=2, rank=3, spread=0.2)
    users = jax.vmap(family.tasks.sample)(jax.random.split(jax.random.key(0), 3000))
    logits = np.log(np.asarray(users.likes, np.float64)) - np.log1p(-np.asarray(users.likes, np.float64))
    values = np.linalg.svd(logits - logits.mean(axis=0), compute_uv=False)
    assert values[3] < 1e-3 * values[0]
    means = [np.asarray(users.likes)[np.asarray(users.group) == group].mean(axis=0) for group in range(2)]
    assert np.abs(means[0] - means[1]).max() > 0.1
    again = recommendation.made_up(items=30, types=4, groups=2, rank=3, spread=0.2).tasks.sample(jax.random.key(1))
    np.testing.assert_array_equal(again.likes, family.tasks.sample(jax.random.key(1)).likes)
    other = recommendation.made_up(items=30, types=4, groups=2, rank=3, spread=0.2, seed=1)
    assert bool(jnp.any(other.tasks.sample(jax.random.key(1)).likes != again.likes))


def written(path: Path, table: np.ndarray, header: str = "user,item,rating,when") -> Path:
    rows = [f"u{user:03},i{item},{table[user, item]:.3f},0" for user, item in np.argwhere(np.isfinite(table))]
    path.write_text("\n".join([header, *rows, ""]))
    return path


def ratings(users: int = 60, items: int = 8, rank: int = 2, share: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of ratings of low rank, and the same table with gaps."""
    random = np.random.default_rng(0)
    stars = 3 + random.normal(size=(users, rank)) @ random.normal(size=(rank, items)) / 2
    return stars, np.where(random.uniform(size=stars.shape) < share, stars, np.nan)


def test_a_file_of_ratings_is_read_as_it_was_written(tmp_path: Path) -> None:
    _, table = ratings()
    read = recommendation.read_ratings(written(tmp_path / "ratings.csv", table), least=2)
    assert sorted(read.items) == [f"i{i}" for i in range(8)]
    counts = np.isfinite(read.value).sum(axis=0)
    assert list(counts) == sorted(counts, reverse=True)
    for row, user in enumerate(read.users):
        for column, item in enumerate(read.items):
            expected = table[int(user[1:]), int(item[1:])]
            np.testing.assert_allclose(read.value[row, column], expected, atol=6e-4)
    fewer = recommendation.read_ratings(tmp_path / "ratings.csv", items=3, least=3)
    assert fewer.items == read.items[:3]
    assert bool(np.all(np.isfinite(fewer.value)))


def test_missing_ratings_are_filled_by_a_low_rank_model() -> None:
    stars, table = ratings(users=300, items=20)
    filled = recommendation.complete(table, rank=2, penalty=0.01)
    hidden = ~np.isfinite(table)
    error = np.sqrt(np.mean((filled - stars)[hidden] ** 2))
    guess = np.sqrt(np.mean((np.nanmean(table, axis=0) - stars)[hidden] ** 2))
    assert error < 0.05 * guess


def test_users_of_a_file_are_tasks_and_some_are_held_out(tmp_path: Path) -> None:
    _, table = ratings()
    family = recommendation.from_ratings(written(tmp_path / "ratings.csv", table), rank=2, heldout=0.25)
    keys = jax.random.split(jax.random.key(0), 2000)
    train, heldout = (
        {row.tobytes() for row in np.asarray(jax.vmap(sample)(keys).likes)}
        for sample in (family.tasks.sample, family.tasks.sample_heldout)
    )
    assert not train & heldout
    assert len(heldout) == round(0.25 * (len(train) + len(heldout)))
    assert family.env.observation_space(None).n == 1


def test_a_ratings_file_in_another_encoding_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes("user,item,rating\ncafé,a,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"ratings.csv is not UTF-8 text"):
        recommendation.read_ratings(path)


def test_a_byte_order_mark_and_spaces_are_not_parts_of_names(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    rows = [f" u{user} , i{item},{1 + (user + item) % 5} " for user in range(10) for item in range(2)]
    path.write_text("\n".join(["user,item,rating", *rows]), encoding="utf-8-sig")
    read = recommendation.read_ratings(path, least=1)
    assert (read.users, read.items) == ([f"u{user}" for user in range(10)], ["i0", "i1"])
    path.write_text("user,item,rating\n" + "x" * 200_000)
    with pytest.raises(ValueError, match=r"ratings.csv is not a CSV file: field larger"):
        recommendation.read_ratings(path)


def test_an_item_that_only_users_with_few_ratings_rated_is_left_out(tmp_path: Path) -> None:
    table = np.full((40, 4), np.nan)
    table[:12, :3] = 1 + np.arange(36).reshape(12, 3) % 5
    # The item with the most ratings has none by a user with two ratings or more.
    table[12:, 3] = 3
    path = written(tmp_path / "ratings.csv", table)
    read = recommendation.read_ratings(path, least=2)
    assert (len(read.users), read.items) == (12, ["i0", "i1", "i2"])
    family = recommendation.from_ratings(path, rank=1, least=2)
    assert bool(jnp.all(jnp.isfinite(family.tasks.sample(jax.random.key(0)).likes)))


@pytest.mark.parametrize("heldout", [0.9, 0.97])
def test_a_held_out_share_that_leaves_no_two_training_users_is_refused(tmp_path: Path, heldout: float) -> None:
    path = written(tmp_path / "ratings.csv", 1 + np.arange(36.0).reshape(12, 3) % 5)
    with pytest.raises(ValueError, match=r"heldout must leave at least 2 of the 12 users for training, not [01]"):
        recommendation.from_ratings(path, rank=1, least=1, heldout=heldout)
    assert len(recommendation.split(12, 0.83, 0)[0]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,thing,rating\na,b,1\n", "has no column item or itemid or movieid; it has user, thing, rating"),
        ("", "has no column user or userid; it has none"),
        ("user,item,rating\na,b,good\n", "line 2: 'good' is not a rating of 'b' by 'a'"),
        ("user,item,rating\na,b,1\na,c\n", "line 3: None is not a rating of 'c' by 'a'"),
        ("user,item,rating\na,b,nan\n", "line 2: 'nan' is not a rating"),
        ("user,item,rating\na,b,1\na,c,2\n", "at least 10 users and 2 items are needed"),
    ],
)
def test_unusable_rating_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        recommendation.from_ratings(path, least=1)


def test_a_missing_file_and_a_single_rating_value_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no ratings file"):
        recommendation.from_ratings(tmp_path / "none.csv")
    path = written(tmp_path / "same.csv", np.full((12, 3), 4.0))
    with pytest.raises(ValueError, match=r"all ratings in .* are 4"):
        recommendation.from_ratings(path, least=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("items", 1), ("types", 0), ("groups", -1), ("rank", 0), ("spread", -0.1), ("noise", 0.0), ("seed", -1)],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        recommendation.made_up(**{field: value})


def mean_reward(family: EnvFamily, oracle: oracles.Oracle) -> np.ndarray:
    """Return the mean reward of each interaction, over held-out users."""
    tested = jax.jit(lambda key: meta_test(key, oracle.adapt, jnp.zeros(1), family.tasks, num_tasks=1500))
    return np.asarray(tested(jax.random.key(5)).score[0]).mean(axis=0)


@pytest.mark.slow
def test_recommenders_without_meta_learning_are_ordered_by_their_information() -> None:
    family = recommendation.made_up(items=30)
    makers = oracles.popularity, oracles.thompson, oracles.similar_users, known_task.optimal
    popular, alone, similar, best = (mean_reward(family, make(family, INTERACTIONS)) for make in makers)
    # Popularity does not learn. Its reward is the highest mean among users of the group.
    np.testing.assert_allclose(popular, popular.mean(), atol=0.05)
    means = oracles._population(family).mean
    assert popular.mean() == pytest.approx(float(jnp.mean(jnp.max(means, axis=-1))), abs=0.02)
    # Independent items are learned slowly, and similar users quickly. The known user is an upper bound.
    assert alone[-5:].mean() > alone[:5].mean()
    assert similar[:5].mean() > alone[:5].mean()
    assert similar[-5:].mean() > max(alone[-5:].mean(), popular.mean())
    assert best.mean() > similar[-5:].mean()
    assert similar[-1] > 0.9 * best.mean()


def test_oracles_of_other_families_are_refused() -> None:
    from metarl_jax.environments import bandits

    for make in (oracles.popularity, oracles.thompson, oracles.similar_users):
        with pytest.raises(ValueError, match=r"environments\.recommendation, not one of Bandit"):
            make(bandits.bernoulli(3), 4)
        with pytest.raises(ValueError, match="episodes"):
            make(recommendation.made_up(items=3), 0)
