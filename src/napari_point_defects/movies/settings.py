"""How a movie is analysed: the command line's options and the panel's fields."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from napari_point_defects.errors import PointDefectsError

ELECTRONS_PER_PA_US = 1e-18 / 1.602176634e-19
"""Electrons in a picoampere during a microsecond: 6.24."""


class MovieSettings(BaseModel):
    """Everything that the user chooses for a movie beside the analysis of its frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dose_per_frame_e_nm2: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="Dose per frame",
        description="Electrons [e/nm²] that one frame takes; none where it is not known, or to "
        "work it out from beam current and dwell time",
    )
    beam_current_pa: float | None = Field(
        None, gt=0, allow_inf_nan=False, title="Beam current", description="Of the probe [pA]"
    )
    dwell_us: float | None = Field(
        None, gt=0, allow_inf_nan=False, title="Dwell time", description="At each pixel [µs]"
    )
    frame_time_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="Time per frame",
        description="From one frame to the next [s], in place of the file's",
    )
    largest_drift_a: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        title="Largest drift",
        description="What the sheet moves at most from a frame to the next, in lattice constants "
        "[a]; below 0.5 the lattice alone tells the offset. None if it may be any",
    )
    least_link: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        title="Surest links",
        description="Frames whose offset is less probable than this are not linked",
    )
    misjudged: float = Field(
        0.01,
        gt=0,
        le=0.2,
        title="Misjudged",
        description="Share of looks at a cell that may be wrong however sure they are: no single "
        "frame makes or heals a vacancy",
    )

    def check_dose(self) -> None:
        """Refuse half a dose, or two, before any work.

        Raises
        ------
        PointDefectsError
            If only one of current and dwell time is given, or the dose is given beside them.
        """
        one, other = self.beam_current_pa, self.dwell_us
        if self.dose_per_frame_e_nm2 is not None and (one is not None or other is not None):
            raise PointDefectsError(
                "give the dose per frame, or beam current and dwell time, not both"
            )
        if (one is None) != (other is None):
            raise PointDefectsError("a dose needs both the beam current and the dwell time")

    def dose_e_nm2(self, pixel_size_nm: tuple[float, float]) -> float | None:
        """Return the dose per frame [e/nm²], given or from current, dwell time and pixel size.

        Raises
        ------
        PointDefectsError
            As :meth:`check_dose`.
        """
        self.check_dose()
        one, other = self.beam_current_pa, self.dwell_us
        if one is None:
            return self.dose_per_frame_e_nm2
        height, width = pixel_size_nm
        return ELECTRONS_PER_PA_US * one * other / (height * width)
