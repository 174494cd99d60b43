"""Measure one image: everything that its repeating lattice tells about how it was recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_point_defects.materials import Material
from napari_point_defects.measured import Estimate, Measurement
from napari_point_defects.measurement.clipping import unclipped
from napari_point_defects.measurement.contamination import (
    background_power,
    contamination_level,
    correlation_length,
)
from napari_point_defects.measurement.contrast import contrast_remarks, expected_contrast
from napari_point_defects.measurement.estimates import (
    NOTHING,
    inverse,
    mapped,
    noise_estimates,
    product,
)
from napari_point_defects.measurement.folding import (
    Fold,
    MeanCell,
    choose_window,
    lay_tiles,
    whole_columns,
)
from napari_point_defects.measurement.histograms import (
    Histograms,
    clipped_shares,
    digitiser_step,
    gather,
    in_own_units,
    variance_line,
)
from napari_point_defects.measurement.noise import NoiseFit, fit_noise
from napari_point_defects.measurement.probe import fit_column
from napari_point_defects.measurement.registration import Registration
from napari_point_defects.measurement.scan import (
    RowOffsets,
    measure_distortion,
)
from napari_point_defects.records import Lattice, UnitCells

MOST_PX = 1_000_000
"""Pixels of a large image that are measured: more would not make the answer better."""
_LEAST_CELLS = 25
_BLOCKS = 5  # along each side: how they differ gives the errors
_MOST_OWN = 4.0
"""Times the weight that a pixel has in the background among others, from where it is left out."""


@dataclass(frozen=True, slots=True)
class MeasurementDetails:
    """What stands behind a measurement, to be drawn.

    Attributes
    ----------
    mean_cell : ndarray of shape (T, T)
        Mean cell against fractions of the two lattice vectors: M at 1/3, X₂ at 2/3 of both.
    level, variance, line : ndarray of shape (B,)
        Intensity of each band, variance of its noise, and that of the fitted noise.
    row_px, row_offset_px, row_error_px : ndarray of shape (M,)
        Row of the image, its sideways offset and the error of that; NaN where not known.
    window : ((int, int), (int, int))
        First row and column, and height and width of what was measured.
    """

    mean_cell: np.ndarray
    level: np.ndarray
    variance: np.ndarray
    line: np.ndarray
    row_px: np.ndarray
    row_offset_px: np.ndarray
    row_error_px: np.ndarray
    window: tuple[tuple[int, int], tuple[int, int]]


def measure_image(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    material: Material,
    pixel_size_nm: tuple[float, float],
    *,
    contrast: tuple[float, float] | None = None,
) -> Measurement:
    """Measure noise, probe, scan, contamination and contrast of an image.

    Parameters
    ----------
    data : ndarray of shape (M, N)
        Intensities in any unit; NaN where nothing was recorded.
    lattice : Lattice
    cells : UnitCells
        Classified, or not: then columns that stand out are left out.
    material : Material
    pixel_size_nm : (float, float)
        Height and width of a pixel.
    contrast : (float, float), optional
        Expected range of X₂ over M, where it is known for the microscope.

    Returns
    -------
    Measurement
        With NaN for what the image does not tell, and a remark why. It never raises for an image.
    """
    return measure_in_detail(data, lattice, cells, material, pixel_size_nm, contrast=contrast)[0]


def measure_in_detail(
    data: np.ndarray,
    lattice: Lattice,
    cells: UnitCells,
    material: Material,
    pixel_size_nm: tuple[float, float],
    *,
    contrast: tuple[float, float] | None = None,
) -> tuple[Measurement, MeasurementDetails | None]:
    """Measure an image as :func:`measure_image` does, and return what it rests on, to be drawn."""
    expected = contrast or expected_contrast(material)
    try:
        return _Measuring(data, lattice, cells, pixel_size_nm, expected, material).run()
    except _TooLittle as reason:
        return nothing_measured(expected, str(reason)), None
    except (ArithmeticError, ValueError, IndexError, np.linalg.LinAlgError) as error:
        return nothing_measured(expected, f"the image could not be measured ({error})"), None


def nothing_measured(expected: tuple[float, float], reason: str) -> Measurement:
    """Return a measurement that tells nothing but why."""
    nan = float("nan")
    return Measurement(
        *[NOTHING] * 5, nan, nan, *[NOTHING] * 9, expected_contrast=expected, cells=0,
        remarks=(reason,),
    )  # fmt: skip


class _TooLittle(Exception):
    """The image shows too little to be measured."""


class _Measuring:
    """One measurement under way: its steps share the folded image."""

    def __init__(self, data, lattice, cells, pixel_size_nm, expected, material) -> None:
        self.lattice, self.material, self.expected = lattice, material, expected
        self.pixel_size_nm = tuple(float(s) for s in pixel_size_nm)
        self.remarks: list[str] = []
        self.cell_area_px = lattice.cell_area_px
        rows, cols = choose_window(data.shape, cells.centres_px, lattice.a_px, MOST_PX)
        self.window = ((rows.start, cols.start), (rows.stop - rows.start, cols.stop - cols.start))
        corner = (rows.start, cols.start)
        window, self.shift, self.scale = in_own_units(np.asarray(data[rows, cols]))
        margin = 4 * lattice.a_px
        centres = cells.centres_px - np.array(corner)
        near = np.all((centres > -margin) & (centres < np.array(window.shape) + margin), axis=1)
        cells = cells.take(near)
        tiles = lay_tiles(lattice, cells, whole_columns(cells))
        if tiles is None or not tiles.usable.any():
            raise _TooLittle("no cell lies among others: nothing could be measured")
        values = window[np.isfinite(window)]
        if not len(values) or not values.max() > values.min():
            raise _TooLittle("the image is constant: nothing could be measured")
        self.tiles = tiles
        self.clipped = clipped_shares(values)
        self.step = digitiser_step(values)
        self.fold = Fold(window, lattice, corner, tiles)
        self._check()

    def _check(self) -> None:
        cells = self.fold.valid.sum() / self.cell_area_px
        if cells < _LEAST_CELLS:
            raise _TooLittle(
                f"only {cells:.0f} perfect cells lie among others, and {_LEAST_CELLS} are needed: "
                "nothing could be measured"
            )

    def run(self) -> tuple[Measurement, MeasurementDetails]:
        """Go through all steps."""
        register = Registration(self.fold, self.lattice)
        rows = register.run()
        self.cell, self.slopes = register.cell, register.slopes
        self._check()
        self._flatten()
        histograms = self._histograms()
        noise, line = self._noise(histograms, rows)
        cell = self.cell if noise is None else unclipped(self.cell, histograms, noise)
        self._look_for_dirt()
        found = self._column(cell, rows, noise)
        if noise is not None and found and not self.dirty:
            # clean crystal: what lies below the columns' own level is the black level
            own = found["columns_level"]
            error = np.hypot((own.high - own.low) / 3.92, _EVEN_DIRT * own.value)
            noise = noise.with_offset(float(cell.values[0].real) - own.value, error)
            found = self._column(cell, rows, noise)
        measurement = self._assemble(rows, noise, found, cell)
        height = self.fold.data.shape[0]
        details = MeasurementDetails(
            cell.table() * self.scale + self.shift,
            histograms.mean * self.scale + self.shift,
            line[2] * self.scale**2,
            _fitted_variance(noise, line, histograms) * self.scale**2,
            self.window[0][0] + np.arange(height),
            rows.offset_px,
            rows.error_px,
            self.window,
        )
        return measurement, details

    def _flatten(self) -> None:
        """Find the expected intensity of each pixel: the mean cell and the background."""
        fold = self.fold
        valid = self.valid = fold.valid & (fold.own < _MOST_OWN)
        level = self.slopes.level[fold.cell[valid]]
        self.values = fold.data[valid]
        self.residual = self.values - level
        # a pixel's own value would hide part of its noise
        own = fold.own[valid] * fold.least_own
        background = (fold.background[valid] - own * self.residual) / (1 - own)
        self.expected_level = level + background
        height, width = valid.shape
        rows, cols = np.nonzero(self.valid)
        self.blocks = (rows * _BLOCKS // height) * _BLOCKS + cols * _BLOCKS // width

    def _histograms(self) -> Histograms:
        off = self.values - self.expected_level
        slope = self.slopes.along_x[self.fold.cell[self.valid]] ** 2
        found = gather(self.values, self.expected_level, slope, self.blocks, float(off.std()))
        if found is None:
            raise _TooLittle("the cell shows too few levels: nothing could be measured")
        return found

    def _noise(self, histograms: Histograms, rows: RowOffsets):
        # each row was put in place by its own noise, which took that share of it away
        extra = -rows.left_over() * histograms.slope
        line = variance_line(histograms, extra)
        noise = fit_noise(histograms, extra)
        if noise is None:
            self.remarks.append(
                "the noise does not grow with the signal: no counts could be measured"
            )
        self._remark_on_correlation()
        if max(self.clipped) > 0.001:
            end = "lowest" if self.clipped[0] > self.clipped[1] else "highest"
            self.remarks.append(
                f"{max(self.clipped):.1%} of the pixels are clipped at the {end} value"
            )
        return noise, line

    def _remark_on_correlation(self) -> None:
        """Say so where neighbouring pixels share noise: they hold fewer counts than it seems."""
        image = np.zeros(self.valid.shape, np.float32)
        image[self.valid] = self.values - self.expected_level
        power = float((image[self.valid] ** 2).mean())
        shared = []
        for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
            both = self.valid[one] & self.valid[other]
            shared.append(float((image[one] * image[other])[both].mean()) / max(power, 1e-30))
        self.shared = tuple(shared)
        if max(np.abs(shared)) > 0.1:
            self.remarks.append(
                f"the noise of neighbouring pixels is correlated ({shared[0]:+.2f} along rows, "
                f"{shared[1]:+.2f} across): the image was resampled or filtered, so counts and "
                "read noise are those of uncorrelated noise as strong in one pixel"
            )

    def _column(
        self, cell: MeanCell, rows: RowOffsets, noise: NoiseFit | None
    ) -> dict[str, Estimate]:
        """Measure the image of one column: widths, brightness, contrast."""
        fold = self.fold
        level = None
        if noise is not None and not self.dirty:
            above = float(cell.values[0].real) - noise.offset
            level = (above, float(np.hypot(np.sqrt(noise.covariance[1, 1]), _EVEN_DIRT * above)))
        spread = fold.spread_of(cell, self.valid, self.residual, self.blocks)
        error = np.sqrt((np.abs(spread) ** 2).sum(axis=0))
        low, high = self.expected
        column = fit_column(
            cell,
            error,
            self.pixel_size_nm,
            self.cell_area_px,
            expected_ratio=float(np.sqrt(low * high)),
            level=level,
        )
        if column is None:
            self.remarks.append("the columns stand out too little for their image to be measured")
            return {}
        found = column.estimates(spread)
        # rows that could not be put in place widen the mean column along x
        wider = 8 * np.log(2) * rows.left_over() * self.pixel_size_nm[1] ** 2 / 2
        width = found["fwhm_nm"]
        factor = np.sqrt(max(1 - wider / width.value**2, 0.25))
        found["fwhm_nm"] = Estimate(*(factor * v for v in (width.value, width.low, width.high)))
        return found

    def _assemble(
        self,
        rows: RowOffsets,
        noise: NoiseFit | None,
        found: dict[str, Estimate],
        cell: MeanCell,
    ) -> Measurement:
        gain, offset, read = noise_estimates(noise, self.step)
        per_level = inverse(gain)
        ratio = found.get("ratio", NOTHING)
        dirt, length = self._contamination(found, offset, cell)
        shear, stretch = self._distortion()
        self.remarks += contrast_remarks(ratio, self.expected, self.material)
        return Measurement(
            counts_per_level=mapped(per_level, 1 / self.scale),
            poisson_lambda=product(found.get("x2_peak", NOTHING), per_level),
            column_counts=product(found.get("x2_volume", NOTHING), per_level),
            read_noise=mapped(read, self.scale),
            offset=mapped(offset, self.scale, self.shift),
            clipped_low=self.clipped[0],
            clipped_high=self.clipped[1],
            probe_fwhm_nm=found.get("fwhm_nm", NOTHING),
            tail_fraction=found.get("tail", NOTHING),
            tail_fwhm_nm=found.get("tail_fwhm_nm", NOTHING),
            jitter_px=rows.jitter_px,
            shear=shear,
            stretch=stretch,
            contamination=dirt,
            contamination_length_nm=length,
            contrast_ratio=ratio,
            expected_contrast=self.expected,
            cells=round(self.valid.sum() / self.cell_area_px),
            remarks=tuple(self.remarks),
        )

    def _look_for_dirt(self) -> None:
        """Average the background over each tile, and tell whether it is uneven beyond noise."""
        fold = self.fold
        self.tile_weight = fold.tile_sums(np.ones(len(self.residual), np.float32), self.valid)
        total = fold.tile_sums(self.residual, self.valid)
        self.tile_level = total / np.maximum(self.tile_weight, 1)
        noise = float(np.mean((self.values - self.expected_level) ** 2))
        self.tile_power = background_power(self.tile_level, self.tile_weight, noise)
        contrast = float(np.ptp(self.slopes.level))
        seen = self.tile_power[0] > 4 * self.tile_power[1]
        self.dirty = bool(seen and self.tile_power[0] > (_LEAST_DIRT * contrast) ** 2)

    def _contamination(self, found, offset: Estimate, cell: MeanCell):
        if not found:
            return NOTHING, NOTHING
        own = found["columns_level"]
        between = float(cell.values[0].real)
        half = 0.5 * np.hypot(offset.high - offset.low, own.high - own.low)
        absolute = between - offset.value - own.value
        dirt = contamination_level(
            self.tile_level,
            self.tile_weight,
            self.tile_power,
            self.dirty,
            Estimate(absolute, absolute - half, absolute + half),
        )
        peak = max(found["x2_peak"].value, found["m_peak"].value)
        scaled = Estimate(*(v / peak for v in (dirt.value, dirt.low, dirt.high)))
        if not self.dirty:
            return scaled, NOTHING
        noise = float(np.mean((self.values - self.expected_level) ** 2))
        length = correlation_length(self.tile_level, self.tile_weight, noise, self.tile_power[0])
        a_nm = self.lattice.a_px * float(np.sqrt(np.prod(self.pixel_size_nm)))
        return scaled, Estimate(*(v * a_nm for v in (length.value, length.low, length.high)))

    def _distortion(self) -> tuple[Estimate, Estimate]:
        variance = float(np.mean((self.values - self.expected_level) ** 2))
        information = float(np.mean(self.slopes.along_x**2)) * self.cell_area_px
        noise_px = float(np.sqrt(variance / max(information, 1e-30)))
        return measure_distortion(
            self.lattice, self.fold.displacement_px, self.tiles.usable, noise_px
        )


_LEAST_DIRT = 0.01
"""Unevenness of the background, share of the cell's contrast, below which it is none."""
_EVEN_DIRT = 0.01
"""Share of the columns' level that dirt may add without showing any unevenness."""


def _fitted_variance(noise: NoiseFit | None, line, histograms: Histograms) -> np.ndarray:
    if noise is None:
        return line[1] + line[0] * histograms.mean
    return noise.gain * (histograms.mean - noise.offset) + noise.variance
