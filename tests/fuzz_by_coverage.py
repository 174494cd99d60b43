"""Fuzz one kind of file by coverage, with Atheris (``pip install atheris``; no part of the tests).

What follows the target's name are libFuzzer's options::

    python tests/fuzz_by_coverage.py .dm3 -max_total_time=300
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import warnings
from importlib import import_module
from pathlib import Path

import atheris

_WATCHED = ["napari_point_defects", "rsciio", "tifffile", "fuzz_targets"]
_READERS = ("digitalmicrograph", "emd", "hspy", "mrc", "tia", "tiff")

with atheris.instrument_imports(include=_WATCHED):
    from fuzz_targets import TARGETS

    for reader in _READERS:
        import_module(f"rsciio.{reader}")


def main() -> None:
    """Fuzz until the time is over or something is wrong; the culprit is then in a file."""
    warnings.simplefilter("ignore")
    logging.disable()
    target = TARGETS[sys.argv[1]]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for i, seed in enumerate(target.seeds):
        (corpus / str(i)).write_bytes(seed)

    def once(content: bytes) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            target(content, folder)
        finally:
            shutil.rmtree(folder)

    longest = 2 * max(map(len, target.seeds))
    options = [f"-max_len={longest}", "-timeout=30", "-rss_limit_mb=4000"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:], str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
