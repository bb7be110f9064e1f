"""The documents show the tables that are made from the results files."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import metarl_jax
from metarl_jax import experiments


@pytest.fixture(scope="module")
def reproduce(root: Path) -> Iterator[ModuleType]:
    """The program, imported from its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        spec = importlib.util.spec_from_file_location("reproduce", root / "benchmarks" / "reproduce.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "reproduce", module)
        spec.loader.exec_module(module)
        yield module


def test_the_page_of_results_shows_the_table(reproduce: ModuleType, root: Path) -> None:
    page = (root / "benchmarks" / "README.md").read_text()
    assert reproduce.with_table(page) == page, "run benchmarks/reproduce.py --readme"


def test_the_page_of_results_shows_the_comparison_and_the_speeds(root: Path) -> None:
    page = (root / "benchmarks" / "README.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        import applications  # pyright: ignore[reportMissingImports]
        import compare  # pyright: ignore[reportMissingImports]
        import frozen_benchmark  # pyright: ignore[reportMissingImports]
        import gymnasium_speed  # pyright: ignore[reportMissingImports]
        import memory_probes  # pyright: ignore[reportMissingImports]
        import results_file  # pyright: ignore[reportMissingImports]
        import speed  # pyright: ignore[reportMissingImports]

        for family, learners in compare.FAMILIES.items():
            for learner in learners:
                assert compare.experiment_of(family, learner)
        assert results_file.with_block(page, "compare.py", compare.shown()) == page
        presets = set(experiments.names())
        assert all(set(entry.learners) <= presets for entry in applications.APPLICATIONS.values())
        assert results_file.with_block(page, "applications.py", applications.shown()) == page
        assert results_file.with_block(page, "memory_probes.py", memory_probes.shown()) == page
        assert results_file.with_block(page, "frozen_benchmark.py", frozen_benchmark.all_shown()) == page
        assert results_file.with_block(page, "speed.py", speed.shown()) == page
        assert results_file.with_block(page, "gymnasium_speed.py", gymnasium_speed.shown()) == page
        with pytest.raises(ValueError, match=r"no marks for the table of benchmarks/other\.py"):
            results_file.with_block(page, "other.py", "")


def test_the_readme_shows_the_headlines(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (root / "README.md").read_text()
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import headlines  # pyright: ignore[reportMissingImports]

    assert headlines.with_tables(readme) == readme, "run benchmarks/headlines.py --readme"
    rows = [
        {"experiment": "a", "metric": "m", "ours": [1.0, 0.5], "ci95": [[0, 2], [0.25, 0.75]], "paper": 0.6, "seeds": 3}
        | {"references": {"other": [2.0, 0.1]}}
    ]
    monkeypatch.setattr(headlines, "read_rows", lambda name: rows)
    headline = headlines.Headline("task", "learner", "file", "a", "m", "other", percent=True, at=1)
    expected = ("task", "learner", "**50.0 %** (25.0 to 75.0 %)", "60.0 %", "10.0 %, other", "3")
    assert headlines.cells(headline) == expected
    with pytest.raises(ValueError, match=r"file\.json must have one row for \('b', 'm', ''\), not 0"):
        headlines.cells(headline._replace(experiment="b"))


def test_the_readme_is_short(root: Path) -> None:
    lines = (root / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_documents_agree_with_the_files(root: Path) -> None:
    """Relative links exist, also those to headings; the picture is small; the citation has the version."""
    for name in ("README.md", "benchmarks/README.md"):
        page = root / name
        text = page.read_text()
        headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("#"):
                assert target[1:] in headings, target
            else:
                assert (page.parent / target).is_file(), target
    assert f"version: {metarl_jax.__version__}" in (root / "CITATION.cff").read_text().splitlines()
    assert 10_000 < (root / "benchmarks" / "adaptation.gif").stat().st_size < 500_000


def test_every_claim_can_be_run(reproduce: ModuleType, root: Path) -> None:
    """Experiments exist, and the help of each benchmark names the options of its commands and their values."""
    helped: dict[str, str] = {}
    for claim in reproduce.CLAIMS:
        assert experiments.get(claim.experiment).name == claim.experiment
        script, *options = claim.command
        if script not in helped:
            command = [sys.executable, str(root / "benchmarks" / script), "--help"]
            helped[script] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for option in options:
            assert option.isdecimal() or re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", helped[script]), option
        text = (root / "benchmarks" / script).read_text()
        assert f'"{claim.results}"' in text or script == "fewshot_omniglot.py"


def test_the_verdict_on_a_claim_depends_on_every_seed(reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, Any] = {
        "experiment": "rl2-bandit-10x5",
        "metric": "trial_reward",
        "variant": "",
        "ci95": [6.6, 6.7],
        "seeds": 2,
        "train_wall_s": 90.0,
        "device": "a device",
        "commit": "abc",
    }
    claim = reproduce.CLAIMS[0]
    assert claim.bar == 6.62
    for by_seed, verdict in (([6.63, 6.64], "yes"), ([6.60, 6.66], "on average"), ([6.5, 6.6], "no")):
        row = {**measured, "by_seed": by_seed, "ours": sum(by_seed) / 2}
        monkeypatch.setattr(reproduce, "read_rows", lambda name, row=row: [{**row, "variant": "shorter"}, row])
        cells = reproduce.cells(1, claim)
        assert cells[5].endswith("(6.60 to 6.70)"), "what was cut short does not stand for the published setting"
        assert cells[6:] == (verdict, "2", "2", "a device", "abc")
    lower = claim._replace(higher_is_better=False)
    assert lower.reached({**measured, "by_seed": [6.5, 6.6], "ours": 6.55}) == "yes"
    monkeypatch.setattr(reproduce, "read_rows", lambda name: [])
    assert reproduce.cells(1, claim)[5:] == ("not yet", "", "", "", "", "")
    assert reproduce.chosen(["missing"]) == list(reproduce.CLAIMS)


def test_missing_rows_are_named(reproduce: ModuleType) -> None:
    assert reproduce.chosen(["1", "3"]) == [reproduce.CLAIMS[0], reproduce.CLAIMS[2]]
    with pytest.raises(ValueError, match=f'"all", "missing", or numbers from 1 to {len(reproduce.CLAIMS)}, not \'0\''):
        reproduce.chosen(["0"])


def test_products_are_counted_through_loops_and_derivatives(root: Path) -> None:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        """Compute five products ``[3, 4] @ [4, 4]``, and the more expensive one of two branches."""
        x = jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]
        return jax.lax.cond(x[0, 0] > 0, lambda: (x @ w).sum(), lambda: (x @ w @ w).sum())

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "benchmarks"))
        import speed  # pyright: ignore[reportMissingImports]

        one = 2 * 3 * 4 * 4
        x, w = jnp.ones((3, 4)), jnp.ones((4, 4))
        assert speed.product_flops(jax.make_jaxpr(loss)(x, w).jaxpr) == 7 * one
        # The derivative of each product is one product for its input, and one for its weights.
        assert speed.product_flops(jax.make_jaxpr(jax.jit(jax.grad(loss, 1)))(x, w).jaxpr) == pytest.approx(
            3 * 7 * one, rel=0.2
        )
        images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
        convolution = jax.make_jaxpr(
            lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )(images, kernel)
        assert speed.product_flops(convolution.jaxpr) == 2 * (2 * 6 * 6 * 5) * (3 * 3 * 3)
