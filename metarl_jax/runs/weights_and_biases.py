"""The tracker of ``--track wandb``: Weights & Biases (W&B).

A run folder may come from a stranger, and W&B reads settings, such as the address of its server, from files. No file
of a run folder may determine where W&B sends data or keys:

- W&B reads ``wandb/settings`` in the working directory, so the working directory must be outside of the run folder.
- A run folder that already holds ``wandb/settings``, or a link where W&B writes, is refused.
- W&B runs git in its directory, and git runs programs that ``.git/config`` names, so git is switched off.
- Settings that look like an address are not sent, because W&B follows those of artifacts.

The address of the server and the key come from the user's environment and from the user's own settings of W&B.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl_jax.runs import commands, files
from metarl_jax.runs.errors import UserError
from metarl_jax.runs.files import printable
from metarl_jax.runs.study_folder import study_of

if TYPE_CHECKING:
    from metarl_jax.runs.tracking import TrackedRun

PROJECT = "metarl-jax"
"""The project at W&B if the user's settings name none."""
START_SECONDS = 60.0
"""The longest time that W&B tries to reach its server at the start."""
END_SECONDS = 20.0
"""The longest time that W&B sends data at the end. The remaining data stays in the run folder, for ``wandb sync``."""
_ID = re.compile("[0-9a-f]{16}")
_ID_FILE = "metarl-jax.json"
_SESSION = re.compile(r"(offline-)?run-\d{8}_\d{6}-[0-9a-f]{16}(-\d+)?")
"""The name of the folder that W&B creates in ``wandb`` for each process that logs a run."""
_MOST_NAME = 128
"""The length in characters of the longest name that W&B accepts."""


class WeightsAndBiases:
    """A tracker that logs a run to Weights & Biases. A resumed run continues the same run there."""

    def start(self, run: TrackedRun) -> str:
        """Begin a run at W&B, or continue with the run whose id the run folder holds.

        Args:
            run: the run.

        Returns:
            A line with the address of the run at W&B.

        Raises:
            UserError: if the folder holds a link, an id that is not valid, or a file that W&B could take for settings.
        """
        root = run.path.absolute()
        check_folder(root)
        import wandb

        folder = root / "wandb"
        folder.mkdir(exist_ok=True)
        identifier = _identifier(folder / _ID_FILE)
        # W&B must not write into the user's home folder. Its service reads these variables once for the whole process.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "data"))
        # With ``silent``, W&B raises an error if there is no key, and does not ask the user for one.
        session = wandb.setup(wandb.Settings(silent=True))
        settings = wandb.Settings(
            root_dir=str(root),
            use_dot_wandb=False,
            symlink=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            disable_job_creation=True,
            label_disable=True,
            console="off",
            silent=True,
            reinit="create_new",
            resume="allow",
            run_id=identifier,
            run_name=printable(run.name)[:_MOST_NAME],
            run_group=None if run.group is None else printable(run.group)[:_MOST_NAME],
            project=session.settings.project or PROJECT,
            init_timeout=START_SECONDS,
            finish_timeout=END_SECONDS,
        )
        self._run = wandb.init(settings=settings, config=_sent(run.settings))
        if self._run.disabled:
            return "W&B is disabled"
        if self._run.offline:
            return f"W&B is offline; later: wandb sync {commands.quoted(Path(self._run.dir).parent)}"
        return f"W&B: {self._run.url}"

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Log the values of an iteration. W&B ignores the values of an iteration that is already logged."""
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        """Send the remaining data, and end the run at W&B."""
        self._run.finish()


def check_folder(root: Path) -> None:
    """Check that W&B cannot read settings from a run folder, or write outside of it.

    Args:
        root: the absolute path of the run folder.

    Raises:
        UserError: if the working directory is in the run folder, or in the folder of its study; or if ``wandb`` in the
            run folder is a link, contains a link, or contains settings.
    """
    real, here = root.resolve(), Path.cwd().resolve()
    # The path may contain links, so the studies of both the given and the resolved path are checked.
    for received in (real, study_of(root), study_of(real)):
        if received is not None and here.is_relative_to(received.resolve()):
            raise UserError(
                "W&B takes settings, such as the address of its server, from the working directory, which is in "
                f"{received}: start the command in another directory"
            )
    folder = root / "wandb"
    try:
        files.require_folder(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be used: {error.strerror}") from error
    if files.exists(folder / "settings"):
        raise UserError(f"{folder / 'settings'} could redirect what W&B sends: delete it, or move it away")
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            if (path := Path(place) / name).is_symlink():
                raise UserError(f"{path} is a symbolic link, which is not followed: delete it")
        # The folder of a session contains links to a log, but W&B never writes into the folder of an earlier session.
        folders[:] = [name for name in folders if Path(place) != folder or not _SESSION.fullmatch(name)]


def _identifier(path: Path) -> str:
    """Return the id of the run at W&B from the file. If there is no file, create one with a new id."""
    if not files.exists(path):
        files.write_json(path, {"id": secrets.token_hex(8)})
    identifier = files.read_shaped(path, {"id": str})["id"]
    if not _ID.fullmatch(identifier):
        raise UserError(f"{path} does not hold the id of a run: {identifier[:80]!r}; delete it to begin a new W&B run")
    return identifier


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that W&B gets: all but those that look like an address."""
    return {name: value for name, value in settings.items() if not (isinstance(value, str) and "://" in value)}
