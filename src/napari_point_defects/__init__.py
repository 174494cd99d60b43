"""Count the point defects in atomic-resolution HAADF-STEM images of 2H-MX₂ monolayers."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("napari-point-defects")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"
