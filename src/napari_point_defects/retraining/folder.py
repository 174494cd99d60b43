"""The folder of a training run: what it is, its history and result; keep it or discard it."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

from napari_point_defects import __version__
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.evaluation import BoxScores, ClassScores
from napari_point_defects.json_files import read_json
from napari_point_defects.outputs import check_outputs, write_json
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.weights import Weights, load_weights, save_weights

Scores = ClassScores | BoxScores

_RUN = "run.json"
_FILES = (_RUN, "last.ckpt", "best.ckpt", "metrics.csv", "metrics.tmp")
_FOLDERS = ("replay", "replay.part")
_SCORES = {"classifier": ClassScores, "detector": BoxScores}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores on one kind of held-out images, before the run and after it.

    Attributes
    ----------
    source : {"labels", "simulated"}
    before, after : ClassScores or BoxScores
    """

    source: str
    before: Scores
    after: Scores


@dataclass(frozen=True, slots=True)
class Retrained:
    """What a finished run leaves in its folder.

    Attributes
    ----------
    kind : {"classifier", "detector"}
    folder : Path
    weights : Weights
        The best epoch's tensors and their model card.
    compared_with : str
        Version of the weights that ``before`` belongs to.
    comparisons : tuple of Comparison
        One per source of held-out images.
    history : list of dict
        One row per epoch, as in ``metrics.csv``.
    """

    kind: str
    folder: Path
    weights: Weights
    compared_with: str
    comparisons: tuple[Comparison, ...]
    history: list[dict[str, float]]

    @property
    def before(self) -> Scores:
        """Scores of the weights it started from on all held-out images."""
        return _sum([c.before for c in self.comparisons])

    @property
    def after(self) -> Scores:
        """Scores of the new weights on all held-out images."""
        return _sum([c.after for c in self.comparisons])


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder with a run that is not to be resumed, or without the one that is.

    Raises
    ------
    PointDefectsError
    """
    there = (folder / _RUN).is_file() or (folder / "last.ckpt").is_file()
    if resume and not there:
        raise PointDefectsError(f"nothing to resume in {folder}: leave out --resume")
    if there and not resume:
        raise PointDefectsError(f"{folder} holds a training run: add --resume or choose another")


def write_run(settings: RetrainSettings, folder: Path) -> None:
    """Write what the run is, so that another session can resume it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PointDefectsError(f"cannot write to {folder}: {error.strerror}") from error
    # from the user's folder of today to absolute: another session may start elsewhere
    record = settings.model_copy(
        update={
            "data": tuple(path.absolute() for path in settings.data),
            "labels": settings.labels and settings.labels.absolute(),
            "start": settings.start and settings.start.absolute(),
        }
    )
    content = {"program": __version__, "settings": record.model_dump(mode="json")}
    write_json(content, folder / _RUN, overwrite=True)


def result_path(folder: Path, kind: str, preset: str) -> Path:
    """Where a finished run leaves its weights."""
    return folder / f"{kind}-{preset}.safetensors"


def run_settings(folder: Path) -> RetrainSettings | None:
    """Return the settings of the run in a folder, or None where there is none."""
    try:
        return RetrainSettings.model_validate(read_json(folder / _RUN)["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_finished(folder: Path) -> bool:
    """Tell whether the run in a folder has its result."""
    settings = run_settings(folder)
    return settings is not None and _result_of(folder, settings.kind) is not None


def load_run(folder: Path) -> Retrained:
    """Read the result of a finished run.

    Raises
    ------
    PointDefectsError
        If there is none.
    """
    settings = run_settings(folder)
    path = _result_of(folder, settings.kind) if settings is not None else None
    if path is None:
        raise PointDefectsError(f"{folder} holds no finished training run: resume it first")
    weights = load_weights(settings.kind, path)
    metrics, scores = weights.card["metrics"], _SCORES[settings.kind]
    comparisons = tuple(
        Comparison(c["source"], scores.from_dict(c["before"]), scores.from_dict(c["after"]))
        for c in metrics["comparisons"]
    )
    return Retrained(
        settings.kind, folder, weights, metrics["compared_with"], comparisons, read_history(folder)
    )


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's ``metrics.csv``; none before the first epoch's end."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError):
        return []


def keep(retrained: Retrained, path: Path, overwrite: bool = False) -> Path:
    """Write the weights of a run and their model card where the user wants them.

    Parameters
    ----------
    retrained : Retrained
    path : Path
        ``.safetensors`` is added where it does not end so.
    overwrite : bool

    Returns
    -------
    Path
        The file written; the card lies beside it.

    Raises
    ------
    PointDefectsError
        If there are weights already that may not be overwritten, or the folder cannot be
        written.
    """
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    check_outputs([path, path.with_suffix(".json")], overwrite)
    card = retrained.weights.card
    named = ("kind", "settings", "training_set", "metrics")
    try:
        save_weights(
            path,
            retrained.weights.tensors,
            started_from=card.get("started_from"),
            training_range=card.get("training_range"),
            **{name: card[name] for name in named},
        )
    except OSError as error:
        raise PointDefectsError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def discard(folder: Path) -> None:
    """Remove a run's own files, and its folder if nothing else is in it."""
    settings = run_settings(folder)
    if settings is None:
        raise PointDefectsError(f"{folder} holds no training run: nothing was removed")
    names = list(_FILES)
    for stem in ("candidate", *(p.stem for p in folder.glob(f"{settings.kind}-*.safetensors"))):
        names += [f"{stem}.safetensors", f"{stem}.json"]
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in names:
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _result_of(folder: Path, kind: str) -> Path | None:
    """Return the weights of a finished run: their card tells what they were compared with."""
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        try:
            if "comparisons" in read_json(path.with_suffix(".json"))["metrics"]:
                return path
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _sum(scores: list[Scores]) -> Scores:
    return sum(scores[1:], scores[0])
