"""Reports about complete, damaged and hostile runs, and their display in a real browser."""

from __future__ import annotations

import dataclasses
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metarl_jax import cli, experiments
from metarl_jax.oracles import at_random
from metarl_jax.reports import animation, collect, compare, figures, page
from metarl_jax.reports.markup import Html, tag
from metarl_jax.runs import evaluate, record, study, study_folder, train
from metarl_jax.runs.folder import RunConfig, RunFolder

NAME = "rl2-gridnavi"
SMALL = {"episodes": 2, "trials": 4, "minibatches": 1, "hidden_size": 4, "embedding_size": 4, "iterations": 300}
HOSTILE = "</title><script src=//{0}/s></script><img src=//{0}/i onerror=alert(1)><style>*{{display:none}}</style>\"'&"


def metric_lines(last: int) -> list[dict[str, Any]]:
    """Return metrics of two seeds in the form that training writes."""
    lines = []
    for n in range(1, last + 1):
        line = {
            "iteration": n,
            "steps": 120 * n,
            "wall_s": 0.5 * n,
            "trial_reward": [n / 10, n / 10 + 2],
            "loss": [1 / n, 0.0],
        }
        lines.append(line | ({"validation_score": [n / 10, n / 10 + 1]} if n % 50 == 0 else {}))
    return lines


def write_metrics(path: Path, lines: list[dict[str, Any]]) -> None:
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def run_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint, an evaluation and a video that the program wrote, and metrics in its form."""
    path = tmp_path_factory.mktemp("runs") / "the-run"
    with pytest.MonkeyPatch.context() as patch:
        experiment = experiments.get(NAME)
        settings = experiment.with_overrides(SMALL)
        oracle = at_random.uniform(experiment.make_family(settings), 2)
        patch.setattr(type(experiment), "oracles", lambda self, problem, stages: [oracle])
        run = train.new_run(path, RunConfig(experiment=NAME, settings=settings, seed=0, seeds=2, evaluate_every=50))
        write_metrics(path, metric_lines(300))
        evaluate.evaluate(run, 8, {}, 0, lambda text: None)
        record.save(run, record.render(run, 0), 0)
    # The files are those of a finished run, except that the checkpoint is the first one.
    (evaluation,) = path.glob("evaluation-*.json")
    evaluation.write_text(evaluation.read_text().replace('"iteration": 0', '"iteration": 300'))
    return path


@pytest.fixture
def run(run_made: Path, tmp_path: Path) -> Path:
    """A copy of that run, which a test may damage."""
    shutil.copytree(run_made, tmp_path / "the-run")
    return tmp_path / "the-run"


def report(*arguments: str | Path) -> int:
    return cli.main(["report", *map(str, arguments)])


def text_of(path: Path) -> str:
    """Return the visible text of a page."""
    content = re.sub(r"<style>.*?</style>|<title>[^<]*</title>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", content).split())


def test_a_page_of_a_run_shows_its_results(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    (evaluation,) = evaluate.read_all(RunFolder(run))[0]
    ours, text = evaluation["ours"], text_of(run / "report.html")
    places = 1
    for value in (ours["score"], *ours["ci95"], *ours["score_by_stage"], evaluation["oracles"][0]["score"]):
        assert figures.number(value, places) in text
    assert "mean of 2 seeds" in text
    assert "8 held-out tasks" in text
    assert "metarl-jax train rl2-gridnavi --episodes 2 --iterations 300" in text
    assert "--seeds 2 --evaluate-every 50" in text
    versions = json.loads((run / "versions.json").read_text())[0]
    assert f"jax {versions['jax']}" in text
    assert versions["device"] in text
    assert "2 min 30 s" in text
    assert (run / "report.md").read_text().startswith("rl2-gridnavi: mean reward of a trial")
    assert "validation tasks" in text


def with_evaluation(path: Path, **changes: Any) -> None:
    found = _evaluation(path)
    found.write_text(json.dumps(json.loads(found.read_text()) | changes))


def test_the_lead_is_one_sentence_with_the_published_result_of_the_same_method_and_the_optimum(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = {"UCB1 (A 2002)": 9.5, "RL² (B 2016, Table 1)": 8.5}
    with_evaluation(run, paper=paper, optimum=9.25)
    made = dataclasses.replace(experiments.get(NAME), same_method="RL² (B 2016, Table 1)")
    monkeypatch.setattr(RunConfig, "resolve", lambda self: made)
    write_page(run, run / "report.html")
    (evaluation,) = evaluate.read_all(RunFolder(run))[0]
    ours = evaluation["ours"]
    low, high = (figures.number(end, 1) for end in ours["ci95"])
    content = (run / "report.html").read_text()
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', content)
    assert " ".join(re.sub("<[^>]*>", "", lead).split()) == (
        f"The mean reward of a trial of 2 episodes is {figures.number(ours['score'], 1)} (95 % interval {low} to "
        f"{high}, mean of 2 seeds, 8 held-out tasks); the published result of RL² (B 2016, Table 1) is 8.5, and the "
        "exact optimum is 9.2."
    )
    # The learning figure has lines of the same method and the optimum, and none of another method's published number.
    (learning,) = re.findall(r'<figure aria-label="Learning">(.*?)</figure>', content)
    legend = [" ".join(re.sub("<[^>]*>", " ", item).split()) for item in re.findall(r"<li.*?</li>", learning)]
    assert "RL² (B 2016, Table 1), published 8.5" in legend and "exact optimum 9.25" in legend
    assert not any("UCB1" in item for item in legend)
    # Both published numbers are in the table, one of them in the row of the run.
    rows = [" ".join(re.sub("<[^>]*>", " ", row).split()) for row in re.findall("<tr.*?</tr>", content)]
    (own,) = [row for row in rows if row.startswith("RL² (ours) this run")]
    assert own.endswith("8.5 2")
    assert any(row.startswith("UCB1 9.5 1") for row in rows)
    assert "Published scores are from: 1 A 2002; 2 B 2016, Table 1." in text_of(run / "report.html")

    made = dataclasses.replace(made, same_method=None)
    write_page(run, run / "report.html")
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', (run / "report.html").read_text())
    assert "published" not in lead and "exact optimum" in lead


def test_published_numbers_are_those_of_the_same_tasks() -> None:
    """A run with other tasks, or with other numbers of stages, is not compared with published numbers."""
    experiment = experiments.get("rl2-bandit-10x5")
    settings = experiment.with_overrides({})
    assert evaluate.has_the_tasks_of(experiment, {**settings, "learning_rate": 1.0})
    assert not evaluate.has_the_tasks_of(experiment, {**settings, "arms": 6})
    for known in map(experiments.get, experiments.names()):
        assert known.same_method is None or known.same_method in {**known.paper, **known.paper_by_stage}


def test_differences_between_runs_are_paired_by_task(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    stored = json.loads(_evaluation(other).read_text())
    before = np.array(stored["ours"]["per_task"])
    stored["ours"]["per_task"] = list(before + np.tile([1.0, 2.0], 4))
    _evaluation(other).write_text(json.dumps(stored))
    page_of_both = tmp_path / "both.html"
    assert report(run, other, "--output", page_of_both, "--no-record") == 0
    # The differences are 1 and 2, four times each. Student's t is 2.3646 for seven degrees of freedom.
    margin = 2.3646 * np.std([1.0, 2.0] * 4, ddof=1) / np.sqrt(8)
    ends = " to ".join(figures.number(1.5 + sign * margin, 1) for sign in (-1, 1))
    assert f"other 1.5 {ends} 8" in text_of(page_of_both)
    for change, reason in (
        ({"seed": 1}, "the evaluations drew different tasks"),
        ({"changes": {"size": 6}}, "the tasks are different"),
        ({"ours": {n: v for n, v in stored["ours"].items() if n != "per_task"}}, "an evaluation of an older version"),
    ):
        with_evaluation(other, **(stored | change))
        assert report(run, other, "--output", page_of_both, "--no-record") == 0
        assert f"other cannot be paired: {reason}" in text_of(page_of_both)


def test_figures_compare_runs_of_one_family_only(run: Path) -> None:
    one = collect.collect(RunFolder(run), "one", None, [])
    two = dataclasses.replace(one, label="two")
    assert '<figure aria-label="Learning">' in (both := compare.section([one, two]))
    assert '<figure aria-label="Adaptation">' in both
    made = dataclasses.replace(experiments.get(NAME), family="dark-room")
    both = compare.section([one, dataclasses.replace(two, experiment=made)])
    assert "<figure" not in both and "cannot be paired: the tasks are different" in both


def test_metrics_of_an_older_version_make_the_same_page(run: Path) -> None:
    """The older version recorded held-out scores during training instead of validation scores."""
    assert report(run) == 0
    page, metrics = (run / "report.html").read_text(), run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("validation_score", "heldout_score"))
    assert report(run) == 0
    assert (run / "report.html").read_text() == page


def test_a_comparison_writes_only_the_page(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "the-run"
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["algorithm"]["settings"]["learning_rate"] = 0.5
    (other / "config.json").write_text(json.dumps(config))
    before = sorted(tmp_path.rglob("*"))
    assert report(run, other, "--output", tmp_path / "both.html", "--no-record") == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "both.html"])
    text = text_of(tmp_path / "both.html")
    assert "2 runs compared" in text
    # Both folders have the same name. The page shows as much of the paths as distinguishes them, and no more.
    assert f"{tmp_path.name}/the-run" in text
    assert "elsewhere/the-run" in text
    assert str(tmp_path) not in text
    assert re.search(r"learning_rate [\d.e-]+ 0\.5", text)


def test_a_run_twice_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(run, run) == 2
    assert "is the same run as" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_only_reports_are_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = run.parent / "thesis.html"
    mine.write_text("years of work")
    assert report(run, "--output", mine, "--no-record") == 2
    assert "exists already and is not a report; choose another --output, or --overwrite it" in capsys.readouterr().err
    assert mine.read_text() == "years of work"
    assert report(run, "--output", mine, "--no-record", "--overwrite") == 0
    first = mine.read_bytes()
    assert first.startswith(page.MARK)
    assert report(run, "--output", mine, "--no-record") == 0
    for wrong, words in ((run.parent, "is a folder"), (run / "no" / "page.html", "there is no folder")):
        assert report(run, "--output", wrong) == 2
        assert words in capsys.readouterr().err


def _evaluation(path: Path) -> Path:
    (found,) = path.glob("evaluation-*.json")
    return found


def _without(path: Path, name: str) -> None:
    found = _evaluation(path)
    content = json.loads(found.read_text())
    del content["ours"][name]
    found.write_text(json.dumps(content))


def _append(path: Path, text: str) -> None:
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + text)


def _diverge(path: Path) -> None:
    lines = metric_lines(80)
    for line in lines[40:]:
        for values in line.values():
            if isinstance(values, list):
                values[1] = None
    write_metrics(path, lines)


def _video(path: Path) -> Path:
    (found,) = path.glob("trial-*.gif")
    return found


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "The run has not been trained yet: there are no metrics."),
        (lambda run: write_metrics(run, metric_lines(120)), "it has reached iteration 120 of 300"),
        (lambda run: _append(run, '{"iteration": 301, "st'), "300 of 300"),
        (lambda run: _append(run, '[]\n{"iteration": 1}\nx\n'), "3 of the lines of metrics.jsonl cannot be read"),
        (_diverge, "Seed 1 diverged: it has no numbers at iteration 80."),
        (lambda run: _evaluation(run).unlink(), "The run has not been evaluated on held-out tasks yet"),
        (lambda run: _evaluation(run).write_text("{"), "cannot be read"),
        (lambda run: _evaluation(run).write_text('{"schema": 99}'), "has schema 99, this program has 3"),
        (lambda run: _without(run, "score_by_stage"), "ours.score_by_stage is missing"),
        (lambda run: (run / "versions.json").unlink(), "there is no versions.json"),
        (lambda run: (run / "versions.json").write_text("[3]"), "versions.json cannot be read"),
        (lambda run: _video(run).write_bytes(b"GIF89a"), "cannot be shown: it is not a complete GIF"),
        (lambda run: _video(run).write_bytes(_video(run).read_bytes()[:400]), "it is not a complete GIF"),
        (lambda run: _video(run).unlink(), "There is no animation of the run yet"),
    ],
)  # fmt: skip
def test_a_damaged_run_has_a_page_that_says_so(run: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(run)
    assert report(run, "--no-record") == 0
    text = text_of(run / "report.html")
    assert said in text
    assert "How to reproduce this run" in text
    assert str(run.parent) not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algorithm": []}, "algorithm is not a JSON object with settings"),
        ({"seeds": "2"}, "seeds must be a positive whole number, not '2'"),
        ({"experiment": 3}, "experiment is of another type than str"),
    ],
)
def test_a_config_of_other_types_is_not_a_run(
    run: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert report(run) == 2
    assert said in capsys.readouterr().err
    assert not (run / "report.html").exists()


def make_hostile(path: Path, host: str) -> None:
    """Put markup into every text of a run, and replace numbers by other values."""
    words = HOSTILE.format(host)
    config = json.loads((path / "config.json").read_text())
    config |= {"experiment": words}
    config["algorithm"]["settings"] = {words: words, "iterations": 10**30}
    (path / "config.json").write_text(json.dumps(config))
    (path / "versions.json").write_text(json.dumps([{words: words, "device": words, "commit": "half \ud800"}]))
    lines = [line | {words: [1.0, 2.0], "loss": [float("nan"), "x"], "wall_s": 1e99} for line in metric_lines(60)]
    write_metrics(path, lines)
    text = _evaluation(path).read_text()
    evaluation = json.loads(text.replace(json.loads(text)["ours"]["name"], words.replace('"', '\\"')))
    for learner in (evaluation["ours"], *evaluation["oracles"]):
        learner["name"] += words
    evaluation["measure"] |= {"title": words, "stage": words}
    evaluation |= {"changes": {words: words}, "paper": {words: -1e300}, "paper_by_stage": {words: {words: 1.0}}}
    evaluation["versions"] = {"device": words, "commit": words}
    _evaluation(path).write_text(json.dumps(evaluation))


def write_page(path: Path, output: Path) -> None:
    """Write the page of a run whose experiment need not be known. The command line refuses unknown experiments."""
    folder = RunFolder(path)
    page.write(output, [collect.collect(folder, path.name, *animation.of_run(folder, play=False, keep=False))])


def test_whatever_comes_from_a_run_is_text(run: Path) -> None:
    make_hostile(run, "example.invalid")
    write_page(run, run / "report.html")
    content = (run / "report.html").read_text()
    elements = set(re.findall(r"<([a-z0-9]+)", content))
    assert not elements & {"script", "iframe", "object", "embed", "base", "form"}
    assert content.count("<style") == 1
    assert all(source.startswith("data:image/") for source in re.findall(r'<img src="([^"]*)"', content))
    assert not re.search(r"<[^>]*\son[a-z]+=", re.sub(r'"[^"]*"', '""', content))
    assert "&lt;script src=//example.invalid/s&gt;" in content


def test_without_references_there_is_no_empty_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title = "compared with"
    assert report(run, "--no-record") == 0
    assert title in capsys.readouterr().out and title in (run / "report.md").read_text()
    evaluation = json.loads(_evaluation(run).read_text())
    _evaluation(run).write_text(json.dumps(evaluation | {"oracles": [], "gains": []}))
    assert report(run, "--no-record") == 0
    assert title not in capsys.readouterr().out and title not in (run / "report.md").read_text()


@pytest.mark.parametrize("command", [["report"], ["evaluate"], ["record"], ["watch", "--once"], ["resume"]])
def test_a_run_of_an_unknown_experiment_is_named_and_no_file_is_overwritten(
    run: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    write_page(run, run / "report.html")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"experiment": "rl2-gridnavy"}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main([command[0], str(run), *command[1:]]) == 2
    captured = capsys.readouterr()
    said = f"{run} cannot be used by this version of metarl_jax: there is no experiment 'rl2-gridnavy'"
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"metarl-jax: error: {said} (did you mean rl2-gridnavi")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_markup_escapes_text() -> None:
    assert (
        tag("p", "a < b & c", class_="it's", hidden=True, title=None)
        == '<p class="it&#x27;s" hidden>a &lt; b &amp; c</p>'
    )
    assert tag("p", [tag("br"), None, ["x", Html("<i>y</i>")]]) == "<p><br>x<i>y</i></p>"
    assert tag("img", alt='"><script>', aria_label="b") == '<img alt="&quot;&gt;&lt;script&gt;" aria-label="b">'


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.7, 12.2), (1e-9, 3e-9), (1e6, 1e6 + 3), (-1e90, 1e90), (5, 5.003)]
)
@pytest.mark.parametrize("most", [4, 8])
def test_ticks_are_round_and_inside(low: float, high: float, most: int) -> None:
    found = figures.ticks(low, high, most)
    assert 2 <= len(found) <= most + 1
    gap = found[1] - found[0]
    np.testing.assert_allclose(np.diff(found), gap, rtol=1e-6)
    assert low - 1e-6 * gap <= found[0] and found[-1] <= high + 1e-6 * gap
    assert f"{gap:.3e}"[0] in "125"
    assert all(tick == int(tick) for tick in figures.ticks(1, 3, most, whole=True))


def test_a_chart_has_its_points_where_the_ticks_say() -> None:
    line = figures.Series(
        "ours", [0, 50, 100, 200], [0.0, 10.0, None, 20.0], 0, [0.0, 9.0, None, 19.0], [0.0, 11.0, None, 21.0]
    )
    drawn = figures.figure(figures.Chart("T", "steps", "reward", [line], [figures.Level("best", 15.0, 1)]), "")
    wide = drawn[drawn.index('class="wide"') :]
    at = {text: float(y) - 4 for y, text in re.findall(r'text-anchor="end" x="[\d.]+" y="([\d.]+)">([^<]*)<', wide)}
    over = {text: float(x) for x, text in re.findall(r'text-anchor="middle" x="([\d.]+)" y="[\d.]+">([^<]*)<', wide)}
    dots = [(float(x), float(y)) for x, y in re.findall(r'class="dot" cx="([\d.]+)" cy="([\d.]+)"', wide)]
    np.testing.assert_allclose(dots, [(over["0"], at["0"]), (over["50"], at["10"]), (over["200"], at["20"])], atol=0.11)
    (level,) = re.findall(r'class="level" x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)"', wide)
    assert float(level) == pytest.approx(at["15"], abs=0.11)
    # The gap divides the line and the band into two parts.
    assert wide.count('class="line"') == wide.count('class="band"') == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (-0.5, "−0.5"),
        (999, "999"),
        (1000, "1000"),
        (9999, "9999"),
        (10_000, "10k"),
        (12345, "12.35k"),
        (5_120_000, "5.12M"),
    ],
)
def test_short_numbers(value: float, expected: str) -> None:
    assert figures.short(value) == expected


def test_numbers_are_read_as_written() -> None:
    assert [figures.number(v, 2) for v in (1234.567, -0.001, -2.0, None)] == ["1,234.57", "0.00", "−2.00", "diverged"]


def test_a_curve_is_the_mean_of_seeds_within_the_least_and_the_largest(run: Path) -> None:
    rewards = np.random.default_rng(0).normal(size=(240, 2))
    lines = metric_lines(240)
    for line, row in zip(lines, rewards, strict=True):
        line["trial_reward"] = list(row)
    lines[5]["trial_reward"][1] = None
    write_metrics(run, lines)
    curve = collect.collect(RunFolder(run), "run", None, []).curve("trial_reward", "it", 0)
    assert curve is not None
    rewards[5, 1] = rewards[4, 1]
    pairs = rewards.reshape(collect.MOST_POINTS, 2, 2).mean(axis=1)
    for found, expected in (
        (curve.y, pairs.mean(axis=1)),
        (curve.low, pairs.min(axis=1)),
        (curve.high, pairs.max(axis=1)),
    ):
        np.testing.assert_allclose(np.array(found, float), expected)
    np.testing.assert_allclose(curve.x, 120 * (2 * np.arange(120) + 1.5))


def test_a_large_video_loses_pictures_but_no_time_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    pictures = [Image.fromarray(frame) for frame in noise]
    durations = [record.LAST_MILLISECONDS if n in (18, 39) else record.MILLISECONDS for n in range(40)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations)
    whole = animation.animation(3, buffer.getvalue(), "")
    assert whole.video == buffer.getvalue()
    assert whole.size == (32, 32)
    assert [np.asarray(Image.open(io.BytesIO(still)).convert("L"))[0, 0] for still in whole.stills] == [
        noise[18, 0, 0],
        noise[39, 0, 0],
    ]
    monkeypatch.setattr(animation, "MOST_BYTES", len(whole.video) // 2)
    thinned = animation.animation(3, buffer.getvalue(), "")
    assert len(thinned.video) <= len(whole.video) // 2
    assert len(thinned.stills) == 2
    with Image.open(io.BytesIO(thinned.video)) as video:
        shown = []
        for n in range(getattr(video, "n_frames")):  # noqa: B009
            video.seek(n)
            shown.append(video.info["duration"])
    assert sum(shown) == sum(durations)
    assert shown[-1] >= record.LAST_MILLISECONDS
    monkeypatch.setattr(animation, "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="too large"):
        animation.animation(3, buffer.getvalue(), "")


def study_made(path: Path, seeds: int) -> Path:
    """Make a study of three cells, one of which diverged, with metrics and scores in the form of the program."""
    experiment = experiments.get("maml-sinusoid")
    settings = experiment.with_overrides({"units": 4, "tasks": 2, "iterations": 300})
    vary = {"learning_rate": [0.001, 0.01, 1e30]}
    config = study_folder.StudyConfig(
        experiment="maml-sinusoid", settings=settings, vary=vary, seed=0, seeds=seeds, evaluation_tasks=8
    )
    folder = study.new_study(path, config)
    rows = {}
    for place, (cell, run) in enumerate(zip(folder.cells, study._folders(folder, folder.cells), strict=True)):
        lines = [
            {name: (value[:1] * seeds if isinstance(value, list) else value) for name, value in line.items()}
            for line in metric_lines(300)
        ]
        write_metrics(run.path, lines)
        row: dict[str, Any] = {"cell": cell.name, "settings": cell.changes, "iteration": 300, "diverged": place == 2}
        for split in study.TITLES if place < 2 else ():
            per_seed = [[0.5 - 0.25 * place + 0.01 * seed] * 11 for seed in range(seeds)]
            row[split] = {"per_seed_by_stage": per_seed, "per_task": [0.5 - 0.25 * place + 0.01 * n for n in range(8)]}
        rows[cell.name] = row
    study.write(folder, study.table(folder, experiment, rows, 8))
    return path


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_page_of_a_study_names_and_explains_its_figures(tmp_path: Path, seeds: int) -> None:
    path = study_made(tmp_path / "study", seeds)
    assert report(path) == 0
    content, text = (path / "report.html").read_text(), text_of(path / "report.html")
    assert content.startswith(page.MARK.decode())
    assert "Study of learning rate: MAML on sinusoids (Finn et al. 2017)" in text
    mean = 0.25 + 0.01 * (seeds - 1) / 2
    assert (
        "The best cell on validation tasks is learning rate 0.01, whose mean squared error on held-out tasks is" in text
    )
    assert f"{mean:.3f}" in text
    assert "; the published result of MAML (Finn et al. 2017, Table 2) is 0.35." in text
    assert "Diverged, and therefore without a score: learning rate 1e+30." in text
    for name in ("Learning curves", "Scores after training"):
        (drawn,) = re.findall(f'<figure aria-label="{name}">(.*?)</figure>', content)
        assert len(re.findall("<figcaption>[^<]{40,}</figcaption>", drawn)) == 1
    # All differences between tasks are the same, so the interval of the paired difference has no width.
    assert "better than cell 2 by" in text and "0.250 0.250 to 0.250" in text
    few = "There are no intervals over seeds: 2 seeds of a cell are too few."
    assert (few in text) == (seeds == 2)
    stored = json.loads((path / "table.json").read_text())
    (best, *_), pairs = stored["cells"], stored["probability_of_improvement"].values()
    assert (best["heldout"]["ci95"] is None) == (seeds == 2)
    assert all((None in pair["ci95"]) == (seeds == 2) for row in pairs for pair in row.values())
    assert ("95 % interval over seeds" in text) == (seeds == 3)
    assert "metarl-jax study maml-sinusoid" in text and "--vary learning_rate=0.001,0.01,1e+30" in text


def test_the_page_of_a_study_overwrites_only_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study_made(tmp_path / "study", 2)
    (path / "report.html").write_text("years of work")
    assert report(path) == 2
    assert "exists already and is not a report" in capsys.readouterr().err
    assert report(path, "--output", tmp_path / "other.html") == 0
    assert (path / "report.html").read_text() == "years of work" and (tmp_path / "other.html").exists()


# In a browser.

SIZES = {"phone": (360, 740), "desktop": (1280, 900)}
TEXT_CONTRAST = 4.5
"""The smallest contrast of text (WCAG 2.2, 1.4.3)."""
LINE_CONTRAST = 3.0
"""The smallest contrast of graphical objects (WCAG 2.2, 1.4.11)."""

MEASURE = """
const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = parse(getComputedStyle(node).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [255, 255, 255, 1];
};
const texts = [], lines = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.getClientRects().length || node.tagName === "title") continue;
  const style = getComputedStyle(node), svg = node.namespaceURI.endsWith("svg");
  const box = node.getBoundingClientRect();
  texts.push([walker.currentNode.data.trim(), contrast(parse(svg ? style.fill : style.color), behind(node)),
    svg ? parseFloat(style.fontSize) * node.ownerSVGElement.getScreenCTM().a : parseFloat(style.fontSize), box.right]);
}
for (const node of document.querySelectorAll(".line, .level, .dot")) {
  const style = getComputedStyle(node);
  lines.push(contrast(parse(node.matches(".dot") ? style.fill : style.stroke), behind(node)));
}
const pictures = [...document.querySelectorAll("figure, figure > svg, figure img")]
  .filter((e) => e.getClientRects().length);
return {
  texts, lines,
  width: document.documentElement.scrollWidth,
  pictures: pictures.map((e) => [e.tagName, e.getBoundingClientRect().width, e.getBoundingClientRect().height,
    e.getAttribute("aria-label") || e.getAttribute("alt") || "", e.tagName !== "IMG" || e.naturalWidth > 0]),
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window. With METARL_JAX_BROWSER=required, as in CI, a missing browser is an error."""
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in paths.items() if path is None]
    missing += ["selenium"] * (importlib.util.find_spec("selenium") is None)
    if missing and os.environ.get("METARL_JAX_BROWSER") != "required":
        pytest.skip(
            f"no {' and no '.join(missing)} here: apt-get install chromium chromium-driver; pip install '.[dev]'"
        )
    assert not missing, f"METARL_JAX_BROWSER=required, but there is no {' and no '.join(missing)}"
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(paths["chromium"])
    switches = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"]
    switches += ["disable-background-networking", "disable-component-update", "disable-sync"]
    for switch in [*switches, f"user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(str(paths["chromedriver"])))
    yield driver
    driver.quit()


def fetched(browser: Any) -> list[str]:
    """Return the addresses that pages requested since the last call, without the browser's own empty tab."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [ask["request"]["url"] for ask in asked if not ask["documentURL"].startswith("chrome://")]


def emulate(browser: Any, size: str, scheme: str, motion: str = "no-preference") -> None:
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture(scope="module")
def pages(run_made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four pages: of one run, of three runs of which one is unfinished, of a hostile run, and of a study."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("another-run-with-a-rather-long-name-as-they-often-have", "unfinished", "hostile"):
        shutil.copytree(run_made, folder / name)
    shutil.rmtree(folder / "unfinished" / "checkpoints")
    _evaluation(folder / "unfinished").unlink()
    write_metrics(folder / "unfinished", metric_lines(110))
    make_hostile(folder / "hostile", "127.0.0.1:9")
    several = [
        run_made,
        *(folder / name for name in ("another-run-with-a-rather-long-name-as-they-often-have", "unfinished")),
    ]
    for name, runs in {"one": [run_made], "several": several}.items():
        assert report(*runs, "--no-record", "--output", folder / f"{name}.html") == 0
    write_page(folder / "hostile", folder / "hostile.html")
    assert report(study_made(folder / "study", 3), "--output", folder / "study.html") == 0
    return {name: folder / f"{name}.html" for name in ("one", "several", "hostile", "study")}


@pytest.mark.parametrize("which", ["one", "several", "hostile", "study"])
def test_a_page_can_be_read_on_phones_and_desktops_in_light_and_dark_mode(
    browser: Any, pages: dict[str, Path], which: str
) -> None:
    address = pages[which].as_uri()
    for size, scheme in (("phone", "light"), ("desktop", "light"), ("phone", "dark"), ("desktop", "dark")):
        emulate(browser, size, scheme)
        fetched(browser)
        browser.get(address)
        browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
        found = browser.execute_script(MEASURE)
        assert browser.get_log("browser") == []
        assert {url for url in fetched(browser) if not url.startswith("data:")} == {address}
        assert found["width"] <= SIZES[size][0]
        low = [(text, round(contrast, 2)) for text, contrast, _, _ in found["texts"] if contrast < TEXT_CONTRAST]
        assert not low
        assert min(pixels for _, _, pixels, _ in found["texts"]) >= 10.5
        assert len(found["texts"]) > 60
        assert min(found["lines"]) >= LINE_CONTRAST
        # The figures are learning, adaptation and regret. The hostile page has those that can be drawn.
        assert sum(kind == "FIGURE" for kind, *_ in found["pictures"]) >= 2
        for kind, width, height, name, loaded in found["pictures"]:
            assert width > 30 and height > 30 and name and loaded, kind
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(20, 23, 28)"
    if which == "hostile":
        assert HOSTILE.format("127.0.0.1:9") in browser.execute_script("return document.body.innerText")


def test_reduced_motion_is_respected(browser: Any, pages: dict[str, Path]) -> None:
    shown = "return [...document.images].filter((e) => e.getClientRects().length).map((e) => e.src.slice(0, 14))"
    for motion, expected in (("no-preference", {"data:image/gif", "data:image/png"}), ("reduce", {"data:image/png"})):
        emulate(browser, "desktop", "light", motion)
        browser.get(pages["one"].as_uri())
        assert set(browser.execute_script(shown)) == expected


def test_the_content_security_policy_blocks_unescaped_scripts(
    browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    """The browser refuses markup that is inserted into a page by hand, and the test would notice otherwise."""
    asked: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        # The thread is a daemon, so that a failing test does not wait for it forever.
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        put = f'<img src="{host}/i"><script src="{host}/s"></script><script>document.title="run"</script>'
        put += "<style>* { color: red }</style>"
        content = pages["one"].read_text().replace("<main>", f"<main>{put}")
        for policy in (True, False):
            asked.clear()
            path = tmp_path / f"{policy}.html"
            path.write_text(content if policy else re.sub(r'<meta http-equiv="Content-Security[^>]*>', "", content))
            emulate(browser, "desktop", "light")
            browser.get(path.as_uri())
            if policy:
                refused, patience = 0, time.monotonic() + 20
                # The browser reports it from another process, with a delay.
                while refused < 4 and time.monotonic() < patience:
                    said = [entry["message"] for entry in browser.get_log("browser")]
                    refused += sum("Content Security Policy" in message for message in said)
                assert refused == 4
                assert asked == []
                assert browser.title == f"{experiments.get(NAME).description} – metarl_jax"
            else:
                assert {"/i", "/s"} <= set(asked)
                assert browser.title == "run"
        server.shutdown()
