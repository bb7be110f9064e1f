"""``--track wandb``: Weights & Biases.

A run folder may come from a stranger, and W&B reads settings, such as the address of its server, from files. No file
of a run folder may decide where data or keys go:

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
"""The project of W&B where the user's settings name none."""
START_SECONDS = 60.0
"""How long W&B tries to reach its server at the start."""
END_SECONDS = 20.0
"""How long W&B goes on sending at the end. The rest stays in the run folder, for ``wandb sync``."""
_ID = re.compile("[0-9a-f]{16}")
_ID_FILE = "metarl-jax.json"
_SESSION = re.compile(r"(offline-)?run-\d{8}_\d{6}-[0-9a-f]{16}(-\d+)?")
"""The folder that W&B makes in ``wandb`` for each process that logs a run."""
_MOST_NAME = 128
"""W&B refuses longer names."""


class WeightsAndBiases:
    """Logs a run to Weights & Biases; a resumed run goes on in the same run there."""

    def start(self, run: TrackedRun) -> str:
        """Begin, or go on with the run of W&B whose id the run folder holds.

        Args:
            run: the run.

        Returns:
            A line with the address of the run at W&B.

        Raises:
            UserError: if the folder holds something that W&B could take for settings, a link, or no valid id.
        """
        root = run.path.absolute()
        check_folder(root)
        import wandb

        folder = root / "wandb"
        folder.mkdir(exist_ok=True)
        identifier = _identifier(folder / _ID_FILE)
        # W&B must not write into the user's home folder. Its service reads this once, for all runs of this process.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "data"))
        # Without messages, and so without questions: where there is no key, W&B raises an error instead of asking.
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
        """Log the values of an iteration; those of iterations that are logged already are ignored by W&B."""
        self._run.log(dict(values), step=iteration)

    def close(self) -> None:
        """Send the rest."""
        self._run.finish()


def check_folder(root: Path) -> None:
    """See that W&B cannot take anything from a run folder, or write outside of it.

    Args:
        root: the absolute path of the run folder.

    Raises:
        UserError: if the working directory is in the run folder, or in the folder of its study; or if ``wandb`` in the
            run folder is a link, holds one, or holds settings.
    """
    real, here = root.resolve(), Path.cwd().resolve()
    # The path may go through links.
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
        # W&B links its log there, and never writes into the folder of an earlier session again.
        folders[:] = [name for name in folders if Path(place) != folder or not _SESSION.fullmatch(name)]


def _identifier(path: Path) -> str:
    """The id of the run at W&B: that of the file, or a new one, which is stored there."""
    if not files.exists(path):
        files.write_json(path, {"id": secrets.token_hex(8)})
    identifier = files.read_shaped(path, {"id": str})["id"]
    if not _ID.fullmatch(identifier):
        raise UserError(f"{path} holds no id of a run: {identifier[:80]!r}; delete it to begin a new run at W&B")
    return identifier


def _sent(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that W&B gets."""
    return {name: value for name, value in settings.items() if not (isinstance(value, str) and "://" in value)}
