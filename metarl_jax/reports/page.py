"""Write one HTML page about runs. The page loads nothing from a network, and runs no scripts."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import metarl_jax
from metarl_jax.reports import compare, sections, study
from metarl_jax.reports.collect import Run
from metarl_jax.reports.markup import Child, Html, tag
from metarl_jax.runs import files
from metarl_jax.runs.errors import UserError, storing
from metarl_jax.runs.study_folder import StudyFolder

MARK = b'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="generator" content="metarl-jax report'
"""The first bytes of every page."""


def check_destination(path: Path, overwrite: bool) -> None:
    """Check that a page may be written.

    Args:
        path: the path of the page.
        overwrite: whether any existing file may be replaced, and not only a report.

    Raises:
        UserError: if the folder does not exist, or if the path exists and may not be replaced.
    """
    try:
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} for the report")
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder; --output names a file")
        if not files.exists(path):
            return
        with files.open_regular(path) as file:
            ours = file.read(len(MARK)) == MARK
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    if not (ours or overwrite):
        raise UserError(f"{path} exists already and is not a report; choose another --output, or --overwrite it")


def _document(title: str, body: Child) -> bytes:
    style = resources.files("metarl_jax.reports").joinpath("page.css").read_text(encoding="utf-8")
    # This policy allows only this style sheet and the pictures in the page. It allows no scripts, and no loading.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = [
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(style)),
    ]
    rest = "".join([f' {metarl_jax.__version__}">', *head, "</head>", tag("body", body), "</html>\n"])
    # A name from a stranger's file may contain a lone surrogate, which cannot be encoded.
    return MARK + rest.encode(errors="replace")


def _write(path: Path, title: str, introduction: Child, main: Child) -> None:
    date = time.strftime("%Y-%m-%d", time.gmtime())
    footer = tag("footer", f"Written on {date} by metarl_jax {metarl_jax.__version__}.")
    body = [tag("header", tag("h1", title), introduction), tag("main", main), footer]
    with storing(f"write {path}"):
        files.write_atomically(path, _document(f"{title} – metarl_jax", body))


def write(path: Path, runs: Sequence[Run]) -> None:
    """Write the page about one or more runs.

    Raises:
        StorageError: if the page cannot be written.
    """
    if len(runs) == 1:
        return _write(path, runs[0].title, sections.subtitle(runs[0]), sections.run(runs[0]))
    links = [tag("li", tag("a", run.label, href=f"#run-{n}")) for n, run in enumerate(runs, 1)]
    main = [compare.section(runs)]
    for n, run in enumerate(runs, 1):
        head = [tag("h2", run.label), tag("p", f"{run.title}.", class_="what"), sections.subtitle(run)]
        main.append(tag("section", head, sections.run(run), id=f"run-{n}"))
    _write(path, f"{len(runs)} runs compared", tag("nav", tag("ul", links), aria_label="Runs"), main)


def write_study(path: Path, folder: StudyFolder, result: dict[str, Any]) -> None:
    """Write the page about a study.

    Args:
        path: the path of the page.
        folder: the study.
        result: the table of the study (``runs.study.read``).

    Raises:
        StorageError: if the page cannot be written.
    """
    title, introduction, main = study.page(folder, result)
    _write(path, title, introduction, main)
