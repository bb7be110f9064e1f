"""The layers of the package: allowed imports, and the cost of imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "metarl_jax"

# The parts that each part of the package may import, in addition to itself. All may import `types` and `checks`.
OPEN = {"types", "interfaces", "checks", "settings", "precision", "host_calls"}
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "interfaces": {"types"},
    "checks": set(),
    "settings": {"checks"},
    "references": {"checks"},
    "precision": {"types"},
    "host_calls": set(),
    "ops": set(),
    "environments": {"references"},
    "datasets": {"ops", "rollout", "batching"},
    "networks": {"ops"},
    "rollout": {"ops"},
    "batching": {"ops"},
    "training": {"ops", "batching"},
    "evaluation": {"ops", "batching", "training"},
    "sequences": {"ops", "batching", "training", "evaluation"},
    "probes": {"rollout", "batching", "training"},
    "tracing": set(),
    "family_checks": {"rollout", "tracing"},
    "network_checks": {"family_checks", "tracing"},
    "problems": {"ops", "rollout", "datasets", "family_checks", "network_checks"},
    "meta_gradient": {"ops", "batching"},
    "outer_updates": {"ops", "batching", "meta_gradient"},
    "ppo": {"ops", "batching"},
    "curricula": {"batching"},
    "imitation": {"ops", "rollout", "batching", "family_checks", "network_checks"},
    "belief_learning": {"ops", "rollout", "batching", "family_checks", "network_checks", "ppo"},
    "algorithms": {
        *("ops", "rollout", "problems", "meta_gradient", "outer_updates", "ppo", "batching"),
        *("family_checks", "network_checks", "imitation", "belief_learning"),
    },
    "agents": {"rollout", "family_checks", "training"},
    "few_shot_learner": {"agents"},
    "manipulation_evaluation": {"ops", "batching", "rollout", "agents", "environments"},
    "oracles": {"ops", "rollout", "environments", "networks"},
    "experiments": {
        *("ops", "environments", "datasets", "networks", "rollout", "batching", "training", "evaluation", "problems"),
        *("meta_gradient", "outer_updates", "ppo", "algorithms", "oracles", "references"),
    },
}
# The host side: `runs` uses all of the above, `benchmark` plays learners, and `reports` shows runs. "" is the package
# itself, for its version.
MAY_IMPORT["runs"] = {*MAY_IMPORT, ""}
MAY_IMPORT["benchmark"] = {*MAY_IMPORT, ""}
MAY_IMPORT["reports"] = {"experiments", "runs", ""}
EVERYTHING = {"cli", "listing", "options", "__main__", "__init__"}
# Parts whose files do not import each other either.
STRANGERS = {"algorithms"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def local_imports(path: Path) -> Iterator[str]:
    """Return the imports of a file from the package, as "part.name..." without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            base = node.module or ""
            imported = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            continue
        for name in imported:
            if name.partition(".")[0] == "metarl_jax" and name != "metarl_jax.__version__":
                yield name.partition(".")[2]


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def allowed(path: Path, imported: str) -> bool:
    room = room_of(path)
    target = imported.partition(".")[0]
    if room in EVERYTHING:
        return True
    if target == room:
        own = path.relative_to(PACKAGE).with_suffix("").parts
        return room not in STRANGERS or tuple(imported.split(".")[: len(own)]) == own
    if target in OPEN and room not in OPEN:
        return True
    return any(imported == may or imported.startswith(f"{may}.") for may in MAY_IMPORT[room])


def test_every_part_of_the_package_is_in_the_table() -> None:
    assert {room_of(path) for path in files()} <= set(MAY_IMPORT) | EVERYTHING


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    wrong = [name for name in local_imports(path) if not allowed(path, name)]
    assert not wrong, f"{path.relative_to(PACKAGE)} must not import {', '.join(wrong)}"


def test_the_rule_catches_violations() -> None:
    rl2 = PACKAGE / "algorithms" / "rl2.py"
    assert allowed(rl2, "batching.map_tasks")
    assert allowed(rl2, "types.Algorithm")
    for wrong in ("training.run", "networks.recurrent", "environments.bandits", "algorithms.maml", "runs.train"):
        assert not allowed(rl2, wrong)
    assert not allowed(PACKAGE / "types.py", "checks.positive_int")
    assert not allowed(PACKAGE / "ops" / "returns.py", "rollout.trial")
    assert allowed(PACKAGE / "runs" / "train.py", "training.run")
    assert allowed(PACKAGE / "runs" / "scenes.py", "environments.drawing.Frame")
    assert not allowed(PACKAGE / "runs" / "train.py", "reports.page.write")


@pytest.mark.parametrize("path", sorted((PACKAGE / "runs").glob("*.py")), ids=lambda path: path.name)
def test_runs_know_no_environment(path: Path) -> None:
    """Environments draw themselves, so runs import only ``drawing`` of their package."""
    found = {name for name in local_imports(path) if name.partition(".")[0] == "environments"}
    assert all(name.startswith("environments.drawing.") for name in found)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pickle_is_not_used(path: Path) -> None:
    """No file imports pickle, because loading a pickle executes code.

    The package's own formats are NumPy, msgpack and JSON.
    """
    text = path.read_text()
    if path == PACKAGE / "environments" / "xland.py":
        # Files of xminigrid are pickles. The package's own unpickler accepts only arrays.
        nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
        used = {node.attr for node in nodes if ast.unparse(node.value) == "pickle"}
        assert used == {"Unpickler", "UnpicklingError"}
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & {"pickle", "cloudpickle", "dill"}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in {"pickle", "cloudpickle", "dill"}
    assert "allow_pickle=True" not in text


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_is_cheap() -> None:
    code = "import time, jax; start = time.process_time(); import metarl_jax;print(time.process_time() - start)"
    assert min(float(run_python(code)) for _ in range(2)) <= 1.0


HEAVY = ("gymnax", "gymnasium", "mujoco", "matplotlib", "pandas", "PIL", "seaborn", "tensorboardX")
LIGHT_ROOMS = (
    "metarl_jax",
    "metarl_jax.experiments",
    "metarl_jax.environments.bandits",
    "metarl_jax.environments.tabular_mdp",
    "metarl_jax.environments.dark_room",
    "metarl_jax.environments.drawing",
    "metarl_jax.environments.from_gymnax",
    "metarl_jax.environments.locomotion",
    "metarl_jax.environments.point_robot",
    "metarl_jax.algorithms.rl2",
    "metarl_jax.evaluation",
    "metarl_jax.benchmark",
    "metarl_jax.cli",
)


def test_heavy_packages_are_imported_only_when_needed() -> None:
    code = f"import sys, {', '.join(LIGHT_ROOMS)}; print(*(set({HEAVY!r}) & set(sys.modules)))"
    assert run_python(code) == ""
