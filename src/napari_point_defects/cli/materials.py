"""Commands for the user's own materials: list, add, remove."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_point_defects.errors import PointDefectsError

materials_app = typer.Typer(
    help="List the materials; add or remove an MX2 of your own.", no_args_is_help=True
)


@materials_app.command("list")
def list_materials() -> None:
    """Show every material: lengths, their source, and what is ready for it."""
    from rich.console import Console
    from rich.table import Table

    from napari_point_defects.material_files import materials_file
    from napari_point_defects.materials import MATERIALS, known_materials
    from napari_point_defects.simulation.columns import MicroscopeSettings, columns_are_known
    from napari_point_defects.weights.trained_on import shipped_materials

    learned = shipped_materials()
    table = Table(title_justify="left")
    for heading in ("formula", "a [nm]", "d [nm]", "X–X [nm]", "cell [nm²]"):
        table.add_column(heading, justify="left" if heading == "formula" else "right")
    table.add_column("columns")
    table.add_column("shipped weights")
    table.add_column("source", overflow="fold")
    for formula, material in known_materials().items():
        ready = columns_are_known(material, MicroscopeSettings())
        table.add_row(
            formula,
            f"{material.lattice_constant_nm:.4f}",
            f"{material.bond_nm:.4f}",
            f"{material.chalcogen_distance_nm:.4f}",
            f"{material.cell_area_nm2:.5f}",
            ("shipped" if formula in MATERIALS else "simulated") if ready else "not yet",
            "trained on it" if formula in learned else "not trained on it",
            material.source,
        )
    console = Console()
    if not console.is_terminal:  # a table that is read by another program is not folded
        console = Console(width=240)
    console.print(table)
    typer.echo(f"your own materials: {materials_file()}")


@materials_app.command("add")
def add(
    formula: Annotated[str, typer.Argument(help="Two elements and a 2, such as NbSe2")],
    a: Annotated[float, typer.Option("--a", help="Lattice constant [nm]")],
    x_x: Annotated[
        float | None,
        typer.Option("--x-x", help="X–X distance across the layer [nm]; estimated if left out"),
    ] = None,
    source: Annotated[str, typer.Option(help="Where the lengths come from")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Change one of your own that is there")
    ] = False,
) -> None:
    """Add an MX2 of your own, from then on known to every command and to napari."""
    from napari_point_defects.material_files import split_formula
    from napari_point_defects.materials import define_material
    from napari_point_defects.own_materials import add_material

    material = define_material(*split_formula(formula), a, x_x, source)
    path = add_material(material, replace=replace)
    typer.echo(
        f"{material.formula}: a = {material.lattice_constant_nm:.4f} nm, "
        f"X–X = {material.chalcogen_distance_nm:.4f} nm ({material.source})"
    )
    typer.echo(str(path))


@materials_app.command("remove")
def remove(
    formula: Annotated[list[str], typer.Argument(help="Formula of one of your own")],
) -> None:
    """Remove materials of your own; sets, weights and censuses keep their record of them."""
    from napari_point_defects.materials import MATERIALS
    from napari_point_defects.own_materials import remove_material

    for name in formula:
        if name in MATERIALS:
            raise PointDefectsError(f"{name} is shipped: only materials of your own are removed")
        typer.echo(f"{name} removed from {remove_material(name)}")
