"""The profile along the bond, drawn in napari's colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_point_defects.napari_ui.themed_canvas import ThemedCanvas
from napari_point_defects.profile_outputs import draw_profile

if TYPE_CHECKING:
    from napari_point_defects.materials import Material
    from napari_point_defects.profiles import BondProfile, ProfileComparison

_MARGINS = {"left": 0.17, "right": 0.97, "bottom": 0.19, "top": 0.92}


class ProfilePlot(ThemedCanvas):
    """A canvas with one pair of axes.

    Parameters
    ----------
    theme : str
        Name of napari's theme.
    """

    _shown: tuple | None = None

    def add_axes(self) -> None:
        """Lay out one pair of axes."""
        # a layout engine would cost more than all of the drawing
        self.figure.subplots_adjust(**_MARGINS)
        self.axes = self.figure.add_subplot()

    def show_profile(
        self, profile: BondProfile, comparison: ProfileComparison | None, material: Material
    ) -> None:
        """Show a cell's profile beside the simulated ones, as far as they are known."""
        self._shown = (profile, comparison, material)
        self.draw_again()

    def clear(self) -> None:
        """Show nothing."""
        self._shown = None
        self.draw_again()

    def draw_again(self) -> None:
        """Draw the profile, if there is one."""
        self.axes.set_facecolor(self._paper)
        # the axes stay: making their ticks anew would take most of the time of a click
        for artist in (*self.axes.lines, *self.axes.collections, *self.axes.texts):
            artist.remove()
        self.axes.relim()
        self.axes.set_visible(self._shown is not None)
        if self._shown is not None:
            draw_profile(self.axes, *self._shown, ink=self._ink)
        self.draw_idle()
