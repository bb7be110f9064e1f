"""Settings: bounds, texts and relations of the settings of all modules."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import jax
import pytest
from annotated_types import Gt
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl_jax import experiments, options, problems
from metarl_jax.experiments import registry
from metarl_jax.networks import arms
from metarl_jax.settings import Doc, Field, Fraction, PositiveFloat, PositiveInt, Settings, check, fields, parameters


def everything() -> Iterator[tuple[str, Field]]:
    """Return every setting of algorithms, problems, networks, families and commands."""
    owners: list[Any] = [registry.resolve(entry.module).Config for entry in registry.algorithms()]
    owners += [
        getattr(registry.resolve(network.module), network.settings)
        for algorithm in registry.algorithms()
        for family in registry.families()
        if registry.does_not_apply(algorithm, family) is None
        for network in registry.networks(algorithm, family)
    ]
    owners += [problems.PolicyGradientSettings, problems.FewShotSettings, arms.Settings]
    owners += [options.NewStudy, options.Resume, options.Evaluate, options.Report, options.Watch, options.Record]
    for owner in dict.fromkeys(owners):
        yield from ((f"{owner.__module__}.{name}", field) for name, field in fields(owner).items())
    for family in registry.families():
        yield from ((f"{family.name}.{name}", f) for name, f in parameters(registry.resolve(family.make)).items())


# Settings of the same annotation are checked alike.
EACH = list(
    {(repr(field.type), field.optional, repr(field.bounds)): (where, field) for where, field in everything()}.values()
)


def valid_values(field: Field) -> st.SearchStrategy[Any]:
    """Return values in range."""
    match field.type:
        case kind if get_origin(kind) is Literal:
            found: st.SearchStrategy[Any] = st.sampled_from(get_args(kind))
        case kind if kind is bool:
            found = st.booleans()
        case kind if kind is str:
            found = st.text()
        case kind if kind is int:
            least = max(field.bounds.get("at_least", -(10**6)), field.bounds.get("above", -(10**6) - 1) + 1)
            found = st.integers(int(least), int(field.bounds.get("at_most", 10**6)))
        case kind if kind is float:
            low, high = field.bounds.get("above"), field.bounds.get("below")
            found = st.floats(
                field.bounds.get("at_least", low if low is not None else -1e6),
                field.bounds.get("at_most", high if high is not None else 1e6),
                exclude_min=low is not None,
                exclude_max=high is not None,
            )
        case _:
            found = st.lists(st.text()).map(tuple)
    return st.one_of(st.none(), found) if field.optional else found


def invalid_values(field: Field) -> st.SearchStrategy[Any]:
    """Return values of another type, and numbers out of range."""
    wrong: list[st.SearchStrategy[Any]] = [st.just([]), st.just(object())]
    if not field.optional:
        wrong.append(st.none())
    if field.type not in (str,) and get_origin(field.type) is not Literal:
        wrong.append(st.text())
    if field.type in (int, float):
        wrong += [st.booleans(), st.sampled_from([math.nan, math.inf, -math.inf])]
        bounds = field.bounds
        if "above" in bounds or "at_least" in bounds:
            low = bounds.get("above", bounds.get("at_least"))
            wrong.append(st.floats(max_value=low, allow_nan=False, exclude_max="at_least" in bounds))
        if "below" in bounds or "at_most" in bounds:
            high = bounds.get("below", bounds.get("at_most"))
            wrong.append(st.floats(min_value=high, allow_nan=False, exclude_min="at_most" in bounds))
    if field.type is int:
        wrong.append(st.floats(0.01, 0.99).map(lambda x: 3 + x))
    if field.type is bool:
        wrong += [st.integers(), st.just("True")]
    if get_origin(field.type) is Literal:
        wrong.append(st.text().filter(lambda text: text not in get_args(field.type)))
    return st.one_of(wrong)


@pytest.mark.parametrize(("where", "field"), EACH, ids=[where for where, _ in EACH])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_bounds_are_checked(where: str, field: Field, data: st.DataObject) -> None:
    check(field, data.draw(valid_values(field)))
    value = data.draw(invalid_values(field))
    with pytest.raises(ValueError, match=rf"^{field.name} must be ") as raised:
        check(field, value)
    assert "\n" not in str(raised.value) or "\n" in repr(value)
    assert repr(value)[:20] in str(raised.value), where


def test_every_setting_has_a_text_and_every_default_is_valid() -> None:
    for where, field in everything():
        assert field.doc, where
        if field.default is not dataclasses.MISSING:
            check(field, field.default)


@dataclass(frozen=True, kw_only=True)
class Toy(Settings):
    """Settings of a toy."""

    rate: Annotated[PositiveFloat, Doc("A step size.")] = 0.5
    most: Annotated[PositiveInt | None, Doc("A limit; None for none.")] = None
    kind: Annotated[Literal["a", "b"], Doc("A kind.")] = "a"


@dataclass(frozen=True, kw_only=True)
class MoreToy(Toy):
    """Settings of a larger toy."""

    least: Annotated[PositiveInt, Doc("Another limit.")] = 1

    def check_relations(self) -> None:
        super().check_relations()
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most ({self.most}) must be at least least ({self.least})")


def test_settings_are_checked_when_they_are_made() -> None:
    assert MoreToy(most=3, least=2).most == 3
    for make, message in (
        (lambda: Toy(rate=0), "rate must be a finite number above 0, not 0"),
        (lambda: Toy(most=0), "most must be a positive whole number or None, not 0"),
        (lambda: Toy(kind="c"), "kind must be one of a, b, not 'c'"),  # pyright: ignore[reportArgumentType]
        (lambda: MoreToy(most=1, least=2), r"most \(1\) must be at least least \(2\)"),
        (lambda: dataclasses.replace(MoreToy(most=3), most=-1), "most must be a positive whole number or None, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_traced_number_passes() -> None:
    assert float(jax.jit(lambda rate: Toy(rate=rate).rate * 2)(0.25)) == 0.5


def test_the_docstring_has_every_attribute() -> None:
    """The docstring, which ``MoreToy?`` shows in a notebook, and the API reference."""
    assert MoreToy.__doc__ is not None
    assert MoreToy.__doc__.startswith("Settings of a larger toy.\n\nAttributes:\n")
    for line in (
        "    rate: A step size. (a number above 0; default: 0.5)",
        "    most: A limit; None for none. (a whole number above 0 or None; default: None)",
        "    kind: A kind. (one of 'a', 'b'; default: 'a')",
        "    least: Another limit. (a whole number above 0; default: 1)",
    ):
        assert line in MoreToy.__doc__.splitlines()


def test_the_command_line_shows_the_same_texts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(MoreToy, ["--help"], program="toy", description="A toy.")
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("A step size.", "A limit; None for none.", "--kind {a,b}", "Another limit."):
        assert text in printed


def test_the_help_begins_with_a_dozen_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("rl2-gridnavi", "maml-sinusoid", "pearl-cartpole"):
        with pytest.raises(SystemExit):
            options.parse(options.NewRun, ["--help"], program="train", description="", experiment=experiments.get(name))
        printed = capsys.readouterr().out
        first = printed.index("that are changed most often")
        assert first < printed.index("Options of training a new run") < printed.index("Other settings")
        # A family's parameters are documented in its function.
        assert (
            "Steps of an episode" in printed
            or "Number of examples in the support" in printed
            or "steps of an episode" in printed
        )
        head = printed[first : printed.index("Options of training a new run")]
        assert 4 <= len(re.findall(r"^\W*--\w", head, re.MULTILINE)) <= options.DOZEN


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="the setting wrong is of type"):

        class Wrong(Settings):
            wrong: dict[str, int]

    def family(size: list[int] = []) -> None:  # noqa: B006
        pass

    with pytest.raises(TypeError, match="the setting size is of type"):
        parameters(family)


def test_parameters_of_a_function_are_settings() -> None:
    def family(
        size: PositiveInt = 3, share: Fraction = 0.5, *, speed: Annotated[float, Gt(0), Doc("Fast.")] = 1.0
    ) -> None:
        """A family.

        Args:
            size: How large
                it is.
            share: Of all.
            speed: Not this text: the annotation has one.
        """

    found = parameters(family)
    assert {name: (f.doc, f.default) for name, f in found.items()} == {
        "size": ("How large it is.", 3),
        "share": ("Of all.", 0.5),
        "speed": ("Fast.", 1.0),
    }
    assert found["speed"].bounds == {"above": 0}


CHECKS: list[tuple[Callable[[], Any], str]] = [
    (lambda: experiments.get("rl2-bandit-10x5").build({}), "there is no value of the setting episodes"),
    (
        lambda: experiments.get("rl2-bandit-10x5").with_overrides({"hiden_size": 3}),
        r"rl2-bandit-10x5 has no setting 'hiden_size' \(did you mean hidden_size",
    ),
]


@pytest.mark.parametrize(("make", "message"), CHECKS)
def test_experiments_name_wrong_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
