"""Every notebook runs from top to bottom, is stored without outputs, and has the same parts as the others."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.usefixtures("full_optimisation")

NOTEBOOKS = {path.stem: path for path in (Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb")}
NAMES = [
    "01_rl2_on_a_bandit",
    "02_inner_and_outer_loops",
    "03_what_a_memory_holds",
    "04_belief_and_exploration",
    "05_your_own_task_family",
    "06_your_own_algorithm",
    "07_a_study_with_statistics",
    "08_choosing_an_algorithm",
    "09_deploying_an_agent",
    "10_from_gymnasium_to_an_agent",
    "11_what_is_meta_rl_for",
]


def _execute(path: Path, folder: Path) -> Any:
    """Execute a notebook in a new kernel and a temporary folder, and return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    # Warnings of this package or of the notebook are errors, as in the tests. Warnings of Jupyter are not.
    strict = nbformat.v4.new_code_cell(
        "import warnings; warnings.filterwarnings('error', module=r'metarl_jax|__main__')"
    )
    notebook.cells.insert(0, strict)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    del notebook.cells[0]
    return notebook


def _printed(notebook: Any) -> str:
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A function from a name to the executed notebook. Each notebook is executed once."""
    return functools.cache(lambda name: _execute(NOTEBOOKS[name], tmp_path_factory.mktemp(name)))


def test_every_notebook_is_tested() -> None:
    assert sorted(NOTEBOOKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_stored_without_outputs(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_begins_with_a_question_and_ends_with_what_to_try_next(name: str) -> None:
    first, *_, last = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    assert (first.cell_type, last.cell_type) == ("markdown", "markdown")
    text = " ".join(first.source.split())
    assert re.match(r"# .*\?\n", first.source)
    assert "**What you will see:** " in text
    assert re.search(r"\*\*Run time:\*\* .* (seconds|minutes?|minute and a half) on two CPU cores\.", text)
    assert "**To open it,** from a checkout: `pip install -e '.[notebooks]'`, then `jupyter lab notebooks/" in text
    assert f"`jupyter lab notebooks/{name}.ipynb`." in text
    assert last.source.startswith("## What to try next\n")
    assert len(re.findall(r"^- ", last.source, flags=re.MULTILINE)) >= 2
    following = (NAMES[1:] + NAMES[:1])[NAMES.index(name)]
    assert f"`{following}.ipynb`" in last.source


@pytest.mark.parametrize("name", NAMES)
def test_uses_the_public_api(name: str) -> None:
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imports = re.findall(r"^ *(?:from|import) +(metarl_jax.*)$", code, flags=re.MULTILINE)
    # Statistics and types of settings have no place in the namespace ``metarl_jax``.
    allowed = {"metarl_jax as mrl", "metarl_jax.ops import statistics"}
    assert all(line in allowed or line.startswith("metarl_jax.settings import ") for line in imports), imports
    assert "meta_test" not in code
    assert not re.search(r"mrl(\.\w+)*\._", code)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ends_with_a_picture(name: str, executed: Callable[[str], Any]) -> None:
    last = [cell for cell in executed(name).cells if cell.cell_type == "code"][-1]
    assert any("image/png" in output.get("data", {}) for output in last.outputs)


@pytest.mark.slow
def test_the_bandit_notebook_learns(executed: Callable[[str], Any]) -> None:
    notebook = executed("01_rl2_on_a_bandit")
    rows = dict(re.findall(r"^(\S.*?)  +(\d\.\d{3})\b", _printed(notebook), flags=re.MULTILINE))
    # Ten pulls of five arms: random play 5.0, textbook Thompson sampling 5.833, exact optimum 6.660; the standard
    # error of a mean over 20,000 trials is 0.015.
    assert float(rows["random"]) == pytest.approx(5.0, abs=0.05)
    assert float(rows["Thompson sampling"]) == pytest.approx(5.833, abs=0.06)
    assert float(rows["Bayes optimum"]) == 6.660
    assert 6.5 < float(rows["RL²"]) < 6.660 + 0.05


@pytest.mark.slow
def test_the_wave_notebook_adapts(executed: Callable[[str], Any]) -> None:
    pattern = r"^(.*): (\d+\.\d\d) before, (\d+\.\d\d) after one step, (\d+\.\d\d) after five$"
    found = re.findall(pattern, _printed(executed("02_inner_and_outer_loops")), flags=re.MULTILINE)
    errors = {name: [float(error) for error in row] for name, *row in found}
    # The best curve without adaptation has an error of 3.006. In the paper, MAML has 0.67 after one step with 70,000
    # iterations, and fine-tuned networks have 2.4 and more.
    for name in ("MAML", "multi-task training"):
        assert errors[name][0] > 2.9
    assert errors["MAML"][1] < 1.0
    assert errors["multi-task training"][1] > 2.0


@pytest.mark.slow
def test_the_memory_notebook_remembers(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("03_what_a_memory_holds"))
    # The key and the door pay 1 each, so the largest possible reward of a walk is 2.
    for name in ("GRU", "SNAIL"):
        found = re.search(rf"^{name}: (\d\.\d\d), (\d\.\d\d), (\d\.\d\d)$", printed, flags=re.MULTILINE)
        assert found is not None
        first, second, third = map(float, found.groups())
        assert first + 0.2 < second <= third + 0.05
        assert third <= 2.0
    shares = re.search(r"after a reward: (\d\.\d+) of the first walk, (\d\.\d+) of the attention", printed)
    assert shares is not None
    # At most two of the 16 steps of a walk pay. The attention differs between training runs, so it is not tested.
    assert 0 < float(shares[1]) <= 2 / 16
    explained = re.search(r"key's place that the GRU's state explains: (\d\.\d+)", printed)
    assert explained is not None
    assert float(explained[1]) > 0.5


@pytest.mark.slow
def test_the_belief_notebook_learns_a_belief_and_finds_goals(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("04_belief_and_exploration"))
    rewards = {name: float(mean) for name, mean in re.findall(r"^(.*): (\d+\.\d\d) \(", printed, flags=re.MULTILINE)}
    optimum = re.search(r"best possible reward of 3 walks: (\d+\.\d\d)", printed)
    assert optimum is not None
    assert rewards["best possible"] == pytest.approx(float(optimum[1]), abs=0.5)
    assert rewards["posterior sampling"] < rewards["VariBAD"] < float(optimum[1]) + 0.5
    correlation = re.search(r"correlation of learned and exact belief: (\d\.\d+)", printed)
    assert correlation is not None
    assert float(correlation[1]) > 0.5


def _rows(printed: str) -> dict[str, list[float]]:
    """Return the numbers of each line of the form ``name: 1.2, 3.4 (...)``."""
    found = re.findall(r"^([^:\n]+): (-?\d+\.\d+(?:[, ]+-?\d+\.\d+)*)", printed, flags=re.MULTILINE)
    return {name: [float(number) for number in re.findall(r"-?\d+\.\d+", numbers)] for name, numbers in found}


@pytest.mark.slow
def test_the_task_family_notebook_adapts_to_the_wiring(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("05_your_own_task_family"))
    assert "no fault found" in printed
    assert "ValueError: horizon is 4, but max_steps_in_episode of a task is 6: set horizon to 6" in printed
    assert printed.count("yes: ") == 5
    assert "NO: " not in printed
    rows = _rows(printed)
    # An agent that knows the wiring gets 1 at each of six steps. Random actions get 0 on average (standard error 0.07).
    assert rows["wiring known"] == [6, 6]
    assert rows["random"] == pytest.approx([0, 0], abs=0.3)
    first, second = rows["RL²"]
    # No learner can know the wiring at the start of the first episode.
    assert 1 < first < 5.5
    assert first + 0.5 < second <= 6
    assert second > 5


@pytest.mark.slow
def test_the_algorithm_notebook_learns_a_prior(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("06_your_own_algorithm"))
    assert "resumed is uninterrupted: True" in printed
    rows = {name: mean for name, (mean, *_) in _rows(printed).items()}
    # The standard error of a mean over 5,000 trials is 0.03. Before training, the algorithm is Thompson sampling.
    assert rows["before training"] == pytest.approx(rows["library's Thompson sampling"], abs=0.15)
    assert rows["before training"] + 0.4 < rows["prior learned"] < rows["prior known"] + 0.15
    for kind, mean in (("mostly bad", 0.2), ("middling", 0.5), ("a gamble", 0.5), ("mostly good", 2 / 3)):
        assert rows[kind] == pytest.approx(mean, abs=0.1)


@pytest.mark.slow
def test_the_study_notebook_prints_the_statistics_of_its_seeds(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("07_a_study_with_statistics"))
    rows = _rows(printed)
    slow, fast = (np.array(rows[f"{name} seeds"]) for name in ("slow", "fast"))
    for name, scores in (("slow", slow), ("fast", fast)):
        # The interquartile mean of eight seeds is the mean of the middle four.
        assert rows[f"{name} interquartile mean"][0] == pytest.approx(np.sort(scores)[2:6].mean(), abs=2e-4)
    assert rows["probability of improvement"][0] == pytest.approx((fast[:, None] < slow).mean(), abs=0.02)
    gaps = fast - slow
    assert rows["paired difference"][0] == pytest.approx(gaps.mean(), abs=2e-4)
    errors = re.search(r"standard error if paired: (\d\.\d+), if unpaired: (\d\.\d+)", printed)
    assert errors is not None
    assert float(errors[1]) == pytest.approx(gaps.std(ddof=1) / 8**0.5, abs=2e-4)
    # Runs of the same seed share weights and waves, and a difference removes most of this randomness.
    assert float(errors[1]) < float(errors[2])
    needed = {name: int(number) for name, number in re.findall(r"seeds needed, (\w+): (\d+)", printed)}
    assert 2 <= needed["paired"] <= needed["unpaired"]


@pytest.mark.slow
def test_the_choosing_notebook_compares_algorithms(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("08_choosing_an_algorithm"))
    rows = _rows(printed)
    best = rows["best possible reward of 3 episodes"][0]
    assert best == pytest.approx(10.74)
    assert set(rows) >= {"MAML", "RL²", "VariBAD"}
    for name in ("MAML", "RL²", "VariBAD"):
        first, second, _ = rows[name]
        assert first + 0.3 < second, "adapts"
        # The nearest goals are reached with the second of six steps.
        assert max(rows[name]) <= 4.9
    # A memory cannot search better than the best search (standard error 0.2), and is faster than ten episodes of MAML.
    for name in ("RL²", "VariBAD"):
        assert sum(rows[name]) < best + 0.8
    assert rows["RL²"][1] > rows["MAML"][1]


@pytest.mark.slow
def test_the_agent_notebook_agrees_with_evaluation(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("09_deploying_an_agent"))
    rows = _rows(printed)
    half_widths = {
        name: np.array([float(x) for x in re.findall(r"\+-(\d+\.\d)", line)])
        for name, line in re.findall(r"^([^:\n]+): .*95 %:(.*)", printed, flags=re.MULTILINE)
    }
    for here, there in (("agent in Gymnasium", "evaluate in JAX"), ("MAML's agent in NumPy", "MAML's evaluate in JAX")):
        # Twice the half-width of the difference's 95 % interval.
        bound = 2 * np.hypot(half_widths[here], half_widths[there])
        assert np.all(np.abs(np.subtract(rows[here], rows[there])) < bound), here
    # A random policy keeps the pole up for about 20 steps of 100, whatever the physics.
    assert max(rows["random"]) < 35
    # A short training is enough to be better with confidence; how much better depends on the seed and the versions.
    lower = np.subtract(rows["agent in Gymnasium"], half_widths["agent in Gymnasium"])
    assert min(lower) > max(rows["random"])
    before, first, second = rows["MAML's agent in NumPy"]
    assert before + 10 < min(first, second) < 0
    assert "the file acts as the folder does: True" in printed
    pulled = re.search(r"pulled arms: (.*)", printed)
    assert pulled is not None
    assert "3" in pulled[1].split()[-5:]


@pytest.mark.slow
def test_the_notebook_of_gymnasium_adapts(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("10_from_gymnasium_to_an_agent"))
    first, second = (float(x) for x in re.findall(r"^ +[12] +(-?\d+\.?\d*) \(", printed, flags=re.MULTILINE))
    # The cost of 20 steps without a direction is 5, so a rover at random has a negative return.
    assert 1.0 < first < second < 4.5
    agent = re.search(r"agent in Gymnasium: (\S+), (\S+) \(95 %: \+-(\S+), \+-(\S+)\)", printed)
    assert agent is not None
    *means, error_first, error_second = map(float, agent.groups())
    assert abs(means[0] - first) < 2 * error_first and abs(means[1] - second) < 2 * error_second


@pytest.mark.slow
def test_the_notebook_of_applications_compares_with_references(executed: Callable[[str], Any]) -> None:
    printed = _printed(executed("11_what_is_meta_rl_for"))
    intervals = {
        name: (float(low), float(high))
        for name, low, high in re.findall(
            r"^([^:\n]+): \d\.\d+ \((\d\.\d+) to (\d\.\d+)\)$", printed, flags=re.MULTILINE
        )
    }
    for learner, below, above in (
        ("RL²", ("most popular item", "Thompson sampling"), "favourite item known"),
        ("ANIL", ("nearest mean", "ridge regression"), "many more texts"),
    ):
        assert max(intervals[name][1] for name in below) < intervals[learner][0]
        assert intervals[learner][1] < intervals[above][0]
    rows = _rows(printed)
    # The first task is the same with and without a reset; in later ones the meta-learned weights are lost.
    assert rows["with a reset"][0] == pytest.approx(rows["without a reset"][0], abs=0.02)
    assert rows["with a reset"][1] + 0.3 < rows["without a reset"][1]
    transfers = [float(x) for x in re.findall(r"backward (-\d+\.\d+)", printed)]
    assert len(transfers) == 3 and max(transfers[:2]) < -1
