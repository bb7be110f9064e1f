"""Studies: cells that one program trains equal separate runs, and no interruption loses a cell."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl_jax import cli, experiments, runs
from metarl_jax.runs import programs, study, study_folder, train
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder

EXPERIMENT = "fomaml-sinusoid"
SMALL = [
    *("--iterations", "6", "--tasks", "4", "--adaptation-steps", "1", "--units", "4"),
    *("--evaluate-every", "3", "--evaluation-tasks", "16"),
]
VARY = ["--vary", "learning_rate=1e-3,1e-2", "--vary", "inner-rate=0.01,1e30", "--seeds", "2", "--seed", "3"]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(found: list[dict[str, Any]]) -> list[list[float]]:
    return [[line["iteration"], *line["loss"], *line.get("validation_score", [])] for line in found]


@pytest.mark.slow
def test_a_study_equals_its_single_runs_and_resumes(tmp_path: Path, capsys: Any) -> None:
    """Four cells of two seeds, two of which diverge, are stopped at once, with one cell behind, and then finished."""
    path = tmp_path / "study"
    assert cli.main(["study", EXPERIMENT, *SMALL, *VARY, "--run-dir", str(path), "--time-limit", "1e-9"]) == 0
    folder = study_folder.StudyFolder(path)
    cells = {cell.name: folder.cell(cell) for cell in folder.cells}
    assert list(cells) == [f"learning_rate={r},inner_rate={i}" for r in (0.001, 0.01) for i in (0.01, "1e+30")]
    good = [cells[f"learning_rate={r},inner_rate=0.01"] for r in (0.001, 0.01)]
    first = len(lines(good[0]))
    assert 0 < first < 6
    # A kill between two saves leaves this state.
    for checkpoint in (good[1] / "checkpoints").iterdir():
        if int(checkpoint.name.partition(".")[0]) > 0:
            checkpoint.unlink()
    capsys.readouterr()
    assert cli.main(["resume", str(path)]) == 0
    assert "4 cells, 2 seed(s) each, in 1 program(s)" in capsys.readouterr().out
    for cell in good:
        assert [line["iteration"] for line in lines(cell)] == [1, 2, 3, 4, 5, 6]

    # Each seed equals a run of that seed alone. The first seed determines the validation tasks.
    for rate, cell in zip((1e-3, 1e-2), good, strict=True):
        stored = RunFolder(cell).config
        assert (stored.settings["learning_rate"], stored.seed, stored.seeds) == (rate, 3, 2)
        alone = [train.new_run(tmp_path / f"{rate}-{s}", dataclasses.replace(stored, seed=s, seeds=1)) for s in (3, 4)]
        for run in alone:
            assert train.train(run, train.Options()).finished
        expected = list(zip(*(lines(run.path) for run in alone), strict=True))
        for got, (one, two) in zip(lines(cell), expected, strict=True):
            np.testing.assert_allclose(got["loss"], [*one["loss"], *two["loss"]], rtol=1e-5)
            assert got["learning_rate"] == pytest.approx([rate, rate]) if "learning_rate" in got else True
        np.testing.assert_allclose(
            lines(cell)[-1]["validation_score"][0], expected[-1][0]["validation_score"][0], rtol=1e-5
        )

    result = study.read(folder)
    assert result["tasks"] == 16
    by_cell = {entry["cell"]: entry for entry in result["cells"]}
    for split in ("validation", "heldout"):
        assert [by_cell[name][split]["iqm"] is None for name in cells] == [False, True, False, True]
    best, other = (entry["validation"]["iqm"] for entry in result["cells"][:2])
    assert best < other
    better = result["probability_of_improvement"]
    pair = [path.name for path in good]
    assert better[pair[0]][pair[1]]["probability"] == 1 - better[pair[1]][pair[0]]["probability"]
    # Finished work is kept, and a cell is an ordinary run.
    before = {file: file.read_bytes() for file in path.rglob("*.jsonl")}
    assert cli.main(["resume", str(path), "--evaluation-tasks", "12"]) == 0
    assert study_folder.StudyFolder(path).config.evaluation_tasks == study.read(folder)["tasks"] == 12
    assert {file: file.read_bytes() for file in path.rglob("*.jsonl")} == before
    assert cli.main(["report", str(path)]) == 0
    assert {file.name for file in path.glob("*.*")} == {
        *("study.json", "table.json", "table.md", "learning_curves.png", "scores.png", "improvement.png", "report.html")
    }
    assert cli.main(["resume", str(good[0]), "--evaluation-tasks", "16"]) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--vary", "learning_rate"], "must be SETTING=VALUE,..., not 'learning_rate'"),
        (["--vary", "lerning_rate=1"], "did you mean learning_rate"),
        (["--vary", "learning_rate=1e-3,x"], "could not convert string to float: 'x'"),
        (["--vary", "learning_rate=1e-3,-1"], "learning_rate must be a finite number above 0, not -1.0"),
        (["--vary", "learning_rate=1e-3,0.001"], "names a value twice"),
        (["--vary", "learning_rate=1e-3", "--learning-rate", "1"], "cannot both vary and be 1.0"),
        (["--vary", "tasks=4,0"], "tasks must be a positive whole number, not 0"),
    ],
)
def test_an_invalid_study_is_refused_before_a_folder_is_made(
    tmp_path: Path, capsys: Any, options: list[str], expected: str
) -> None:
    assert cli.main(["study", EXPERIMENT, *options, "--run-dir", str(tmp_path / "study")]) == 2
    assert expected in " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert not list(tmp_path.iterdir())


def config(name: str, **changes: Any) -> RunConfig:
    settings = experiments.get(name).with_overrides(changes)
    return RunConfig(experiment=name, settings=settings, seed=0, seeds=1, evaluate_every=1)


@pytest.mark.slow
def test_one_program_trains_cells_that_differ_in_arguments() -> None:
    """A shape, a choice, a part that is left out, and a number that determines a shape each need another program."""
    name = "maml-sinusoid"
    variants = [
        {"learning_rate": 1e-3, "max_inner_norm": None},
        {"learning_rate": 2e-3, "max_inner_norm": None},
        {"learning_rate": 1e-3, "max_inner_norm": 5.0},
        {"learning_rate": 2e-3, "max_inner_norm": 7.0},
        {"learning_rate": 1e-3, "max_inner_norm": None, "units": 8},
    ]
    configs = [config(name, **variant) for variant in variants]
    assert programs.groups(experiments.get(name), configs, train.build) == [[0, 1], [2, 3], [4]]
    name = "maml-navigation"
    shares = [
        config(name, metric_share=share, inner_rate=rate, episodes=2, tasks=2, adaptation_steps=1)
        for share in (0.5, 1.0)
        for rate in (1e-3, 2e-3)
    ]
    assert programs.groups(experiments.get(name), shares, train.build) == [[0, 1], [2, 3]]


class Compiled:
    """A program that needs 10 bytes, and 5 bytes for each vectorised column."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def memory_analysis(self) -> Any:
        names = ("argument", "output", "alias", "temp")
        sizes = {f"{name}_size_in_bytes": size for name, size in zip(names, (6, 6, 2, 5 * self.columns), strict=True)}
        return type("Analysis", (), sizes)


@pytest.mark.parametrize(("free", "expected"), [(None, 12), (100, 12), (70, 6), (45, 6), (40, 4), (17, 1)])
def test_the_number_of_columns_fits_the_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, expected: int
) -> None:
    """There are 12 columns, and a tenth of the memory is kept free."""
    monkeypatch.setattr(programs, "vectorised_seeds", lambda columns: columns)
    tried: list[int] = []

    def compile_for(columns: int) -> Compiled:
        tried.append(columns)
        return Compiled(columns)

    compiled, at_a_time = programs.compile_to_fit(compile_for, 12, free)
    assert compiled.columns == at_a_time == expected
    assert tried == sorted(tried, reverse=True)


def test_cells_that_do_not_fit_together_are_trained_sequentially(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(programs.TooLarge, match="needs"):
        programs.compile_to_fit(Compiled, 1, 16)
    trained: list[int] = []

    def together(folders: list[Any], options: train.Options, again: str) -> train.Outcome:
        if len(folders) > 3:
            raise programs.TooLarge(10 * len(folders), 36)
        trained.append(len(folders))
        return train.Outcome(True, 0, {})

    monkeypatch.setattr(train, "train_together", together)
    folders: Any = [object()] * 8
    assert study._train(folders, train.Options(), "", lambda text: None).finished
    assert trained == [3, 3, 2]


def test_free_memory_is_measured() -> None:
    free = programs.free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_two_processes_do_not_run_one_study(tmp_path: Path) -> None:
    settings = experiments.get(EXPERIMENT).with_overrides({})
    asked = study_folder.StudyConfig(experiment=EXPERIMENT, settings=settings, vary={}, seed=0, seeds=1)
    folder = study.new_study(tmp_path / "study", asked)
    assert [cell.name for cell in folder.cells] == ["as-it-is"]
    with study.lock(folder.path), pytest.raises(UserError, match="another process"):
        study.run(folder, train.Options(), None, print)


@pytest.fixture
def evaluated(tmp_path: Path) -> study_folder.StudyFolder:
    """A study of two cells and two seeds with a table of scores, of which the second cell's are better."""
    config = study_folder.StudyConfig(
        experiment=EXPERIMENT,
        settings=experiments.get(EXPERIMENT).with_overrides({"learning_rate": 1e-3}),
        vary={"learning_rate": [1e-3, 1e-2]},
        seed=0,
        seeds=2,
    )
    folder = study.new_study(tmp_path / "study", config)
    errors = {"validation": ([3.0, 4.0], [1.0, 2.0]), "heldout": ([3.5, 4.5], [1.5, 2.5])}
    rows: dict[str, dict[str, Any]] = {}
    for i, cell in enumerate(folder.cells):
        row: dict[str, Any] = {"cell": cell.name, "settings": cell.changes, "iteration": 6, "diverged": False}
        for split, scores in errors.items():
            # The score of this experiment is the one after five gradient steps, of eleven stages.
            row[split] = {"per_seed_by_stage": [[score] * 11 for score in scores[i]]}
        rows[cell.name] = row
    table = study.table(folder, experiments.get(EXPERIMENT), rows, 16)
    (folder.path / "table.json").write_text(json.dumps(table))
    return folder


def test_a_study_is_read_from_python(evaluated: study_folder.StudyFolder) -> None:
    best, other = runs.open_study(evaluated.path)
    assert (dict(best.settings), dict(other.settings)) == ({"learning_rate": 1e-2}, {"learning_rate": 1e-3})
    np.testing.assert_array_equal([best.validation, best.heldout], [[1, 2], [1.5, 2.5]])
    np.testing.assert_array_equal([other.validation, other.heldout], [[3, 4], [3.5, 4.5]])
    assert best.path == evaluated.path / "cells" / best.name

    path = evaluated.path / "table.json"
    table = json.loads(path.read_text())
    table["cells"][0]["heldout"] |= {"iqm": None, "per_seed": None}
    path.write_text(json.dumps(table))
    assert np.isnan(runs.open_study(evaluated.path)[0].heldout).all()


def test_a_wrong_study_is_refused(evaluated: study_folder.StudyFolder) -> None:
    path = evaluated.path / "table.json"
    table = json.loads(path.read_text())
    good, short, strange = (json.loads(json.dumps(table)) for _ in range(3))
    short["cells"][0]["validation"]["per_seed"] = [1.0]
    strange["cells"][0]["cell"] = "../elsewhere"
    for wrong, message in (
        (short, "table.json has 1 scores of 2 seeds"),
        (strange, "table.json has a cell '../elsewhere' that is not in study.json"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=message):
            runs.open_study(evaluated.path)
    path.write_text(json.dumps(good))
    assert len(runs.open_study(evaluated.path)) == 2
    path.unlink()
    with pytest.raises(UserError, match="not evaluated yet"):
        runs.open_study(evaluated.path)
    with pytest.raises(UserError):
        runs.open_study(evaluated.path.parent)
