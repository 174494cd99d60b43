"""Labels out of a store and into one: COCO JSON or CSV, exact both ways."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief
from napari_point_defects.labels.coco import read_coco, write_coco
from napari_point_defects.labels.csv_tables import FILES, read_csv, write_csv
from napari_point_defects.labels.merging import ImageLabels, Merged, merge
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.outputs import check_outputs, write_together

FORMATS = ("coco", "csv")
COCO_FILE = "labels.json"


def export_labels(
    store: LabelStore, folder: Path, *, file_format: str = "coco", overwrite: bool = False
) -> list[Path]:
    """Write all labels of a store to a folder.

    Parameters
    ----------
    store : LabelStore
    folder : Path
        Made if absent.
    file_format : str
        ``"coco"``: ``labels.json``; ``"csv"``: ``cells.csv``, ``hexagons.csv``, ``images.csv``.
    overwrite : bool
        Replace files of an earlier export.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    PointDefectsError
        If files are there already and may not be replaced, or cannot be written.
    """
    paths = export_paths(folder, file_format)
    check_outputs(paths, overwrite)
    labels = [
        ImageLabels(entry, store.cells(entry.id), store.hexagons(entry.id))
        for entry in store.images()
    ]
    with write_together({path.name: path for path in paths}, overwrite) as temporary:
        if file_format == "coco":
            write_coco(labels, temporary[COCO_FILE])
        else:
            write_csv(labels, temporary)
    return paths


def export_paths(folder: Path, file_format: str) -> list[Path]:
    """Return the files that an export to a folder writes."""
    if file_format not in FORMATS:
        raise PointDefectsError(f"unknown format {file_format!r}: use one of {', '.join(FORMATS)}")
    return [Path(folder) / name for name in (FILES if file_format == "csv" else (COCO_FILE,))]


def import_labels(store: LabelStore, source: Path, *, overwrite: bool = False) -> Merged:
    """Add exported labels to a store; see :func:`~napari_point_defects.labels.merging.merge`.

    Parameters
    ----------
    store : LabelStore
    source : Path
        A COCO JSON file, one of the CSV files, or the folder that holds either.
    overwrite : bool
        Replace what was decided otherwise in the store.

    Raises
    ------
    PointDefectsError
        If the files are not an export of labels; a
        :class:`~napari_point_defects.labels.merging.Contradiction` if they contradict decisions
        and may not replace them. Nothing is imported then.
    """
    path, read = check_source(Path(source))
    try:
        labels = read(path)
    except FileNotFoundError as error:
        raise PointDefectsError(
            f"{error.filename} is missing: the three CSV files belong together"
        ) from error
    except OSError as error:
        raise PointDefectsError(f"cannot read {path} ({error.strerror or error})") from error
    except KeyError as error:
        raise PointDefectsError(
            f"{path} is no export of labels ({str(error)[:40]} is missing or unknown): "
            "write one with `point-defects labels export`"
        ) from error
    except (
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
        csv.Error,
    ) as error:
        raise PointDefectsError(
            f"{path} is no export of labels ({brief(error)}): "
            "write one with `point-defects labels export`"
        ) from error
    return merge(store, labels, path if path.is_dir() else path.parent, overwrite=overwrite)


def check_source(source: Path) -> tuple[Path, Callable[[Path], list[ImageLabels]]]:
    """Return what to read, and the function that reads it.

    Raises
    ------
    PointDefectsError
        If there is nothing to import.
    """
    if source.is_dir():
        coco, table = source / COCO_FILE, source / FILES[0]
        if coco.is_file() and table.is_file():
            raise PointDefectsError(
                f"{source} holds both {coco.name} and {table.name}: say which of them to import"
            )
        source = coco if coco.is_file() else table
    if not source.is_file():
        raise PointDefectsError(f"{source} does not exist: give a file of `labels export`")
    if source.suffix.lower() == ".csv":
        return source.parent, read_csv
    return source, read_coco
