"""What the scripts beside this one share: let the window live, wait for it, picture it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication

PLUGIN = "napari-point-defects"
IMAGES = Path(__file__).parent / "images"
_GREY_STEP = 16
_TIMEOUT_S = 900


def let_pass(seconds: float) -> None:
    """Let the window work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def wait_for(ready: Callable[[], bool]) -> None:
    """Let the window work until something is ready; end the program if it takes too long."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not ready():
        if time.monotonic() > deadline:
            sys.exit(f"not ready after {_TIMEOUT_S} s")
        let_pass(0.1)


def picture(viewer: napari.Viewer, name: str) -> None:
    """Write the window in few colours: noise makes a large file, and few greys are enough."""
    let_pass(1)
    pixels = viewer.screenshot(canvas_only=False, flash=False)[..., :3].copy()
    grey = np.ptp(pixels, axis=-1) == 0
    pixels[grey] = pixels[grey] // _GREY_STEP * _GREY_STEP
    # the most frequent colours as they are: a mean of rare ones would be none of the legend's
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[np.argsort(-counts)[:256]].tobytes())
    few = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    IMAGES.mkdir(exist_ok=True)
    few.save(IMAGES / name, optimize=True)
    size = (IMAGES / name).stat().st_size
    print(f"{name}: {few.width} × {few.height}, {size / 1000:.0f} kB", flush=True)
