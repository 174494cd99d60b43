"""Hand new weights to the widgets that use them, and analyse again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.docks import CLASSIFY, DETECT, open_dock
from napari_point_defects.napari_ui.links import HexagonsLink, link_of, own_layer

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image


def use_weights(viewer: Viewer, files: Mapping[str, Path], image: Image | None = None) -> str:
    """Set weights in the widgets that use them, run these again, and say so.

    New hexagons are classified too.

    Parameters
    ----------
    viewer : napari.Viewer
    files : mapping of str to Path
        By network, ``detector`` and ``classifier``: one of them or both.
    image : Image, optional
        Layer to analyse, if it has hexagons; by default the one chosen in those widgets.

    Raises
    ------
    PointDefectsError
        If there is no window, or a widget is at work.
    """
    classify = open_dock(viewer, CLASSIFY)
    detect = open_dock(viewer, DETECT) if "detector" in files else None
    if classify.run.is_running or (detect is not None and detect.run.is_running):
        raise PointDefectsError(f"{DETECT} or {CLASSIFY} is at work: wait for it, or cancel it")
    if "classifier" in files:
        classify.form.set_values({"classifier_weights": files["classifier"]})
    if detect is not None:
        detect.advanced.set_values({"detector_weights": files["detector"]})
    names = " and ".join(files[kind].name for kind in ("detector", "classifier") if kind in files)
    if image is not None:
        hexagons = own_layer(viewer.layers, image.unique_id, HexagonsLink)
        if hexagons is None:
            return f"{names}: set. Run {DETECT}, then {CLASSIFY}."
        classify.hexagons.choose(hexagons)
        if detect is not None:
            detect.images.choose(image)
            material = link_of(hexagons, HexagonsLink).settings.material
            detect.form.set_values({"material": material})
    if detect is None:
        classify.use_weights(files["classifier"])
    else:
        _classify_after(detect, classify)
        detect.use_weights(files["detector"])
    return f"{names}: used from now on."


def _classify_after(detect: Any, classify: Any) -> None:
    """Classify once more when the hexagons have been found anew."""

    def again() -> None:
        detect.run.finished.disconnect(again)
        if classify.hexagons.layer is not None:
            classify.classify()

    detect.run.finished.connect(again)
