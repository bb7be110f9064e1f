"""Few-shot classification of texts, whose features are hashed n-grams; a corpus made by a grammar is built in.

A corpus consists of texts with a label and a domain, such as the topic of a text and the kind of document that it is
from. There are two divisions into tasks:

- "labels": a task consists of N labels. The labels of training, validation and held-out tasks are disjoint, so that a
  held-out task is about labels that training did not have. Texts are from all domains that are not held out.
- "domains": a task consists of one domain, with the same N labels in every task. The domains of training, validation
  and held-out tasks are disjoint, so that a held-out task shows known labels in a new domain (domain adaptation).

Features are those of scikit-learn's ``HashingVectorizer``: signed counts of hashed words and pairs of words, scaled to
a mean square of 1. Hashing needs no vocabulary, so nothing is learned from held-out texts. It needs the extra
``metarl-jax[text]``; functions import scikit-learn when they need it.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from metarl_jax.checks import choice, install_command, natural_int, positive_int, whole
from metarl_jax.datasets.classification import accuracy, cross_entropy, episode
from metarl_jax.interfaces.few_shot import FewShot, FewShotFamily, FewShotTask
from metarl_jax.ops.draws import without_replacement
from metarl_jax.settings import PositiveInt
from metarl_jax.types import Array, Key, TaskDistribution

Split: TypeAlias = Literal["labels", "domains"]
HELDOUT_SHARE = 0.2
"""The share of labels, and of domains, that is held out. The same number of them is for validation."""
NGRAMS = (1, 2)
"""The smallest and the largest number of words of an n-gram."""
MOST_BYTES, MOST_CHARACTERS = 200_000_000, 100_000
"""The size of the largest file that is read, and the length of the longest text."""
MOST_NUMBERS = 2**29
"""The largest number of features of a whole corpus, which is 2 GiB of float32."""
FURTHER = 100
"""The largest number of further texts of each class that a held-out task has for reference learners."""
_KEYS = ("text", "label", "domain")
_SPLIT_SEED = 0


class Corpus(NamedTuple):
    """Texts with their labels and domains."""

    texts: Sequence[str]
    labels: Sequence[str]
    """The label of each text."""
    domains: Sequence[str]
    """The domain of each text."""
    source: str = "the corpus"
    """The name of the corpus in messages."""


class Hashed(NamedTuple):
    """The features of a corpus, sorted by label and domain."""

    x: Array
    """``[texts, features]`` float32, on the device: ``vectorise``, scaled to a mean square of 1."""
    labels: tuple[str, ...]
    """The labels, in a random order that depends on their names only: training, validation, held-out labels."""
    domains: tuple[str, ...]
    """The domains, in the same kind of order."""
    first: np.ndarray
    """``[labels, domains + 1]`` int32: the texts of label l and domain d are ``x[first[l, d]:first[l, d + 1]]``, and
    those of label l are ``x[first[l, 0]:first[l, domains]]``."""
    source: str
    """The name of the corpus in messages."""


class Classes(NamedTuple):
    """One task: the texts of N classes, in the order of the classes."""

    first: Array
    """The first row of each class in ``Hashed.x``, ``[N]`` int32."""
    number: Array
    """The number of rows of each class, ``[N]`` int32."""


# ------------------------------------------------------------------------------------------------------- features


def vectorise(texts: Sequence[str], features: int = 256) -> np.ndarray:
    """Return the features of texts, ``[texts, features]`` float32 of length 1, by scikit-learn's ``HashingVectorizer``.

    The tasks of ``few_shot`` have these features multiplied by ``sqrt(features)``.

    Args:
        texts: the texts.
        features: the number of features.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: if the number of features is not positive and whole.

    Example:
        >>> from metarl_jax.datasets import text
        >>> text.vectorise(["the match was lost", "a lost match"], 64).shape
        (2, 64)
    """
    features = positive_int("features", features)
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"scikit-learn is not installed: {install_command('text')}") from error
    found: Any = HashingVectorizer(n_features=features, ngram_range=NGRAMS, norm="l2").transform(texts)
    return found.astype(np.float32).toarray()


def hashed(corpus: Corpus, features: int = 256) -> Hashed:
    """Compute the features of a corpus and put them on the device, sorted by label and domain.

    Args:
        corpus: the texts.
        features: the number of features of a text.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: if the number of features is not positive and whole, or too large for the corpus.
    """
    features = positive_int("features", features)
    if len(corpus.texts) * features > MOST_NUMBERS:
        raise ValueError(
            f"features must be at most {MOST_NUMBERS // len(corpus.texts)} for the {len(corpus.texts)} texts of "
            f"{corpus.source}, not {features}"
        )
    labels, domains = (_shuffled(names) for names in (corpus.labels, corpus.domains))
    cells = len(domains) * _indices(labels, corpus.labels) + _indices(domains, corpus.domains)
    counts = np.bincount(cells, minlength=len(labels) * len(domains))
    ends = np.cumsum(counts).reshape(len(labels), len(domains))
    first = np.concatenate([ends[:, :1] - counts.reshape(ends.shape)[:, :1], ends], axis=1).astype(np.int32)
    # A network is initialised for inputs whose numbers have a mean square of 1.
    x = features**0.5 * vectorise(corpus.texts, features)[np.argsort(cells, kind="stable")]
    return Hashed(jnp.asarray(x, jnp.float32), labels, domains, first, corpus.source)


def _shuffled(names: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct names in a random order that is the same for every order of the names."""
    distinct = sorted(set(names))
    # The numbers of RandomState are the same in all versions of NumPy.
    return tuple(distinct[i] for i in np.random.RandomState(_SPLIT_SEED).permutation(len(distinct)))


def _indices(distinct: tuple[str, ...], names: Sequence[str]) -> np.ndarray:
    index = {name: i for i, name in enumerate(distinct)}
    return np.array([index[name] for name in names])


# ---------------------------------------------------------------------------------------------------------- tasks


def few_shot(
    data: Hashed,
    ways: int,
    shots: int,
    queries: int,
    *,
    split: Split = "labels",
    shifted: bool = False,
    further: bool = False,
) -> FewShot:
    """Make few-shot classification of texts. Features are float32 ``[..., features]``; labels are int32.

    A fifth of the labels and of the domains is held out, and another fifth is for validation. With the split "domains",
    the N labels are those with the most texts in the domain where they have the fewest, and class i is the same label
    in every task.

    Args:
        data: the corpus, from ``hashed``.
        ways: the number N of classes of a task.
        shots: the number of texts of a class in the support.
        queries: the number of texts of a class in the query, which differ from those in the support.
        split: whether labels or domains are held out.
        shifted: whether held-out tasks have other labels than training tasks in held-out domains: held-out labels with
            the split "labels", and the N next labels with the split "domains".
        further: whether a task has further texts for reference learners (``FewShotTask.further``), at most 100 of each
            class.

    Raises:
        ValueError: in one line, if a number is not positive and whole, or if there are not enough labels, domains or
            texts.
    """
    ways, shots, queries = positive_int("ways", ways), positive_int("shots", shots), positive_int("queries", queries)
    choice("labels", "domains")("split", split)
    divide = _by_labels if split == "labels" else _by_domains
    training, validation, heldout = divide(data, ways, shifted)
    needed = shots + queries
    for rows in (training, validation, heldout):
        _check_counts(data, rows, needed)
    more = min(FURTHER, min(int(rows.number.min()) for rows in (validation, heldout)) - needed) if further else 0

    def sampler(rows: _Rows) -> Callable[[Key], Classes]:
        first, number = jnp.asarray(rows.first), jnp.asarray(rows.number)

        def sample(key: Key) -> Classes:
            if split == "labels":
                chosen = without_replacement(key, len(rows.first), ways)
            else:
                chosen = jax.random.randint(key, (), 0, len(rows.first), jnp.int32)
            return Classes(first[chosen], number[chosen])

        return sample

    def draw(key: Key, task: Classes) -> FewShotTask:
        key_texts, key_episode, key_further = jax.random.split(key, 3)
        chosen = without_replacement(key_texts, task.number, needed + more, (ways,))
        x = data.x[task.first[:, None] + chosen]
        drawn = episode(key_episode, x[:, :needed], shots)
        return drawn._replace(further=episode(key_further, x[:, needed:], more).support) if more else drawn

    return FewShot(
        TaskDistribution(*map(sampler, (training, heldout, validation))), draw, cross_entropy, accuracy, ways
    )


class _Rows(NamedTuple):
    """The classes that tasks are made of."""

    first: np.ndarray
    """The first row of each class: ``[labels]``, or ``[domains, N]``."""
    number: np.ndarray
    """The numbers of rows, of the same shape."""
    names: np.ndarray
    """The names of the classes in messages, of the same shape."""


def _parts(number: int) -> tuple[int, int]:
    """Return where validation and held-out labels (or domains) begin, in the order of ``Hashed``."""
    each = max(1, round(HELDOUT_SHARE * number))
    return number - 2 * each, number - each


def _by_labels(data: Hashed, ways: int, shifted: bool) -> tuple[_Rows, _Rows, _Rows]:
    """Return the classes of training, validation and held-out tasks: labels in all domains that are not held out."""
    number, domains = data.first.shape[0], data.first.shape[1] - 1
    validation, heldout = _parts(number)
    if ways > min(validation, number - heldout):
        raise ValueError(
            f"ways must be at most {max(0, min(validation, number - heldout))} for the {number} labels of "
            f"{data.source}, of which {number - heldout} are held out, not {ways}"
        )
    # A corpus of one domain has no held-out domain.
    begin = _parts(domains)[1] if domains > 1 else domains
    if shifted and begin == domains:
        raise ValueError(f"shifted needs two domains or more, but {data.source} has one")

    def rows(labels: slice, domains: slice) -> _Rows:
        first, end = data.first[labels, domains.start], data.first[labels, domains.stop]
        of = " in domains that are held out" if domains.start else ""
        return _Rows(first, end - first, np.array([f"label {name!r}{of}" for name in data.labels[labels]]))

    usual = slice(0, begin)
    return (
        rows(slice(0, validation), usual),
        rows(slice(validation, heldout), usual),
        rows(slice(heldout, number), slice(begin, domains) if shifted else usual),
    )


def _by_domains(data: Hashed, ways: int, shifted: bool) -> tuple[_Rows, _Rows, _Rows]:
    """Return the classes of training, validation and held-out tasks: the same N labels in other domains."""
    number, domains = data.first.shape[0], data.first.shape[1] - 1
    validation, heldout = _parts(domains)
    if validation < 1:
        raise ValueError(f"the split domains needs three domains or more, but {data.source} has {domains}")
    if ways > number // 2 and shifted:
        raise ValueError(f"ways must be at most {number // 2} for shifted tasks of {number} labels, not {ways}")
    if ways > number:
        raise ValueError(f"ways must be at most {number}, the number of labels of {data.source}, not {ways}")
    counts = np.diff(data.first, axis=1)
    order = np.argsort(-counts.min(axis=1), kind="stable")

    def rows(domains: slice, labels: np.ndarray) -> _Rows:
        names = [[f"label {data.labels[i]!r} in domain {domain!r}" for i in labels] for domain in data.domains[domains]]
        return _Rows(data.first[labels, domains].T, counts[labels, domains].T, np.array(names))

    usual = order[:ways]
    return (
        rows(slice(0, validation), usual),
        rows(slice(validation, heldout), usual),
        rows(slice(heldout, domains), order[ways : 2 * ways] if shifted else usual),
    )


def _check_counts(data: Hashed, rows: _Rows, needed: int) -> None:
    few = np.argwhere(rows.number < needed)
    if len(few):
        place = tuple(few[0])
        raise ValueError(
            f"{data.source}: {rows.names[place]} has {rows.number[place]} texts, but shots + queries need {needed}"
        )


def family(
    ways: PositiveInt = 5,
    shots: PositiveInt = 1,
    queries: PositiveInt = 5,
    heldout_shots: PositiveInt = 1,
    heldout_queries: PositiveInt = 5,
    path: str | None = None,
    split: Split = "labels",
    features: Annotated[int, Interval(ge=1, le=2**16)] = 256,
    *,
    shifted: bool = False,
) -> FewShotFamily:
    """Make tasks of texts, with different numbers of examples for training and for held-out tasks.

    Args:
        ways: Number of classes of a task.
        shots: Number of texts of a class in the support, in training.
        queries: Number of texts of a class in the query, in training.
        heldout_shots: Number of texts of a class in the support of a held-out or validation task.
        heldout_queries: Number of texts of a class in the query of a held-out or validation task.
        path: File of JSON lines with the keys text, label and domain. None: the corpus that a grammar makes.
        split: Whether held-out tasks have labels that training tasks do not have ("labels"), or the labels of training
            tasks in other domains ("domains").
        features: Number of hashed features of a text.
        shifted: Whether held-out tasks have other labels than training tasks, in held-out domains.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.
        ValueError: in one line, if a number is out of range, or if the file cannot be used.

    Example:
        >>> import metarl_jax as mrl
        >>> family = mrl.datasets.text.family(ways=3, heldout_shots=5)
        >>> family.examples().shape
        (256,)
    """
    whole(at_least=1, at_most=2**16)("features", features)
    data = _made_up(features, split) if path is None else hashed(from_file(path), features)
    return FewShotFamily(
        few_shot(data, ways, shots, queries, split=split),
        few_shot(data, ways, heldout_shots, heldout_queries, split=split, shifted=shifted, further=True),
    )


def without_data(
    ways: int,
    shots: int,
    queries: int,
    heldout_shots: int,
    heldout_queries: int,
    path: str | None,
    split: Split,
    features: int,
    shifted: bool,
) -> FewShotFamily:
    """Make the family that ``family`` makes, but with empty texts, so that a trained learner needs no file and no
    scikit-learn.

    Raises:
        ValueError: if a number is out of range.
    """
    del path, split, shifted
    whole(at_least=1, at_most=2**16)("features", features)
    texts = max(shots + queries, heldout_shots + heldout_queries)
    labels = tuple(map(str, range(5 * ways)))
    first = texts * np.arange(len(labels), dtype=np.int32)[:, None] + np.array([0, texts], np.int32)
    blank = Hashed(jnp.zeros((texts * len(labels), features), jnp.float32), labels, ("",), first, "no corpus")
    return FewShotFamily(few_shot(blank, ways, shots, queries), few_shot(blank, ways, heldout_shots, heldout_queries))


# ---------------------------------------------------------------------------------------------------------- files


def from_file(path: str | Path) -> Corpus:
    """Read a corpus from a file of JSON lines, one object a line with the keys text, label and domain.

    The values are strings that are not empty. Other keys are not read, and empty lines are skipped.

    Args:
        path: the path of the file, which must be UTF-8.

    Raises:
        ValueError: in one line that names the file and the line, if the file cannot be read as a corpus.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of texts {path}")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    found: list[tuple[str, str, str]] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                found.append(_parse(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"{path} has no texts: each line must be a JSON object with the keys {', '.join(_KEYS)}")
    texts, labels, domains = zip(*found, strict=True)
    return Corpus(texts, labels, domains, str(path))


def _parse(line: bytes) -> tuple[str, str, str]:
    try:
        entry = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError(f"it is not a JSON object with the keys {', '.join(_KEYS)}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"it is not a JSON object with the keys {', '.join(_KEYS)}")
    for key in _KEYS:
        if key not in entry:
            raise ValueError(f"it has no {key!r}")
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise ValueError(f"{key!r} must be a text that is not empty")
        if len(entry[key]) > MOST_CHARACTERS:
            raise ValueError(f"{key!r} must have at most {MOST_CHARACTERS:,} characters, not {len(entry[key]):,}")
    return entry["text"], entry["label"].strip(), entry["domain"].strip()


# ---------------------------------------------------------------------------------------------- a corpus from a grammar

THEMES, THEME_WORDS, OWN_WORDS, COMMON_WORDS = 20, 16, 3, 60
"""The number of themes, of words of a theme, of words that only one label has, and of words of all labels."""
THEME_WEIGHTS = (0.45, 0.3, 0.25)
"""The shares of a label's themes among its words of themes."""
COMMON, OWN, DRIFT = 0.25, 0.08, 0.25
"""The share of words of all labels; of the others, the share of the label's own words; and of the words of themes, the
share of the theme that a label has in one domain only."""
PREFERRED = 0.8
"""The probability that a word of a theme is from the half of the theme's words that the domain prefers."""
SENTENCES = (3, 6)
"""The smallest and the largest number of sentences of a text."""
SLOTS = 3
SIZES: Mapping[Split, tuple[int, int, int]] = {"labels": (120, 8, 20), "domains": (10, 12, 100)}
"""The numbers of labels, of domains, and of texts of each label in each domain, of the corpus that ``family`` makes."""
_SENTENCES = (
    "the {} of the {} is {}.",
    "a {} and a {} are in the {}.",
    "we have seen a {} with {} or {}.",
    "this {} was not for the {} but for the {}.",
    "there is more {} in {} than in {}.",
    "if the {} has a {}, it will be {}.",
    "they said that the {} and the {} were {}.",
    "no {} can be {} without a {}.",
)
_DOMAINS = {
    "review": ("i would buy it again", "five stars from me", "it arrived on time", "not worth the money"),
    "news": ("officials said on monday", "according to a spokesman", "breaking news", "the agency reported"),
    "mail": ("dear all", "please find attached", "kind regards", "looking forward to your reply"),
    "report": ("in summary", "the results are shown below", "as of this quarter", "see the appendix"),
    "chat": ("lol ok", "brb", "you there", "talk to you later"),
    "lecture": (
        "let us begin with a definition",
        "as we saw last week",
        "this is left as an exercise",
        "any questions",
    ),
    "blog": ("hello readers", "in my last post", "leave a comment below", "thanks for stopping by"),
    "manual": ("read all instructions first", "press and hold the button", "refer to figure two", "keep out of reach"),
    "minutes": ("the meeting was opened", "motion carried", "action item", "the chair thanked everyone"),
    "advert": ("call now", "limited time offer", "satisfaction guaranteed", "free delivery today"),
    "diary": ("dear diary", "i woke up early", "i am so tired", "tomorrow will be better"),
    "forum": ("first post here", "solved thanks", "please use the search", "same problem here"),
}


def made_up(labels: int = 120, domains: int = 8, texts: int = 20, seed: int = 0) -> Corpus:
    """Make a corpus by a grammar.

    A label is a topic: a mixture of three of 20 themes, with a few words of its own. A theme is a set of 16 words. A
    domain is a kind of document. It has phrases of its own, prefers one half of the words of every theme, and adds one
    more theme to each label. A text consists of three to six sentences of function words with three open places each.
    An open place is filled by a word of all labels, by a word of the label, or by a word of one of the label's themes.
    Phrases of the domain may come before and after the sentences. Labels share themes, so the words that belong
    together can be learned from some labels and used for others.

    Args:
        labels: the number of labels.
        domains: the number of domains, at most 12.
        texts: the number of texts of each label in each domain.
        seed: the seed of the whole corpus.

    Raises:
        ValueError: if a number is out of range.
    """
    labels, texts, seed = positive_int("labels", labels), positive_int("texts", texts), natural_int("seed", seed)
    domains = whole(at_least=1, at_most=len(_DOMAINS))("domains", domains)
    # The numbers of RandomState are the same in all versions of NumPy and on all processors.
    random = np.random.RandomState(seed)
    words = np.array(_words(random, COMMON_WORDS + THEMES * THEME_WORDS + labels * OWN_WORDS))
    common, theme_words, own = np.split(words, [COMMON_WORDS, COMMON_WORDS + THEMES * THEME_WORDS])
    theme_words, own = theme_words.reshape(THEMES, THEME_WORDS), own.reshape(labels, OWN_WORDS)
    themes = np.stack([random.permutation(THEMES)[: len(THEME_WEIGHTS)] for _ in range(labels)])
    half = THEME_WORDS // 2
    preferred = np.stack([[random.permutation(THEME_WORDS) for _ in range(THEMES)] for _ in range(domains)])
    drift = random.randint(THEMES, size=(labels, domains))
    found: list[tuple[str, str, str]] = []
    for label, domain in itertools.product(range(labels), range(domains)):
        shape = texts, SENTENCES[1], SLOTS
        kind, which, theme, weight = random.uniform(size=(4, *shape))
        chosen = themes[label][np.searchsorted(np.cumsum(THEME_WEIGHTS[:-1]), weight)]
        chosen = np.where(theme < DRIFT, drift[label, domain], chosen)
        rank = np.floor(which * half).astype(int) + half * (random.uniform(size=shape) > PREFERRED)
        filled = theme_words[chosen, preferred[domain, chosen, rank]]
        filled = np.where(
            kind < COMMON + (1 - COMMON) * OWN, own[label, np.floor(which * OWN_WORDS).astype(int)], filled
        )
        filled = np.where(kind < COMMON, common[np.floor(which * COMMON_WORDS).astype(int)], filled)
        patterns = random.randint(len(_SENTENCES), size=shape[:2])
        numbers = random.randint(SENTENCES[0], SENTENCES[1] + 1, size=texts)
        style, phrases = list(_DOMAINS.items())[domain]
        around = np.where(
            random.uniform(size=(texts, 2)) < (0.7, 0.5), random.randint(len(phrases), size=(texts, 2)), -1
        )
        for row in range(texts):
            sentences = [_SENTENCES[patterns[row, i]].format(*filled[row, i]) for i in range(numbers[row])]
            before, after = ([phrases[i] + "."] if i >= 0 else [] for i in around[row])
            found.append((" ".join([*before, *sentences, *after]), f"topic {label}", style))
    texts_of, labels_of, domains_of = zip(*found, strict=True)
    return Corpus(texts_of, labels_of, domains_of, "the made-up corpus")


def _words(random: np.random.RandomState, number: int) -> list[str]:
    """Return distinct words of two or three syllables."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "el", "or")]
    # A dictionary keeps the order in which words are added.
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(syllables[i] for i in random.randint(len(syllables), size=random.randint(2, 4)))] = None
    return list(found)


@functools.lru_cache(maxsize=2)
def _made_up(features: int, split: Split) -> Hashed:
    return hashed(made_up(*SIZES[split]), features)
