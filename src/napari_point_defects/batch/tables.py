"""The tables of a batch: made of the results on disk, in parts by workers, put together by one.

Every image of a list is in them once: nothing that happened on the way can leave one out or
count one twice. No table is ever in memory as a whole.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from napari_point_defects.batch.record import CELLS, CENSUS, CENSUS_CSV, FAILURES
from napari_point_defects.batch.results import Job, look
from napari_point_defects.dask_workers import Workers
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.json_files import read_json
from napari_point_defects.outputs import atomic_write
from napari_point_defects.results import output_paths

IMAGES_PER_PART = 200
_ROWS = 200_000
"""Rows of a group: some 20 MB."""

_LEFT_OUT = ("material_definition", "interval", "estimate", "settings", "region", "versions")
"""Parts of a census that are the same for all images of a batch, or no figures."""


def census_row(census: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the census of an image, as written to JSON, to one row.

    Names are joined by ``_``; a quantity's interval is ``…_low95`` and ``…_high95``; a list of
    texts is joined by `` | ``, a list of other things counted.
    """
    parts = {key: value for key, value in census.items() if key not in _LEFT_OUT}
    size = parts.pop("pixel_size_nm", None) or (None, None)
    row = {"pixel_height_nm": size[0], "pixel_width_nm": size[1]}
    quality = parts.pop("quality", None) or {}
    parts["quality"] = {
        **{key: value for key, value in quality.items() if key != "figures"},
        **{name: each["value"] for name, each in quality.get("figures", {}).items()},
    }
    classes = parts.pop("classes", {})
    for name, value in (parts | classes).items():
        _flatten(name, value, row)
    return row


def _flatten(name: str, value: Any, row: dict[str, Any]) -> None:
    name = name.replace(" ", "_")
    if isinstance(value, Mapping):
        if "value" in value:
            for key, end in (("value", ""), ("low", "_low95"), ("high", "_high95")):
                if key in value:
                    row[name + end] = value[key]
            return
        for key, inner in value.items():
            _flatten(f"{name}_{key}", inner, row)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 2 and all(isinstance(each, int | float) for each in value):
            stem, end = name.removesuffix("_interval95"), "95" if "_interval95" in name else ""
            row[f"{stem}_low{end}"], row[f"{stem}_high{end}"] = value
        elif all(isinstance(each, str) for each in value):
            row[f"n_{name}"] = len(value)
            row[name] = " | ".join(value)
        else:
            row[f"n_{name}"] = len(value)
    else:
        row[name] = value


@dataclass(frozen=True, slots=True)
class CollectTask:
    """A function of a numbered list of images that writes their rows as a part.

    Attributes
    ----------
    job : Job
    work : Path
        Where the parts go.
    """

    job: Job
    work: Path

    def __call__(self, task: tuple[int, Sequence[str]]) -> int:
        """Write the part, and return how many cells are in it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        number, images = task
        censuses, n_cells = [], 0
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(part_path(self.work, "cells", number)))
            writer, waiting = None, []
            for image in images:
                row, cells = self._read(image)
                censuses.append(row)
                n_cells += cells.num_rows
                waiting.append(cells)
                if sum(table.num_rows for table in waiting) < _ROWS and image != images[-1]:
                    continue
                group = pa.concat_tables(waiting, promote_options="permissive")
                if writer is None:
                    writer = stack.enter_context(pq.ParquetWriter(temporary, group.schema))
                writer.write_table(group.cast(writer.schema))
                waiting = []
        names = dict.fromkeys(name for row in censuses for name in row)
        columns = {name: [row.get(name) for row in censuses] for name in names}
        with atomic_write(part_path(self.work, "census", number)) as temporary:
            pq.write_table(pa.table(columns), temporary)
        return n_cells

    def _read(self, image: str) -> tuple[dict[str, Any], Any]:
        """Return an image's row of the census, and its cells as an Arrow table."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        found = look(self.job, image)
        if found.state != "analysed":
            raise PointDefectsError(
                f"the results of {image} have gone or changed meanwhile: give the same command "
                "again"
            )
        paths = output_paths(Path(image).stem, self.job.out / image)
        try:
            census = read_json(paths["census"])
            cells = arrow_csv.read_csv(paths["cells"])
        except (OSError, ValueError) as error:  # Arrow's errors are among these
            raise PointDefectsError(
                f"the results of {image} are damaged: remove {self.job.out / image} and give the "
                "same command again"
            ) from error
        source = found.marker["sources"][0]
        row = {
            "image": image,
            **census_row(census),
            "signal": census["settings"].get("signal", ""),
            "program": census["versions"].get("napari-point-defects"),
            "file_bytes": source["bytes"],
            "file_sha256": source["sha256"],
            "seconds": found.marker["seconds"],
        }
        names = pa.repeat(pa.scalar(image), cells.num_rows)
        typed = [
            column.cast(pa.float64()) if _is_real(name) else column
            for name, column in zip(cells.column_names, cells.columns, strict=True)
        ]
        table = pa.table([names, *typed], names=["image", *cells.column_names])
        return row, table


def _is_real(name: str) -> bool:
    """Tell which columns of cells are numbers with a fraction, though all may be whole."""
    return name.startswith("p_") or name.endswith(("_y", "_x")) or name == "confidence"


def part_path(work: Path, table: str, number: int) -> Path:
    """Return where a part of a table goes."""
    return work / f"{table}-{number:06d}.parquet"


def write_tables(
    job: Job,
    images: Sequence[str],
    workers: Workers,
    work: Path,
    *,
    on_progress: Callable[[float, str], None],
    should_stop: Callable[[], bool],
) -> int:
    """Write the tables of all images that were analysed; what was there is replaced.

    Parameters
    ----------
    job : Job
    images : sequence of str
        In the order of the rows.
    workers : Workers
    work : Path
        Where the parts go, which are removed.
    on_progress, should_stop : callable

    Returns
    -------
    int
        Unit cells.

    Raises
    ------
    PointDefectsError
        If results have gone meanwhile, or the tables cannot be written.
    Stopped
        If ``should_stop`` said yes.
    """
    chunks = [images[i : i + IMAGES_PER_PART] for i in range(0, len(images), IMAGES_PER_PART)]
    numbered = zip(count(), chunks, strict=False)
    n_cells = done = 0
    for _, cells in workers.as_finished(CollectTask(job, work), numbered, should_stop):
        if not isinstance(cells, int):
            raise PointDefectsError(f"the tables could not be made: {cells.reason}")
        n_cells, done = n_cells + cells, done + 1
        on_progress(0.8 * done / len(chunks), f"tables: {done} of {len(chunks)} parts")
    for name, part in ((CENSUS, "census"), (CELLS, "cells")):
        parts = [part_path(work, part, number) for number in range(len(chunks))]
        _join(parts, job.out / name, should_stop, text=name == CENSUS)
        for path in parts:
            path.unlink(missing_ok=True)
    on_progress(1.0, "tables")
    return n_cells


def _join(
    parts: Sequence[Path], path: Path, should_stop: Callable[[], bool], *, text: bool
) -> None:
    """Put the parts of a table together, a group of rows at a time; as CSV too if ``text``."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv as arrow_csv

    if not parts:
        path.unlink(missing_ok=True)
        (path.parent / CENSUS_CSV).unlink(missing_ok=True)
        return
    schemas = [pq.read_schema(part) for part in parts]
    schema = _settled(pa.unify_schemas(schemas, promote_options="permissive"))
    with ExitStack() as stack:
        whole = stack.enter_context(atomic_write(path, overwrite=True))
        writers = [stack.enter_context(pq.ParquetWriter(whole, schema))]
        if text:
            beside = stack.enter_context(atomic_write(path.parent / CENSUS_CSV, overwrite=True))
            writers.append(stack.enter_context(arrow_csv.CSVWriter(beside, schema)))
        for group in _groups(parts):
            if should_stop():
                raise Stopped
            table = pa.concat_tables([schema.empty_table(), group], promote_options="permissive")
            for writer in writers:
                writer.write_table(table.select(schema.names).cast(schema))


def _groups(parts: Iterable[Path]) -> Iterator[Any]:
    """Yield the rows of all parts, some at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Any] = []
    for part in parts:
        with pq.ParquetFile(part) as file:
            for number in range(file.num_row_groups):
                waiting.append(file.read_row_group(number))
                if sum(table.num_rows for table in waiting) >= _ROWS:
                    yield pa.concat_tables(waiting, promote_options="permissive")
                    waiting = []
    if waiting:
        yield pa.concat_tables(waiting, promote_options="permissive")


def _settled(schema: Any) -> Any:
    """Give columns that are empty everywhere a type, which a part of another run may have too."""
    import pyarrow as pa

    for i, each in enumerate(schema):
        if pa.types.is_null(each.type):
            schema = schema.set(i, each.with_type(pa.float64()))
    return schema


def write_failures(failures: Sequence[tuple[str, str, str]], out: Path) -> None:
    """Write what failed, as image, kind and error; a table without rows where nothing did."""
    with (
        atomic_write(out / FAILURES, overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "kind", "error"))
        writer.writerows(failures)
