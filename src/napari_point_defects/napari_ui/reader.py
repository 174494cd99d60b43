"""napari's reader of microscope files: an image layer per image, or the one stack of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_warning

from napari_point_defects import io
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.image_layers import image_layer_data
from napari_point_defects.napari_ui.movie_layers import stack_layer_data
from napari_point_defects.readers import NOT_NAPARIS
from napari_point_defects.stacks import open_stack

if TYPE_CHECKING:
    from napari.types import LayerDataTuple


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerDataTuple]] | None:
    """Return the reader if it knows the file's type; napari calls it."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or any(Path(p).suffix.lower() not in NOT_NAPARIS for p in paths):
        return None
    return read


def read(path: str | Sequence[str]) -> list[LayerDataTuple]:
    """Read every signal that is an image, with its pixel size in nanometres.

    A stack in a file without images becomes one layer, whose frames are read when looked at.

    Raises
    ------
    PointDefectsError
        If a file cannot be read, or holds neither an image nor a stack.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for p in paths for layer in _read_one(Path(p))]


def _read_one(path: Path) -> list[LayerDataTuple]:
    signals = io.list_signals(path)
    images = [i for i, signal in enumerate(signals) if signal.kind == "image"]
    if not images:
        if any(signal.kind == "stack" for signal in signals):
            return [stack_layer_data(open_stack(path))]
        io.read_image(path)  # says what the file holds instead
    layers, refusals = [], []
    for index in images:
        try:
            image = io.read_image(path, signal=index if len(signals) > 1 else None)
        except PointDefectsError as error:
            refusals.append(error)
            continue
        several = len(images) > 1 and image.signal
        layers.append(image_layer_data(image, f"{image.name} {image.signal}" if several else None))
    if not layers:
        raise refusals[0]
    for error in refusals:
        show_warning(str(error))
    return layers
