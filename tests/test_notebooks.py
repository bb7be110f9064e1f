"""Every notebook runs from top to bottom, is stored without outputs, and ends with a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def _execute(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh kernel, started where it can leave nothing behind."""
    notebook = nbformat.read(path, as_version=4)
    # Warnings are errors in the kernel as they are in the tests; what Jupyter itself warns of comes before.
    strict = nbformat.v4.new_code_cell("import warnings; warnings.simplefilter('error')")
    notebook.cells.insert(0, strict)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    del notebook.cells[0]
    return notebook


def _printed(notebook: Any) -> str:
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    yield request.param.stem, _execute(request.param, tmp_path_factory.mktemp("notebook"))


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["01_rl2_on_a_bandit"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert len(notebook.cells) <= 15


def test_opens_with_a_question_and_ends_with_a_picture(executed: tuple[str, Any]) -> None:
    _, notebook = executed
    assert re.match(r"# .*\?\n", notebook.cells[0].source)
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].outputs)


def test_the_bandit_notebook_learns(executed: tuple[str, Any]) -> None:
    name, notebook = executed
    if name != "01_rl2_on_a_bandit":
        pytest.skip("of another notebook")
    rows = dict(re.findall(r"^(\S.*?)  +(\d\.\d{3})\b", _printed(notebook), flags=re.MULTILINE))
    # Ten pulls of five arms (PAPERS): random play 5.0, Thompson sampling 5.7, optimum 6.660; 0.04 is four standard
    # errors of a mean over 20,000 trials.
    assert float(rows["random"]) == pytest.approx(5.0, abs=0.05)
    assert float(rows["Thompson sampling"]) < float(rows["RL²"])
    assert 6.5 < float(rows["RL²"]) < 6.660 + 0.05
