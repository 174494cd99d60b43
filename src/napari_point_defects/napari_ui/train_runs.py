"""Where training runs lie, and which of them wait to be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import QStandardPaths

from napari_point_defects.retraining.folder import is_finished, read_history, run_settings


def runs_folder() -> Path:
    """Return the user's folder of training runs."""
    place = QStandardPaths.StandardLocation.GenericDataLocation
    return Path(QStandardPaths.writableLocation(place)) / "napari-point-defects" / "training"


def new_run_folder(kind: str) -> Path:
    """Return a folder there that does not exist yet, named after the network."""
    root, number = runs_folder(), 1
    while (root / f"{kind}-{number:03d}").exists():
        number += 1
    return root / f"{kind}-{number:03d}"


def unfinished_run() -> Path | None:
    """Return the run there that was stopped last, if any."""
    try:
        folders = [path for path in runs_folder().iterdir() if is_unfinished(path)]
        return max(folders, key=lambda path: (path / "run.json").stat().st_mtime, default=None)
    except OSError:
        return None


def is_unfinished(folder: Path) -> bool:
    """Tell whether a run was begun there and not finished."""
    return run_settings(folder) is not None and not is_finished(folder)


def describe_run(folder: Path) -> str:
    """Say in a line what run a folder holds; empty where there is none."""
    settings = run_settings(folder)
    if settings is None:
        return ""
    if is_finished(folder):
        return f"{folder.name}: a finished run of the {settings.kind}"
    epochs = len(read_history(folder))
    return f"{folder.name}: a run of the {settings.kind}, stopped after {epochs} epochs"


class TimeLeft:
    """Guesses the rest of a task from the share that is done."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def telling(self, on_progress: Callable[[float, str], None]) -> Callable[[float, str], None]:
        """Return the same callable, which is told the time left as well."""

        def tell(share: float, text: str) -> None:
            rest = self.after(share)
            on_progress(share, f"{text}; {rest}" if rest else text)

        return tell

    def after(self, share: float) -> str:
        """Return the time left in words; empty while nobody can know."""
        now = time.monotonic()
        if self._start is None or share < self._start[1]:
            self._start = (now, share)
        began, first = self._start
        if share - first < 0.02 or now - began < 3:
            return ""
        seconds = (now - began) / (share - first) * (1 - share)
        if seconds < 90:
            return f"about {max(round(seconds / 10) * 10, 10)} s left"
        if seconds < 5400:
            return f"about {round(seconds / 60)} min left"
        return f"about {seconds / 3600:.1f} h left"
