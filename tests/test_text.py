"""Texts: hashed features, the made-up corpus, files of texts, the tasks of both splits, and classifiers."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax import experiments
from metarl_jax.datasets import text
from metarl_jax.datasets.text import Corpus, Hashed
from metarl_jax.evaluation import evaluate
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily, FewShotTask
from metarl_jax.ops.statistics import mean_with_interval
from metarl_jax.oracles import few_shot_classifiers
from metarl_jax.training import train

LABELS, DOMAINS = 10, 5


def numbered(counts: np.ndarray) -> Hashed:
    """Return a corpus whose only feature is the number of the row, with ``counts [labels, domains]`` of texts."""
    ends = np.cumsum(counts).reshape(counts.shape)
    first = np.concatenate([ends[:, :1] - counts[:, :1], ends], axis=1).astype(np.int32)
    labels, domains = (
        tuple(f"{kind}{i}" for i in range(n)) for kind, n in zip(("label", "domain"), counts.shape, strict=True)
    )
    return Hashed(jnp.arange(counts.sum(), dtype=jnp.float32)[:, None], labels, domains, first, "numbers")


UNEVEN = np.random.RandomState(0).randint(4, 9, size=(LABELS, DOMAINS))
"""Numbers of texts of each label in each domain."""


def drawn(family: FewShot, sample: Any, number: int = 300) -> list[FewShotTask]:
    """Return many tasks with NumPy arrays."""

    @jax.jit
    @jax.vmap
    def draw(key: jax.Array) -> FewShotTask:
        return family.draw(key, sample(jax.random.fold_in(key, 1)))

    tasks = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), number)))
    return [jax.tree.map(lambda x, i=i: x[i], tasks) for i in range(number)]


def cells(data: Hashed, x: np.ndarray) -> np.ndarray:
    """Return the label and the domain ``[N, 2]`` of texts of a numbered corpus."""
    cell = np.searchsorted(data.first[:, 1:].reshape(-1), x[:, 0], side="right")
    return np.stack(np.divmod(cell, len(data.domains)), axis=1)


@pytest.mark.parametrize("shifted", [False, True])
def test_held_out_labels_are_in_no_training_task(shifted: bool) -> None:
    data = numbered(UNEVEN)
    family = text.few_shot(data, 2, 3, 1, shifted=shifted)
    samplers = family.tasks.sample, family.tasks.validation, family.tasks.sample_heldout
    expected_labels = {0, 1, 2, 3, 4, 5}, {6, 7}, {8, 9}
    usual = {0, 1, 2, 3}
    for sample, labels, domains in zip(
        samplers, expected_labels, (usual, usual, {4} if shifted else usual), strict=True
    ):
        seen = []
        for task in drawn(family, sample):
            (x, y), (query, target) = task.support, task.query
            assert np.bincount(y).tolist() == [3, 3]
            assert np.bincount(target).tolist() == [1, 1]
            assert len(set(np.concatenate([x, query])[:, 0])) == 8
            of = {int(label): set(cells(data, x[y == label])[:, 0]) for label in (0, 1)}
            assert len(of[0]) == len(of[1]) == 1 and of[0] != of[1], "each class is one label"
            assert set(cells(data, query[target == 0])[:, 0]) == of[0]
            seen.append(cells(data, np.concatenate([x, query])))
        found = np.concatenate(seen)
        assert set(found[:, 0]) == labels
        assert set(found[:, 1]) == domains


@pytest.mark.parametrize("shifted", [False, True])
def test_domain_adaptation_has_the_same_labels_in_other_domains(shifted: bool) -> None:
    counts = UNEVEN.copy()
    # The labels with the most texts in their smallest domain are 7, 2, 5 and 3, in this order.
    counts[[7, 2, 5, 3]] = np.array([12, 11, 10, 9])[:, None]
    data = numbered(counts)
    family = text.few_shot(data, 2, 3, 1, split="domains", shifted=shifted)
    for sample, domains, labels in (
        (family.tasks.sample, {0, 1, 2}, [7, 2]),
        (family.tasks.validation, {3}, [7, 2]),
        (family.tasks.sample_heldout, {4}, [5, 3] if shifted else [7, 2]),
    ):
        seen = set()
        for task in drawn(family, sample):
            x, y = (np.concatenate(parts) for parts in zip(task.support, task.query, strict=True))
            where = cells(data, x)
            np.testing.assert_array_equal(where[:, 0], np.array(labels)[y])
            assert len(set(where[:, 1])) == 1, "a task is of one domain"
            seen.add(int(where[0, 1]))
        assert seen == domains


def test_texts_are_drawn_uniformly_and_further_texts_are_others() -> None:
    counts = np.full((5, 1), 6)
    counts[4] = 9
    family = text.few_shot(numbered(counts), 1, 2, 1, further=True)
    tasks = drawn(family, family.tasks.sample_heldout, 3000)
    support = np.concatenate([task.support[0][:, 0] for task in tasks])
    counted = np.bincount(support.astype(int) - 24, minlength=9)
    assert np.all(np.abs(counted - 6000 / 9) < 5 * np.sqrt(6000 / 9))
    for task in tasks[:100]:
        # The held-out label has 9 texts and the validation label 6, of which three are support and query.
        assert task.further[0].shape == (3, 1)
        assert len(set(np.concatenate([task.support[0], task.query[0], task.further[0]])[:, 0])) == 6
    assert drawn(text.few_shot(numbered(counts), 1, 2, 1), family.tasks.sample, 2)[0].further is None


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ((9, 2), {"ways": 3}, "ways must be at most 2 for the 9 labels of numbers, of which 2 are held out, not 3"),
        ((1, 2), {"ways": 1}, "ways must be at most 0 for the 1 labels"),
        ((10, 1), {"shifted": True}, "shifted needs two domains or more, but numbers has one"),
        ((10, 2), {"split": "domains"}, "the split domains needs three domains or more, but numbers has 2"),
        ((4, 5), {"split": "domains", "ways": 5}, "ways must be at most 4, the number of labels of numbers, not 5"),
        ((4, 5), {"split": "domains", "ways": 3, "shifted": True}, "ways must be at most 2 for shifted tasks"),
        ((10, 2), {"shots": 5}, "label 'label0' has 4 texts, but shots . queries need 6"),
        ((10, 5), {"split": "domains", "shots": 4}, "'label0' in domain 'domain0' has 4 texts, but .* need 5"),
        ((10, 2), {"split": "topics"}, "split must be one of labels, domains, not 'topics'"),
        ((10, 2), {"queries": 0}, "queries must be a positive whole number, not 0"),
    ],
)
def test_too_few_labels_domains_and_texts_are_named(
    counts: tuple[int, int], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        text.few_shot(numbered(np.full(counts, 4)), **{"ways": 2, "shots": 1, "queries": 1, **settings})


# ------------------------------------------------------------------------------------------------------- features


def murmur(word: bytes) -> int:
    """Return the signed 32-bit MurmurHash3 of a word, with the seed 0."""

    def mixed(k: int) -> int:
        k = k * 0xCC9E2D51 % 2**32
        return (k << 15 | k >> 17) % 2**32 * 0x1B873593 % 2**32

    h = 0
    whole = len(word) // 4 * 4
    for i in range(0, whole, 4):
        h ^= mixed(int.from_bytes(word[i : i + 4], "little"))
        h = ((h << 13 | h >> 19) % 2**32 * 5 + 0xE6546B64) % 2**32
    h ^= mixed(int.from_bytes(word[whole:], "little"))
    h ^= len(word)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = (h ^ h >> shift) * factor % 2**32
    h ^= h >> 16
    return h - 2**32 if h >= 2**31 else h


def test_features_are_signed_counts_of_hashed_words_and_pairs() -> None:
    pytest.importorskip("sklearn")
    texts = ["The cat saw the other cat.", "Ein Käfer, ein Käfer!"]
    expected = np.zeros((2, 32))
    for row, one in enumerate(texts):
        words = re.findall(r"\w\w+", one.lower())
        for gram in words + [" ".join(pair) for pair in itertools.pairwise(words)]:
            number = murmur(gram.encode())
            expected[row, abs(number) % 32] += 1 if number >= 0 else -1
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = text.vectorise(texts, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_corpus_is_sorted_by_label_and_domain_for_any_order_of_its_texts() -> None:
    pytest.importorskip("sklearn")
    corpus = text.made_up(labels=5, domains=3, texts=4)
    data = text.hashed(corpus, 64)
    order = np.random.RandomState(1).permutation(len(corpus.texts)).tolist()
    shuffled: list[list[str]] = [[str(part[i]) for i in order] for part in corpus[:3]]
    texts, labels, domains = shuffled
    again = text.hashed(Corpus(texts, labels, domains), 64)
    assert (data.labels, data.domains) == (again.labels, again.domains)
    np.testing.assert_array_equal(data.first, again.first)
    features = 8 * text.vectorise(corpus.texts, 64)
    for found in (data, again):
        for i, label in enumerate(found.labels):
            for j, domain in enumerate(found.domains):
                rows = [k for k in range(60) if (corpus.labels[k], corpus.domains[k]) == (label, domain)]
                cell = np.asarray(found.x[found.first[i, j] : found.first[i, j + 1]])
                np.testing.assert_array_equal(np.sort(cell, axis=0), np.sort(features[rows], axis=0))


def test_a_missing_extra_is_explained_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        text.vectorise(["a text"], 16)
    assert str(caught.value) == "scikit-learn is not installed: pip install '.[text]' in a checkout of metarl-jax"


# ------------------------------------------------------------------------------------------------ the made-up corpus


def test_the_grammar_has_the_documented_frequencies() -> None:
    corpus = text.made_up(labels=30, domains=6, texts=20)
    assert corpus == text.made_up(labels=30, domains=6, texts=20)
    assert corpus.texts != text.made_up(labels=30, domains=6, texts=20, seed=1).texts
    assert len(corpus.texts) == 30 * 6 * 20
    assert Counter(zip(corpus.labels, corpus.domains, strict=True)).total() == 3600
    fixed = set(" ".join(text._SENTENCES).replace("{}", " ").replace(".", " ").replace(",", " ").split())
    styles = {domain: set(" ".join(phrases).split()) for domain, phrases in text._DOMAINS.items()}
    slots: Counter[str] = Counter()
    where: dict[str, set[str]] = {}
    sentences = []
    for one, label, domain in zip(*corpus[:3], strict=True):
        parts = [part.strip() for part in one.rstrip(".").split(". ")]
        phrases = [part for part in parts if part in text._DOMAINS[domain]]
        sentences.append(len(parts) - len(phrases))
        assert len(phrases) <= 2
        for word in re.findall(r"\w+", one):
            if word not in fixed | styles[domain]:
                slots[word] += 1
                where.setdefault(word, set()).add(label)
    assert set(sentences) == {3, 4, 5, 6}
    total = sum(slots.values())
    assert total == text.SLOTS * sum(sentences)
    common = sum(count for word, count in slots.items() if len(where[word]) == 30)
    own = sum(count for word, count in slots.items() if len(where[word]) == 1)
    # Words that are too rare for the words of all labels, and those of themes, are in between.
    assert abs(common / total - text.COMMON) < 0.01
    assert abs(own / total - (1 - text.COMMON) * text.OWN) < 0.01


# ---------------------------------------------------------------------------------------------------------- files


def entry(i: int, **changes: Any) -> dict[str, Any]:
    return {"text": f"word{i} and ünï{i}", "label": f"l{i % 6}", "domain": f"d{i // 6 % 2}", "id": i, **changes}


def written(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in entries) + "\n", encoding="utf-8")
    return path


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = [entry(i) for i in range(40)]
    corpus = text.from_file(written(tmp_path / "texts.jsonl", entries))
    for key, values in zip(("text", "label", "domain"), corpus[:3], strict=True):
        assert list(values) == [one[key] for one in entries]
    (tmp_path / "windows.jsonl").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "texts.jsonl").read_bytes().replace(b"\n", b"\r\n\r\n")
    )
    assert text.from_file(tmp_path / "windows.jsonl")[:3] == corpus[:3]


GOOD = json.dumps(entry(0)).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no texts: each line must be a JSON object with the keys text, label, domain"),
        (b"\n \n", "has no texts"),
        (GOOD + b"\ntext,label\n", "line 2: it is not a JSON object"),
        (GOOD + b"\n[1]\n", "line 2: it is not a JSON object"),
        (b"[" * 100_000, "line 1: it is not a JSON object"),
        (GOOD + b'\n\n{"text": "a", "label": "b"}\n', "line 3: it has no 'domain'"),
        (b'{"text": NaN, "label": "b", "domain": "c"}', "line 1: 'text' must be a text that is not empty"),
        (b'{"text": " ", "label": "b", "domain": "c"}', "line 1: 'text' must be a text that is not empty"),
        (b'{"text": "a", "label": null, "domain": "c"}', "line 1: 'label' must be a text that is not empty"),
        (b'{"text": "a", "label": 1, "domain": "c"}', "line 1: 'label' must be a text that is not empty"),
        (GOOD + b'\n{"text": "\xe4", "label": "b", "domain": "c"}', "line 2: it is not UTF-8"),
        (GOOD.replace(b"word0", b"w" * 100_001), "line 1: 'text' must have at most 100,000 characters"),
    ],
)
def test_unusable_files_are_explained_and_never_replaced(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        text.family(path=str(path))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_missing_large_and_small_files_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no file of texts"):
        text.family(path=str(tmp_path / "none.jsonl"))
    path = written(tmp_path / "texts.jsonl", [entry(i) for i in range(40)])
    monkeypatch.setattr(text, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="is larger than 100 bytes"):
        text.from_file(path)


def test_a_family_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    path = str(written(tmp_path / "texts.jsonl", [entry(i) for i in range(120)]))
    family = text.family(ways=1, shots=2, path=path, features=16)
    assert family.examples().shape == (16,)
    (x, _), _, _ = drawn(family.heldout, family.heldout.tasks.sample_heldout, 1)[0]
    np.testing.assert_allclose(np.mean(x**2, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match=r"texts.jsonl: label 'l\d' has 10 texts, but shots \+ queries need 11"):
        text.family(ways=1, shots=6, path=path)
    monkeypatch.setattr(text, "MOST_NUMBERS", 1200)
    with pytest.raises(ValueError, match=r"features must be at most 10 for the 120 texts of .*texts.jsonl, not 11"):
        text.family(ways=1, path=path, features=11)


def test_a_learner_loads_without_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    for name in ("maml-text", "snail-text-domains", "meta-network-text"):
        experiment = experiments.get(name)
        small = {name: 3 for name in ("units", "hidden_size", "generator_size") if name in experiment.fields()}
        settings = experiment.with_overrides({**small, "path": "none.jsonl", "features": 16})
        problem = experiment.build(settings, without_data=True)
        assert problem.family.examples().shape == (16,)
        assert problem.family.examples().outputs == 5


# -------------------------------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_a_meta_learner_beats_learners_without_other_topics() -> None:
    pytest.importorskip("sklearn")
    data = text.hashed(text.made_up(labels=80, domains=4, texts=15), 128)
    family = FewShotFamily(text.few_shot(data, 3, 3, 3), text.few_shot(data, 3, 3, 3, further=True))
    experiment = experiments.get("anil-text")
    built = experiment.build(experiment.with_overrides({"iterations": 200}), family=family)
    problem: Any = built.inner_problem or built.in_context_problem
    run = train(jax.random.key(0), built.algorithm)

    def scores(learner: Any, state: Any) -> np.ndarray:
        found = evaluate(jax.random.key(1), learner, state, problem, num_tasks=200, batch_size=50)
        return found.score[:, -1]

    ours = scores(built.algorithm, run.state)
    for make in (few_shot_classifiers.nearest_centroid, few_shot_classifiers.ridge_regression):
        gain = mean_with_interval(ours - scores(make(family, 1), ()))
        assert gain.low > 0
    assert scores(few_shot_classifiers.many_examples(family, 1), ()).mean() > ours.mean()


# ------------------------------------------------------------------------------------------------------- classifiers


def test_classifiers_agree_with_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    neighbors = pytest.importorskip("sklearn.neighbors")
    random = np.random.RandomState(0)
    numbers = text.few_shot(numbered(np.full((15, 1), 4)), 3, 1, 1)
    both = FewShotFamily(numbers, numbers)
    centres = random.normal(size=(3, 20))

    def examples(number: int) -> tuple[jax.Array, jax.Array]:
        y = np.arange(3 * number) % 3
        x = centres[y] + 2 * random.normal(size=(len(y), 20))
        return jnp.asarray(x, jnp.float32), jnp.asarray(y)

    task = FewShotTask(examples(4), examples(30), examples(20))
    (x, y), (query, target) = task.support, task.query
    more, labels = (np.concatenate(parts) for parts in zip(task.support, task.further, strict=True))
    for make, expected, data, of in (
        (few_shot_classifiers.nearest_centroid, neighbors.NearestCentroid(), x, y),
        (few_shot_classifiers.ridge_regression, linear_model.RidgeClassifier(), x, y),
        (few_shot_classifiers.many_examples, linear_model.RidgeClassifier(), more, labels),
    ):
        score = make(both, 2).adapt(jax.random.key(0), (), task).score
        # Inputs are scaled to a mean squared length of 1.
        size = np.sqrt(np.mean(np.sum(np.asarray(data) ** 2, axis=1)))
        expected.fit(np.asarray(data) / size, of)
        np.testing.assert_allclose(score, np.full(2, expected.score(np.asarray(query) / size, target)), atol=1e-6)
    with pytest.raises(ValueError, match="many_examples needs tasks with further examples"):
        few_shot_classifiers.many_examples(both, 2).adapt(jax.random.key(0), (), task._replace(further=None))
    for make in (few_shot_classifiers.nearest_centroid, few_shot_classifiers.ridge_regression):
        # All classes are equally good for a support of zeros, so that the first one is predicted.
        score = make(both, 2).adapt(jax.random.key(0), (), task._replace(support=(jnp.zeros_like(x), y))).score
        np.testing.assert_allclose(score, np.full(2, np.mean(np.asarray(target) == 0)), atol=1e-6)
    for data, targets in ((x, y), (more, labels)):
        one_hot = np.eye(3)[np.asarray(targets)]
        expected = linear_model.Ridge(alpha=1.0).fit(np.asarray(data, np.float64), one_hot).predict(np.asarray(query))
        found = few_shot_classifiers.ridge(jnp.asarray(data), jnp.asarray(one_hot, jnp.float32), query)
        np.testing.assert_allclose(found, expected, atol=2e-4)
