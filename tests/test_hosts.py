"""Several processes that train one run with JAX's distributed runtime."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl_jax import experiments
from metarl_jax.runs import checkpoints, hosts, train
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.folder import RunConfig, RunFolder

CHILD = """
import sys
from pathlib import Path
from metarl_jax.runs import devices, hosts, train
from metarl_jax.runs.folder import RunConfig, RunFolder
import json
where, config, path = sys.argv[1:]
devices.prepare(4, hosts.join(where))
path = Path(hosts.share_text(path if hosts.first() else "what the first process does not say"))
assert (hosts.number(), hosts.agree(hosts.first())[:, 0].tolist()) == (2, [1, 0])
hosts.on_first(lambda: train.new_run(path, RunConfig(**json.loads(config))))
assert train.train(RunFolder(path), train.Options(checkpoint_every=2)).finished
"""


COMMAND = """
import sys
from metarl_jax.runs import hosts
hosts.HEARTBEAT_S = 5
from metarl_jax.__main__ import main
sys.exit(main())
"""


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def environment(root: Path) -> dict[str, str]:
    """Return the environment of the processes, with two devices each. There may be fewer cores."""
    return {**os.environ, "PYTHONPATH": str(root), "JAX_NUM_CPU_DEVICES": "2"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(got: Path, expected: Path) -> None:
    for one, other in zip(lines(got), lines(expected), strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            if name != "wall_s":
                np.testing.assert_allclose(one[name], values, rtol=2e-4, err_msg=name)


@pytest.mark.slow
def test_two_processes_of_two_devices_train_as_one_does(tmp_path: Path, root: Path) -> None:
    """Two seeds train on four devices, so that both axes of the mesh are used. Then one device resumes the run."""
    sizes = {"iterations": 6, "tasks": 4, "adaptation_steps": 1, "units": 4}
    settings = experiments.get("fomaml-sinusoid").with_overrides(sizes)
    stored = {"experiment": "fomaml-sinusoid", "settings": settings, "seed": 0, "seeds": 2, "evaluate_every": 3}
    address = free_address()
    together, alone = tmp_path / "together", tmp_path / "alone"
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, f"{address},{index},2", json.dumps(stored), str(together)],
            env=environment(root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]
    errors = []
    try:
        errors = [process.communicate(timeout=600)[1].decode() for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], "\n".join(errors)

    assert train.train(train.new_run(alone, RunConfig(**stored)), train.Options()).finished
    assert_same_curve(together, alone)
    folder = RunFolder(together)
    assert [path.name[:9] for path in checkpoints.paths(folder.checkpoints)] == ["000000006", "000000004", "000000002"]
    for later in ("000000006", "000000004"):
        (folder.checkpoints / f"{later}.checkpoint").unlink()
    assert train.train(folder, train.Options()).finished
    assert_same_curve(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_if_a_process_is_killed_the_other_ends_and_prints_the_command_to_resume(
    tmp_path: Path, root: Path, killed: int
) -> None:
    """The other process compiles, trains or waits. JAX's runtime or a program notices first, by chance."""
    path, address = tmp_path / "my run", free_address()
    options = ["--iterations", "1000000", "--units", "4", "--run-dir", str(path), "--devices", "2"]
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, "train", "fomaml-sinusoid", *options, "--distributed", f"{address},{i},2"],
            env=environment(root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        patience = time.monotonic() + 120
        while not path.exists() and time.monotonic() < patience:
            time.sleep(0.1)
        # The other process gets the path of the folder from this output.
        time.sleep(1)
        pair[killed].kill()
        began = time.monotonic()
        errors = pair[1 - killed].communicate(timeout=120)[1].decode()
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    assert pair[1 - killed].returncode == 5, errors
    # Users have a longer interval of heartbeats, with which this takes longer by the same amount.
    assert time.monotonic() - began + hosts.HEARTBEAT_S - 5 < 30
    last = errors.splitlines()[-1]
    assert last.startswith("metarl-jax: error: another process ")
    assert last.endswith(f"; go on with: metarl-jax resume '{path}'")


@pytest.mark.parametrize(
    "text", ["", "host", "host:1", "host:1,0", "host:1,2,2", "host:1,-1,2", "host:0,0,1", ":5,0,1", "host:x,0,1"]
)
def test_invalid_descriptions_of_processes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be auto or HOST:PORT,INDEX,PROCESSES"):
        hosts.join(text)


def test_a_single_process_agrees_with_itself() -> None:
    assert hosts.agree(3, 2**40).tolist() == [[3, 2**40]]
    assert hosts.share_text("runs/a") == "runs/a"
    assert hosts.on_first(lambda: 5) == 5
