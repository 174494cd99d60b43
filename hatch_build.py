"""Put the top-level manifest and samples where npe2 and napari look: in the package's folder.

A wheel gets copies of ``napari.yaml`` and ``sample_data``. An editable install runs from ``src``,
so there both are linked into the package's folder; the links are git-ignored. Where the system
refuses links (Windows without developer mode) they are copied: install again after changing them.
"""

import shutil
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "napari_point_defects"
SHARED = ("napari.yaml", "sample_data")


class ShareTopLevelFiles(BuildHookInterface):
    """Include, link or copy the shared files."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Run before a build; ``version`` is ``"editable"`` or ``"standard"``."""
        root = Path(self.root)
        if version == "editable":
            for name in SHARED:
                _link_or_copy(root / name, root / "src" / PACKAGE / name)
        else:
            build_data["force_include"].update(
                {str(root / name): f"{PACKAGE}/{name}" for name in SHARED}
            )


def _link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a relative link to ``source``, or a copy of it."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    try:
        target.symlink_to(Path("..", "..", source.name), target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
