"""The slowly varying background: what lies on the crystal, apart from the columns and the noise.

It is a local plane, fitted by least squares under a window about as wide as a cell (Fan & Gijbels,
*Local Polynomial Modelling*, 1996, ch. 3). A local mean would be pulled to one side wherever the
pixels lie to one side, as around a defect, and that error would pass for noise.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

_WIDTH_A = 0.35
"""Standard deviation of the window, in units of a: the columns themselves must not show."""
_RIDGE = 0.02
"""Share of a full window's pixels that always speak for no slope: few do not tell one."""


def local_background(
    residual: np.ndarray, valid: np.ndarray, a_px: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the background and how much of it each pixel's own value makes up.

    Parameters
    ----------
    residual : ndarray of shape (M, N)
        Image less its columns, 0 where not valid.
    valid : ndarray of shape (M, N), bool
    a_px : float
        Lattice constant.

    Returns
    -------
    background : ndarray of shape (M, N), float32
    own : ndarray of shape (M, N), float32
        Weight of a pixel's own value in it, in units of ``least``.
    least : float
        What that weight is where all pixels around are valid.
    """
    sigma = _WIDTH_A * a_px
    step = max(1, round(sigma / 2))
    side = 2 * round((np.sqrt(6 * (sigma / step) ** 2 + 1) - 1) / 2) + 1
    number, total = _in_steps(valid, step), _in_steps(residual, step)
    y, x = (np.arange(n, dtype=float) / side for n in number.shape)
    y = y[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        return twice_averaged(values, side) / step**2

    n, n_y, n_x = mean(number), mean(number * y), mean(number * x)
    safe = np.maximum(n, 1e-3)
    middle_y, middle_x = n_y / safe, n_x / safe
    ridge = _RIDGE / 6
    yy = mean(number * y * y) - n_y * middle_y + ridge
    xx = mean(number * x * x) - n_x * middle_x + ridge
    yx = mean(number * y * x) - n_y * middle_x
    level = mean(total) / safe
    t_y = mean(total * y) - level * n_y
    t_x = mean(total * x) - level * n_x
    off_y, off_x = y - middle_y, x - middle_x
    size = xx * yy - yx * yx
    along_y, along_x = (xx * off_y - yx * off_x) / size, (yy * off_x - yx * off_y) / size
    plane = level + along_y * t_y + along_x * t_x
    own = 1 / safe + along_y * off_y + along_x * off_x
    shape = residual.shape
    least = 1 / (side * step) ** 2
    return _at_pixels(plane, shape, step), _at_pixels(own, shape, step), least


def twice_averaged(image: np.ndarray, side: int) -> np.ndarray:
    """Return the running mean of a running mean: nearly a Gaussian, and fast at any width."""
    once = uniform_filter(image, side, mode="constant")
    return uniform_filter(once, side, mode="constant")


def _in_steps(image: np.ndarray, step: int) -> np.ndarray:
    """Sum the image over squares of ``step`` pixels."""
    rows, cols = (np.arange(0, n, step) for n in image.shape)
    return np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=float), cols, axis=1)


def _at_pixels(coarse: np.ndarray, shape: tuple[int, int], step: int) -> np.ndarray:
    """Interpolate linearly between the middles of the squares."""
    fine = coarse.astype(np.float32)
    for axis, length in enumerate(shape):
        where = (np.arange(length) + 0.5) / step - 0.5
        low = np.clip(where.astype(int), 0, max(fine.shape[axis] - 2, 0))
        part = np.clip(where - low, 0, 1).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        high = np.minimum(low + 1, fine.shape[axis] - 1)
        fine = (1 - part) * fine.take(low, axis) + part * fine.take(high, axis)
    return fine
