"""The plugin's widgets, reader and samples: everything that imports napari, magicgui or Qt."""

import sys

if sys.platform == "linux":
    # CUDA builds of torch load Triton, which brings its own LLVM. Loaded after the one that
    # Mesa's software OpenGL uses, it crashes the interpreter. Nothing here compiles with it.
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
