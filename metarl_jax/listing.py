"""The output of ``metarl-jax list``: a table of families of tasks by algorithms. This module does not import JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from metarl_jax import experiments
from metarl_jax.checks import did_you_mean
from metarl_jax.experiments import registry
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.pretrained_learners import Card, pretrained_cards

DESCRIPTION = (
    "Print a table of families of tasks by algorithms: T tuned settings, + works, . does not apply. Words filter "
    "presets, algorithms, families and trained learners by their names and titles."
)


def _chosen(words: Sequence[str]) -> tuple[list[Any], list[Any], list[Any], list[Card]]:
    """Return the algorithms, families, presets and trained learners that match all words."""

    def matches(*texts: str) -> bool:
        return all(any(word.lower() in text.lower() for text in texts) for word in words)

    presets = [one for one in experiments.presets() if matches(one.name, one.description)]
    families = [one for one in registry.families() if matches(one.name, one.title)]
    algorithms = [one for one in registry.algorithms() if matches(one.name, one.title)]
    learners = [one for one in pretrained_cards().values() if matches(one.name, one.description)]
    if words and not (presets or families or algorithms or learners):
        entries = [*registry.families(), *registry.algorithms(), *pretrained_cards().values()]
        names = [*experiments.names(), *(one.name for one in entries)]
        raise UserError(f"nothing is called {' '.join(words)!r}{did_you_mean(' '.join(words), names)}")
    # If only families match, the table shows them with all algorithms. If only algorithms match, with all families.
    return algorithms or registry.algorithms(), families or registry.families(), presets, learners


def _tuned() -> dict[tuple[str, str], list[str]]:
    """Return the names of the tuned presets of each combination, by algorithm and family."""
    found: dict[tuple[str, str], list[str]] = {}
    for preset in experiments.presets():
        if preset.tuned:
            found.setdefault((preset.algorithm, preset.family), []).append(preset.name)
    return found


def as_json(words: Sequence[str]) -> str:
    """Return the list as JSON, for programs.

    Args:
        words: the words that names or titles must match; empty for everything.

    Raises:
        UserError: if nothing matches.
    """
    algorithms, families, presets, learners = _chosen(words)
    tuned = _tuned()
    return json.dumps(
        {
            "algorithms": [{"name": one.name, "title": one.title} for one in algorithms],
            "families": [{"name": one.name, "title": one.title, "kind": one.kind} for one in families],
            "combinations": [
                {
                    "algorithm": algorithm.name,
                    "family": family.name,
                    "networks": [network.name for network in registry.networks(algorithm, family)],
                    "presets": tuned.get((algorithm.name, family.name), []),
                }
                if (reason := registry.does_not_apply(algorithm, family)) is None
                else {"algorithm": algorithm.name, "family": family.name, "does_not_apply": reason}
                for algorithm in algorithms
                for family in families
            ],
            "presets": [
                {
                    "name": one.name,
                    "description": one.description,
                    "algorithm": one.algorithm,
                    "family": one.family,
                    "network": one.network,
                    "minutes": one.minutes,
                }
                for one in presets
            ],
            "pretrained": [dataclasses.asdict(one) for one in learners],
        },
        indent=1,
        ensure_ascii=False,
    )


def as_text(words: Sequence[str]) -> str:
    """Return the table, the networks, the presets and the trained learners as text.

    Args:
        words: the words that names or titles must match; empty for everything.

    Raises:
        UserError: if nothing matches.
    """
    algorithms, families, presets, learners = _chosen(words)
    tuned = _tuned()
    width = max(len(family.name) for family in families)
    lines = ["Families of tasks by algorithms: T tuned settings, + works, . does not apply.", ""]
    lines += _header([algorithm.name for algorithm in algorithms], width)
    reasons: dict[str, list[str]] = {}
    for family in families:
        marks = []
        for algorithm in algorithms:
            reason = registry.does_not_apply(algorithm, family)
            if reason is not None:
                reasons.setdefault(f"{algorithm.name}: {reason}", []).append(family.name)
            marks.append("." if reason else "T" if (algorithm.name, family.name) in tuned else "+")
        lines.append(f"{family.name:{width}} {'  '.join(marks)}   {family.title}")
    lines += ["", "Does not apply:"]
    lines += [f"  {reason} ({_few(names)})" for reason, names in reasons.items()]
    lines += ["", "To train a combination:  metarl-jax train ALGORITHM FAMILY [--memory NETWORK]"]
    memories = [network.name for network in registry.networks(registry.algorithm("rl2"), registry.family("bandit"))]
    lines += [f"Memories of rl2: {', '.join(memories)}"]
    for title, tuned_or_not in (("Tuned presets", True), ("Presets without tuning", False)):
        some = [preset for preset in presets if preset.tuned == tuned_or_not]
        if some:
            lines += ["", f"{title}:  metarl-jax train NAME"]
        width = max((len(preset.name) for preset in some), default=0)
        for preset in some:
            took = f" ({max(1, round(preset.minutes))} min a seed)" if preset.minutes is not None else ""
            lines.append(f"  {preset.name:{width}}  {preset.description}{took}")
    if learners:
        lines += ["", "Trained learners in this package:  metarl_jax.pretrained(NAME) in Python"]
    width = max((len(card.name) for card in learners), default=0)
    for card in learners:
        low, high = card.ci95
        lines.append(f"  {card.name:{width}}  {card.description} ({card.metric} {low:.4g} to {high:.4g})")
    return "\n".join(lines)


def _header(names: Sequence[str], width: int) -> list[str]:
    """Return the names of columns on consecutive lines, each with a vertical line to its column."""
    return [f"{'':{width}} {'|  ' * i}{name}" for i, name in enumerate(names)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
