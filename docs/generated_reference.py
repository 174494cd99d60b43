"""Reference pages made from the program itself: every command, and every field of the settings.

Two directives for Sphinx. ``command-line`` walks through the Typer app, ``settings`` through the
fields of a pydantic model. No option, default or bound is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer.main
from docutils import nodes
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from benchmarks.markdown import table
from napari_point_defects.cli import app as commands

PROGRAM = "point-defects"
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


class CommandLine(SphinxDirective):
    """``command-line``: a section for every command, with its arguments and options."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        text = "\n\n".join(_command_sections(typer.main.get_command(commands), PROGRAM, None))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Settings(SphinxDirective):
    """``settings``: a table of the fields of the model whose dotted name is given."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        model = getattr(import_module(module), name)
        return self.parse_text_to_nodes(f"{_plain(model.__doc__)}\n\n{_settings_table(model)}")


def _command_sections(command: Any, name: str, parent: Any) -> Iterator[str]:
    """Yield the Markdown of a command and of those below it."""
    context = command.context_class(command, info_name=name, parent=parent)
    below = getattr(command, "commands", {})
    usage = command.get_usage(context).removeprefix("Usage: ")
    rows = [
        (f"`{declared}`", _plain(help_text))
        for parameter in command.get_params(context)
        if "--help" not in parameter.opts
        for declared, help_text in [parameter.get_help_record(context) or ("", "")]
        if declared
    ]
    yield f"## {context.command_path}"
    yield "\n\n".join(_plain(paragraph) for paragraph in (command.help or "").split("\n\n"))
    yield f"```text\n{usage}\n```"
    if rows:
        yield table(("", ""), rows)
    for name_below, command_below in below.items():
        yield from _command_sections(command_below, name_below, context)


def _settings_table(model: type[BaseModel]) -> str:
    """Return the Markdown of a model's fields: name, default, bounds and what each is."""
    rows = [
        (f"`{name}`", _default(field), _bounds(field), _plain(field.description or ""))
        for name, field in model.model_fields.items()
    ]
    return table(("field", "default", "bounds", ""), rows)


def _default(field: FieldInfo) -> str:
    """Return a field's default as code; of settings within settings, what they are called."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return f"`{type(value).__name__}()`"
    return f"`{getattr(value, 'value', value)!r}`".replace("|", "\\|")


def _bounds(field: FieldInfo) -> str:
    """Return e.g. ``≥ 0, ≤ 1``."""
    found = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return ", ".join(found)


def _plain(text: str | None) -> str:
    """Return text in one line that Markdown leaves as it is; double backticks stay code."""
    parts = re.split(r"(``[^`]+``)", " ".join((text or "").split()))
    return "".join(
        part if part.startswith("``") else re.sub(r"([\\`*_\[\]<>|])", r"\\\1", part)
        for part in parts
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Give Sphinx the directives."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
