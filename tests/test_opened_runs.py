"""``metarl_jax.runs.open``: reading a run folder from Python."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl_jax import cli, experiments, runs
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig

OLD = Path(__file__).parent / "data" / "run-0.1.0"
"""A run of one seed and six iterations that version 0.1 wrote, with an evaluation."""


def line(n: int, **metrics: Any) -> dict[str, Any]:
    return {"iteration": n, "steps": 120 * n, "wall_s": 0.5 * n, **metrics}


def append(path: Path, *lines: dict[str, Any] | str) -> None:
    texts = (text if isinstance(text, str) else json.dumps(text) for text in lines)
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(f"{text}\n" for text in texts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two seeds with a few iterations. The first seed diverges after two iterations."""
    path = tmp_path / "the-run"
    (path / "checkpoints").mkdir(parents=True)
    settings = experiments.get("rl2-gridnavi").with_overrides({"iterations": 10})
    config = RunConfig(experiment="rl2-gridnavi", settings=settings, seed=5, seeds=2, evaluate_every=2)
    (path / "config.json").write_text(json.dumps(config.stored()))
    append(
        path,
        line(1, trial_reward=[1.0, 2.0], loss=[0.1, 0.2]),
        line(2, trial_reward=[3.0, 4.0], loss=[0.3, 0.4], validation_score=[7.0, 8.0]),
        line(3, trial_reward=[None, 6.0], loss=[None, 0.6]),
    )
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_opening_and_reading_imports_no_jax(run: Path) -> None:
    code = (
        "import sys, metarl_jax.runs\n"
        "assert 'open' in dir(metarl_jax.runs) and 'numpy' not in sys.modules\n"
        f"run = metarl_jax.runs.open({str(run)!r})\n"
        "print(run.config.experiment, len(run.metrics['loss']), run)\n"
        "print(*{'jax', 'matplotlib', 'pandas', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, heavy = done.stdout.splitlines()
    assert first == f"rl2-gridnavi 3 Run({str(run)!r}: rl2-gridnavi, 2 seeds, iteration 3 of 10)", done.stderr
    assert heavy == ""


def test_metrics_of_one_seed_that_version_0_1_wrote(old: Path) -> None:
    opened = runs.open(str(old))
    stored = [json.loads(text) for text in (old / "metrics.jsonl").read_text().splitlines()]
    assert opened.config.settings["embedding_size"] == 2 and opened.config.settings["readout_size"] is None
    assert opened.path == old
    np.testing.assert_array_equal(opened.metrics["iteration"], range(1, 7))
    np.testing.assert_array_equal(opened.metrics["steps"], [24 * n for n in range(1, 7)])
    np.testing.assert_array_equal(opened.metrics["wall_s"], [one["wall_s"] for one in stored])
    np.testing.assert_array_equal(opened.metrics["loss"], [one["loss"][0] for one in stored])
    validated = [one["heldout_score"][0] if "heldout_score" in one else np.nan for one in stored]
    assert not np.isnan(validated).all()
    np.testing.assert_array_equal(opened.metrics["validation_score"], validated)
    assert {array.dtype for name, array in opened.metrics.items() if name not in ("iteration", "steps")} == {
        np.dtype(np.float64)
    }
    assert {array.shape for array in opened.metrics.values()} == {(6,)}


def test_metrics_of_several_seeds_have_a_column_a_seed(run: Path) -> None:
    opened, nan = runs.open(run), np.nan
    assert opened.seeds == range(5, 7)
    np.testing.assert_array_equal(opened.metrics["steps"], [120, 240, 360])
    np.testing.assert_array_equal(opened.metrics["loss"], [[0.1, 0.2], [0.3, 0.4], [nan, 0.6]])
    np.testing.assert_array_equal(opened.metrics["validation_score"], [[nan, nan], [7, 8], [nan, nan]])
    with pytest.raises(ValueError, match="read-only"):
        opened.metrics["loss"][0] = 0.0


def test_a_run_that_is_still_training_is_read_again(run: Path) -> None:
    (run / "metrics.jsonl").rename(run / "later")
    opened = runs.open(run)
    assert {name: len(array) for name, array in opened.metrics.items()} == {"iteration": 0, "steps": 0, "wall_s": 0}
    assert "iteration 0 of 10" in repr(opened)
    with pytest.raises(UserError, match=r"has no metrics yet: metarl-jax resume "):
        opened.plot_learning()
    (run / "later").rename(run / "metrics.jsonl")
    first = opened.metrics
    assert len(first["loss"]) == 3 and opened.metrics is first
    append(run, line(4, trial_reward=[None, 9.0], loss=[None, 0.9]))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "st')
    assert len(opened.metrics["loss"]) == 4 and opened.metrics["loss"][-1, 1] == 0.9


@pytest.mark.parametrize(
    "text",
    [
        "what is this",
        '{"iteration": 4}',
        line(4, loss=[0.1]),
        line(4, loss=[0.1, "much"]),
        line(4, loss=[0.1, True]),
        '{"iteration": 4, "steps": 1e999, "wall_s": 0}',
        '{"iteration": 4, "steps": 480, "wall_s": 0, "loss": [1e999, 0]}',
        f'{{"iteration": 4, "steps": 480, "wall_s": 0, "loss": [1{"0" * 400}, 0]}}',
        line(4) | {"steps": 2**60},
        line(3, loss=[0.1, 0.2]),
    ],
)
def test_lines_that_are_damaged_are_left_out(run: Path, text: Any) -> None:
    append(run, text, line(5, loss=[0.5, 0.6]))
    with pytest.warns(UserWarning, match=r"^1 damaged lines of .*metrics\.jsonl are left out"):
        metrics = runs.open(run).metrics
    np.testing.assert_array_equal(metrics["iteration"], [1, 2, 3, 5])
    np.testing.assert_array_equal(metrics["loss"][-1], [0.5, 0.6])


def test_a_frame_has_a_row_for_each_iteration_and_seed(run: Path, old: Path) -> None:
    frame = runs.open(run).frame()
    assert list(frame.columns[:4]) == ["iteration", "steps", "wall_s", "seed"]
    assert list(zip(frame["iteration"], frame["seed"], strict=True)) == [(n, s) for n in (1, 2, 3) for s in (5, 6)]
    np.testing.assert_array_equal(frame["loss"], [0.1, 0.2, 0.3, 0.4, np.nan, 0.6])
    assert [frame.loc[frame["seed"] == seed, "trial_reward"].max() for seed in (5, 6)] == [3.0, 6.0]
    alone = runs.open(old).frame()
    assert "seed" not in alone and len(alone) == 6 and list(alone["iteration"]) == [1, 2, 3, 4, 5, 6]


def test_a_frame_needs_pandas(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^Run.frame needs pandas: pip install pandas$"):
        runs.open(run).frame()


def test_evaluations_have_scores_and_the_table_of_the_report(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (evaluation,) = runs.open(old).evaluations
    stored = json.loads(next(old.glob("evaluation-*.json")).read_text())
    assert (evaluation.name, evaluation.iteration, evaluation.tasks) == ("rl2-bandit-10x5 (ours)", 6, 8)
    assert evaluation.score == stored["ours"]["score"]
    assert list(evaluation.interval) == stored["ours"]["ci95"]
    np.testing.assert_array_equal(evaluation.by_stage, stored["ours"]["score_by_stage"])
    assert evaluation.ours.interval_by_stage.shape == (3, 2) and evaluation.ours.per_seed.shape == (1,)
    names = [learner.name for learner in evaluation.references]
    assert len(names) == len(stored["oracles"]) and {"Gittins index", "Thompson sampling", "UCB1"} <= {*names}
    assert evaluation.published == stored["paper"] and evaluation.changes == stored["changes"]
    assert cli.main(["report", str(old), "--no-record", "--output", str(old / "page.html")]) == 0
    printed = {" ".join(text.split()) for text in capsys.readouterr().out.splitlines() if "│" in text}
    shown = {" ".join(text.split()) for text in str(evaluation).splitlines() if "│" in text}
    assert len(shown) > 5 and shown == printed
    html = evaluation._repr_html_()
    assert html.startswith("<pre") and "rl2-bandit-10x5 (ours)" in html


def test_names_in_a_table_are_escaped(old: Path) -> None:
    (path,) = old.glob("evaluation-*.json")
    content = json.loads(path.read_text())
    content["ours"]["name"] = "<script>alert(1)</script>[red]"
    path.write_text(json.dumps(content))
    html = runs.open(old).evaluations[0]._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and "[red]" in html


def test_an_evaluation_that_is_damaged_is_left_out(old: Path) -> None:
    (old / "evaluation-iteration9-tasks8-seed0.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"left out: .*evaluation-iteration9-tasks8-seed0.json has schema None"):
        found = runs.open(old).evaluations
    assert len(found) == 1


def test_a_score_that_diverged_is_nan(old: Path) -> None:
    (evaluation,) = runs.open(old).evaluations
    ours = evaluation.stored["ours"] | {"score": None, "ci95": [None, None]}
    diverged = dataclasses.replace(evaluation, stored={**evaluation.stored, "ours": ours})
    assert np.isnan([diverged.score, *diverged.interval]).all()
    assert "diverged" in str(diverged)


def shown_png(value: object) -> bytes | None:
    """Return the picture that a notebook shows for the value of a cell."""
    from IPython.core.formatters import DisplayFormatter

    return DisplayFormatter().format(value)[0].get("image/png")


def test_learning_is_drawn_on_a_figure_of_its_own(run: Path) -> None:
    from matplotlib import pyplot

    axes = runs.open(run).plot_learning()
    curves = {str(curve.get_label()): np.array(curve.get_xydata()) for curve in axes.get_lines()}
    # The line is the mean over the seeds that have not diverged.
    np.testing.assert_allclose(curves["training tasks"], [[120, 1.5], [240, 3.5], [360, 6.0]])
    np.testing.assert_allclose(curves["validation tasks"], [[240, 7.5]])
    assert axes.get_xlabel() == "environment steps of each seed" and axes.get_ylabel() == "reward of a trial"
    assert len(axes.collections) == 2
    assert pyplot.get_fignums() == []
    png = shown_png(axes)
    assert png is not None and png.startswith(b"\x89PNG")


def test_learning_is_drawn_onto_given_axes(run: Path) -> None:
    from matplotlib.figure import Figure

    given = Figure().subplots()
    opened = runs.open(run)
    assert opened.plot_learning("loss", given) is given
    np.testing.assert_allclose(np.array(given.get_lines()[0].get_ydata()), [0.15, 0.35, 0.6])
    assert given.get_ylabel() == "loss"
    with pytest.raises(ValueError, match=r"no metric 'los' \(did you mean loss\?\); it has loss, trial_reward, valid"):
        opened.plot_learning("los")


def test_long_curves_are_averaged(run: Path) -> None:
    append(run, *(line(n, trial_reward=[float(n), float(n)]) for n in range(4, 3004)))
    (curve,) = runs.open(run).plot_learning("trial_reward").get_lines()
    x, y = np.array(curve.get_xydata()).T
    assert len(x) == 500
    np.testing.assert_allclose(y[1:], x[1:] / 120)


def test_adaptation_is_drawn(old: Path) -> None:
    opened = runs.open(old)
    axes = opened.plot_adaptation()
    (evaluation,) = opened.evaluations
    ours = axes.get_lines()[0]
    assert ours.get_label() == evaluation.name
    np.testing.assert_allclose(np.array(ours.get_ydata()), evaluation.by_stage)
    np.testing.assert_array_equal(np.array(ours.get_xdata()), [1, 2, 3])
    assert len(axes.get_lines()) == 1 + len(evaluation.references)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("episode", "return of an episode")
    assert opened.plot_adaptation(evaluation, axes) is axes


def test_a_run_without_evaluations_says_how_to_get_one(run: Path) -> None:
    opened = runs.open(run)
    assert opened.evaluations == ()
    with pytest.raises(UserError, match=r"the-run has not been evaluated: metarl-jax evaluate .*the-run$"):
        opened.plot_adaptation()


def test_a_path_that_is_not_a_run_folder_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no run folder .*nothing$"):
        runs.open(tmp_path / "nothing")
    elsewhere = tmp_path / "elsewhere"
    (run / "metrics.jsonl").rename(elsewhere)
    (run / "metrics.jsonl").symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: it is a symbolic link"):
        _ = runs.open(run).metrics
    (run / "checkpoints").rmdir()
    (run / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(UserError, match="checkpoints cannot be used: it is a symbolic link"):
        runs.open(run)
