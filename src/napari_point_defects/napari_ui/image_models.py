"""The simulated profiles' model of every image, fitted once, in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.inspected_cell import image_of, perfect_cells, pixels_of
from napari_point_defects.napari_ui.lifetime import listen, when_destroyed
from napari_point_defects.napari_ui.links import CellsLink, link_of
from napari_point_defects.napari_ui.run_panel import report_error
from napari_point_defects.napari_ui.tasks import Task
from napari_point_defects.simulation.bond_profiles import BondModel, model_of_image

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Points


@dataclass(slots=True)
class _Fit:
    """A fit that runs or ran, and what it was made from."""

    task: Task
    pixels: Any
    link: CellsLink
    n_perfect: int
    model: BondModel | None = None
    problem: str = ""

    @property
    def is_over(self) -> bool:
        return self.model is not None or bool(self.problem)

    def serves(self, pixels: Any, link: CellsLink) -> bool:
        """Tell whether it was made from this image and these lattices."""
        return (
            self.pixels is pixels
            and self.link.detection.lattice is link.detection.lattice
            and self.link.settings.material == link.settings.material
        )


class ImageModels(QObject):
    """Fits a model to the image behind a layer of cells when it is first asked for.

    Parameters
    ----------
    viewer : napari.Viewer
    parent : QObject
    """

    ready = Signal()
    """A fit is over, well or not."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._fits: dict[tuple[Any, int], _Fit] = {}
        listen(self, self._forget, viewer.layers.events.removed)
        fits = self._fits
        when_destroyed(self, lambda: [fit.task.stop() for fit in fits.values()])

    def model(self, layer: Points, domain: int = 1) -> tuple[BondModel | None, str]:
        """Return the model of a domain of a layer's image, and a line where there is none (yet)."""
        link = link_of(layer, CellsLink)
        try:
            image = image_of(self._viewer.layers, link)
        except PointDefectsError as error:
            return None, str(error)
        pixels, fit = pixels_of(image), self._fits.get((layer.unique_id, domain))
        if fit is None or not fit.serves(pixels, link):
            fit = self._start(layer, link, pixels, domain)
        elif fit.problem and fit.n_perfect != len(perfect_cells(layer, domain)[0]):
            fit = self._start(layer, link, pixels, domain)  # the user has changed what it failed on
        if not fit.is_over:
            return None, "Simulating the profiles of this image …"
        return fit.model, fit.problem

    def _start(self, layer: Points, link: CellsLink, pixels: Any, domain: int) -> _Fit:
        old = self._fits.get((layer.unique_id, domain))
        if old is not None:
            old.task.stop()
        chalcogen, metal = perfect_cells(layer, domain)
        material = get_material(link.settings.material)
        lattice = link.detection.domain_map.lattice_of(domain)

        def work(on_progress: Any, should_stop: Any) -> BondModel:
            return model_of_image(pixels, lattice, chalcogen, metal, material)

        task = Task(f"Simulate the bond profiles of {layer.name}", work)
        fit = self._fits[layer.unique_id, domain] = _Fit(task, pixels, link, len(chalcogen))
        task.start(self._on_finished)
        return fit

    def _on_finished(self) -> None:
        for fit in self._fits.values():
            if fit.is_over:
                continue
            fit.model = fit.task.result
            error = fit.task.error
            if isinstance(error, PointDefectsError):
                fit.problem = f"No simulated profiles: {error}."
            elif error is not None:
                fit.problem = report_error(error)
        self.ready.emit()

    def _forget(self, event: Any = None) -> None:
        """Let go of the images whose cells are gone."""
        there = {layer.unique_id for layer in self._viewer.layers}
        for key in [key for key in self._fits if key[0] not in there]:
            self._fits.pop(key).task.stop()
