"""Commands that move labels out of a project folder and into it, and count them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_point_defects.cli.common import OutOption, OverwriteOption

labels_app = typer.Typer(
    help="Export, import and count the labels of a project folder.", no_args_is_help=True
)

StoreArgument = Annotated[
    Path, typer.Argument(help="Project folder: the one with labels.sqlite", metavar="FOLDER")
]


@labels_app.command("export")
def export(
    store: StoreArgument,
    out: OutOption,
    file_format: Annotated[str, typer.Option("--format", help="coco or csv")] = "coco",
    overwrite: OverwriteOption = False,
) -> None:
    """Write all labels, with their states, authors and times, as COCO JSON or CSV."""
    from napari_point_defects.labels.exchange import export_labels
    from napari_point_defects.labels.store import LabelStore

    with LabelStore(store, create=False) as labels:
        paths = export_labels(labels, out, file_format=file_format, overwrite=overwrite)
    typer.echo(", ".join(str(path) for path in paths))


@labels_app.command("import")
def import_(
    store: StoreArgument,
    source: Annotated[Path, typer.Argument(help="labels.json or cells.csv of an export")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what was decided otherwise")
    ] = False,
) -> None:
    """Add exported labels; nothing is imported where they contradict decisions in the store."""
    from napari_point_defects.labels.exchange import check_source, import_labels
    from napari_point_defects.labels.store import LabelStore

    check_source(source)  # before a new store is made
    with LabelStore(store) as labels:
        done = import_labels(labels, source, overwrite=overwrite)
    typer.echo(f"{done.images} images: {done.new} labels new, {done.replaced} replaced")


@labels_app.command("stats")
def stats(store: StoreArgument) -> None:
    """Count the cells of each class by image and state."""
    from rich.console import Console
    from rich.table import Table

    from napari_point_defects.labels.store import LabelStore
    from napari_point_defects.labels.tables import STATES
    from napari_point_defects.labels.validation import class_name

    with LabelStore(store, create=False) as labels:
        counts = labels.stats()
    table = Table(title=f"labels in {store}", title_justify="left")
    for heading in ("image", "class", *STATES):
        table.add_column(heading, justify="right" if heading in STATES else "left")
    for row in counts.to_dict("records"):
        if row["image_id"] == -1 or any(row[state] for state in STATES):
            cells = (str(row[state]) for state in STATES)
            table.add_row(row["image"], class_name(row["label"]), *cells)
    Console().print(table)
