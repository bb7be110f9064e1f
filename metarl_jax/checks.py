"""Checks of names, sizes and rates, which are made before anything compiles.

This module imports no other module of the package.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, TypeAlias

LAST_SEED = 2**32 - 1
"""The largest seed. JAX uses 32 bits of a seed, so that larger seeds equal smaller ones."""

Check: TypeAlias = Callable[..., Any]
"""``(name, value) -> value``. The function raises a ValueError that gives the name, the value and what is valid."""


def _in_words(**bounds: float | None) -> str:
    """Return bounds as text, such as ``above 0 and at most 1``."""
    return " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items() if bound is not None)


def whole(
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Check:
    """Make a check that a number is whole and in range."""

    def check(name: str, value: Any, otherwise: str = "") -> int:
        number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else math.nan
        valid = (above is None or number > above) and (at_least is None or number >= at_least)
        valid = valid and (at_most is None or number <= at_most) and (below is None or number < below)
        if not valid or math.isnan(number):
            bounds = _in_words(above=above or None, at_least=at_least, at_most=at_most, below=below)
            kind = "a positive whole number" if above == 0 else "a whole number"
            of = " of" if bounds.startswith("at") else ""
            raise ValueError(f"{name} must be {f'{kind}{of} {bounds}'.strip()}{otherwise}, not {value!r}")
        return int(number)

    return check


def positive_int(name: str, value: Any) -> int:
    """Return ``value`` if it is a whole number above zero, otherwise raise a ValueError."""
    return whole(above=0)(name, value)


def natural_int(name: str, value: Any) -> int:
    """Return ``value`` if it is a whole number of at least zero, otherwise raise a ValueError."""
    return whole(at_least=0)(name, value)


def boolean(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False, otherwise raise a ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def positive_number(name: str, value: Any) -> float:
    """Return ``value`` if it is a finite number above zero, otherwise raise a ValueError."""
    return real(above=0)(name, value)


def real(
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Check:
    """Make a check that a number is finite and in range.

    Tracers that are scalars, as in ``vmap`` over hyper-parameters, pass the check, because their value is not known
    yet.
    """
    wanted = _in_words(above=above, at_least=at_least, at_most=at_most, below=below)

    def check(name: str, value: Any, otherwise: str = "") -> Any:
        number = math.nan
        if isinstance(value, Real) and not isinstance(value, bool):
            number = float(value)
        elif hasattr(value, "dtype") and getattr(value, "shape", None) == ():
            try:
                number = float(value)
            except TypeError:  # JAX raises it for a tracer
                return value
        valid = math.isfinite(number) and (above is None or number > above)
        valid = valid and (at_least is None or number >= at_least) and (at_most is None or number <= at_most)
        valid = valid and (below is None or number < below)
        if not valid:
            raise ValueError(f"{name} must be {f'a finite number {wanted}'.strip()}{otherwise}, not {value!r}")
        return number

    return check


def seed_range(seed: Any, seeds: Any) -> tuple[int, int]:
    """Return the first seed and the number of seeds if all of these seeds differ.

    Args:
        seed: the first seed.
        seeds: the number of consecutive seeds.

    Raises:
        ValueError: if ``seeds`` is not positive, or a seed is not from 0 to ``LAST_SEED``.
    """
    first, number = natural_int("seed", seed), positive_int("seeds", seeds)
    if first + number - 1 > LAST_SEED:
        raise ValueError(f"seeds {first} .. {first + number - 1} are not all from 0 to {LAST_SEED}")
    return first, number


def choice(*valid: str) -> Check:
    """Make a check that a string is one of ``valid``."""

    def check(name: str, value: Any) -> str:
        if value not in valid:
            raise ValueError(
                f"{name} must be one of {', '.join(valid)}, not {value!r}{did_you_mean(str(value), valid)}"
            )
        return value

    return check


def install_command(extra: str) -> str:
    """Return the command that installs the dependencies of an optional part of the package.

    The package is not on a package index, so the command installs from a checkout.
    """
    return f"pip install '.[{extra}]' in a checkout of metarl-jax"


def _words(name: str) -> str:
    """Return the words of a name, each between dashes."""
    return "-" + name.strip("-_").replace("_", "-") + "-"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: ``(did you mean X?)``, or no text if no valid name is similar.

    Valid names that contain the unknown one come first.
    """
    # Words are compared, because the dashes of options are the same in all names.
    names = {_words(other): other for other in valid}
    near = [other for words, other in names.items() if _words(name) in words]
    close = difflib.get_close_matches(_words(name).strip("-"), [words.strip("-") for words in names], n=3, cutoff=0.5)
    near += [names[f"-{words}-"] for words in close if names[f"-{words}-"] not in near]
    return f" (did you mean {' or '.join(near[:3])}?)" if near else ""
