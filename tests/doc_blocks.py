"""The commands and snippets of the documentation: found, taken apart, and held against the program.

A check returns nothing and raises :class:`Wrong` where a page says what the program does not know.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path

import typer.main

from napari_point_defects.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_OTHERS = ("apt-get", "napari", "npe2", "ruff", "typos")
"""Programs that are not ours, and whose arguments are not looked at."""
_OTHERS_OPTIONS = ("--extra-index-url",)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?")


class Wrong(Exception):
    """A page says something that is not so."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the text block right behind it, if any."""

    language: str
    text: str
    output: str = ""


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    made = []
    for here, after in zip_longest(found, found[1:]):
        behind = after is not None and not text[here.end() : after.start()].strip()
        output = after[2] if behind and after[1] == "text" else ""
        made.append(Block(here[1].split(" ")[0], here[2], output))
    return made


def inline_codes(page: str) -> list[str]:
    """Return what a page sets in code within its lines."""
    return _INLINE.findall(_FENCE.sub("", (ROOT / page).read_text(encoding="utf-8")))


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block, as words; comments and ``$(…)`` left out."""
    joined = re.sub(r"\\\n\s*", " ", text).replace("\\", "/")
    for line in joined.splitlines():
        words: list[str] = []
        lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "", line), posix=True, punctuation_chars=";&")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word in (";", "&&"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check_command(words: list[str], *, abbreviated: bool = False) -> None:
    """Check one command; if ``abbreviated``, what it needs besides may be missing."""
    name, rest = Path(words[0]).name, words[1:]
    if name == "xvfb-run":
        check_command([word for word in rest if word != "-a"])
    elif name == "point-defects":
        parse(rest, abbreviated=abbreviated)
    elif name == "pip":
        _check_pip(rest)
    elif name in ("python", "python3", "py"):
        _check_python(rest)
    elif name == "bash":
        _check_file(rest[0])
    elif name == "pytest":
        _check_markers(rest)
    elif name == "dask":
        _check_dask(rest)
    elif name not in _OTHERS:
        raise Wrong(f"unknown program: {name}")


def parse(arguments: list[str], *, abbreviated: bool = False) -> list[str]:
    """Let the real command line take arguments, without doing anything; return what is called."""
    command = typer.main.get_command(app)
    called: list[str] = []
    _silence(command, called)
    try:
        command.main(list(arguments), prog_name="point-defects", standalone_mode=False)
    except Exception as error:  # of the click that Typer brings along, or of another
        says = error.format_message() if hasattr(error, "format_message") else repr(error)
        if not (abbreviated and says.startswith("Missing")):
            raise Wrong(f"point-defects {shlex.join(arguments)}: {says}") from error
    return called


def _silence(command, called: list[str]) -> None:
    """Let a command and those below it note that they are called, and nothing else."""
    below = getattr(command, "commands", {})
    if not below:
        command.callback = lambda **values: called.append(command.name)
    elif command.callback is not None:
        command.callback = lambda **values: None
    for each in below.values():
        _silence(each, called)


@cache
def known_commands() -> set[str]:
    """Return the names of the commands, without those below them."""
    return set(typer.main.get_command(app).commands)


@cache
def known_options() -> set[str]:
    """Return all options of all commands."""

    def options(command) -> set[str]:
        own = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        return own.union(*(options(each) for each in getattr(command, "commands", {}).values()))

    return options(typer.main.get_command(app)) | set(_OTHERS_OPTIONS)


def check_inline(code: str) -> None:
    """Check what is said within a line, if it is a command or an option of one."""
    try:
        words = shlex.split(code.replace("\\", "/"))
    except ValueError:
        return
    words = [word for word in words if word != "…"]
    programs = ("point-defects", "python", "python3", "py", "pip", "dask", "bash")
    if not words or "COMMAND" in words:
        return
    if words[0].startswith("--"):
        if words[0] not in known_options():
            raise Wrong(f"no command has the option {words[0]}")
    elif words[0] in known_commands() and len(words) > 1:
        parse(words, abbreviated=True)
    elif words[0] in programs and len(words) > 1:
        for command in shell_commands(code.replace("…", "")):
            check_command(command, abbreviated=True)


def _check_pip(words: list[str]) -> None:
    for word in words:
        name, bracket, extras = word.partition("[")
        if name in (".", PROJECT["name"]) and bracket:
            unknown = set(extras.rstrip("]").split(",")) - set(PROJECT["optional-dependencies"])
            if unknown:
                raise Wrong(f"no such extra: {', '.join(sorted(unknown))}")


def _check_python(words: list[str]) -> None:
    if words[0] != "-m":
        _check_file(words[0])
        return
    module = words[1]
    if module in ("pip", "pytest"):
        check_command(words[1:])
        return
    spec = importlib.util.find_spec(module)
    if spec is None and module != "sphinx":  # which the documentation's own extra installs
        raise Wrong(f"no module {module}")
    if module.startswith("benchmarks"):
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{module}.__main__")
        source = Path(spec.origin).read_text(encoding="utf-8")
        for word in words[2:]:
            if word.startswith("--") and f'"{word}"' not in source:
                raise Wrong(f"{module} has no option {word}")


def _check_file(name: str) -> None:
    if not (ROOT / name).is_file():
        raise Wrong(f"{name} is not there")


def _check_markers(words: list[str]) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    known = {line.split(":")[0] for line in settings["tool"]["pytest"]["ini_options"]["markers"]}
    for option, value in pairwise(words):
        unknown = set(re.findall(r"\w+", value)) - known - {"not", "and", "or"}
        if option == "-m" and unknown:
            raise Wrong(f"no such marker: {', '.join(sorted(unknown))}")


def _check_dask(words: list[str]) -> None:
    if words[0] not in ("scheduler", "worker"):
        raise Wrong(f"no such command: dask {words[0]}")
    if len(words) == 1:
        return
    main = importlib.import_module(f"distributed.cli.dask_{words[0]}").main
    try:
        main.make_context(f"dask {words[0]}", list(words[1:]))
    except Exception as error:
        raise Wrong(f"dask {shlex.join(words)}: {error}") from error


def check_python(text: str) -> None:
    """Compile a snippet; resolve what it imports, and the attributes of the modules among them."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise Wrong(str(error)) from error
    modules: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = _module(alias.name)
                whole = _module(alias.name.split(".")[0])
                modules[alias.asname or alias.name.split(".")[0]] = (
                    module if alias.asname else whole
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                modules[alias.asname or alias.name] = _attribute(_module(node.module), alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            if owner is not None:
                _attribute(owner, node.attr)


def _module(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Wrong(str(error)) from error


def _attribute(owner, name: str):
    found = getattr(owner, name, None)
    if found is None:
        raise Wrong(f"{getattr(owner, '__name__', owner)} has no {name}")
    return found


def check_output(told: str, printed: str) -> None:
    """Check that a program prints what a page shows, in this order.

    Numbers may differ by a tenth, for other machines round otherwise; frames and spaces are not
    looked at. A line ``…`` stands for any lines.
    """
    lines = [_words(line) for line in printed.splitlines()]
    at = 0
    for line in told.splitlines():
        words = _words(line)
        if words in ([], ["…"]):
            continue
        while at < len(lines) and not _alike(words, lines[at]):
            at += 1
        if at == len(lines):
            raise Wrong(f"not printed, or not there: {line}\n{printed}")
        at += 1


def _words(line: str) -> list[str]:
    return re.sub(r"[─-╿]", " ", line).split()


def _alike(one: list[str], other: list[str]) -> bool:
    one, other = " ".join(one), " ".join(other)
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(
        math.isclose(
            float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=0.1, abs_tol=0.01
        )
        for a, b in pairs
    )
