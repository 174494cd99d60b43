"""Labelled images as networks meet them in training: turned, misjudged and cut to squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_point_defects.records import Lattice


def frame_turn(angle: float, mirror: bool) -> np.ndarray:
    """Return the matrix that turns a canonical frame, shape (2, 2).

    Parameters
    ----------
    angle : float
        In radians; thirds of a turn lead to equivalent frames.
    mirror : bool
        Exchange left and right as well: again an equivalent frame.
    """
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn @ np.diag([1.0, -1.0]) if mirror else turn


def misjudge(
    lattice: Lattice, rng: np.random.Generator, *, matrix_error: float, angle_error: float = 0.0
) -> Lattice:
    """Return one of the six equivalent frames with the errors of a lattice search.

    Parameters
    ----------
    lattice : Lattice
    rng : numpy.random.Generator
    matrix_error : float
        Standard deviation of every element of the strain that the frame is off by.
    angle_error : float
        Standard deviation of the direction, in radians.
    """
    angle = 2 * np.pi / 3 * rng.integers(3)
    if angle_error:
        angle += rng.normal(0, angle_error)
    turn = frame_turn(angle, rng.choice([-1.0, 1.0]) < 0)
    error = np.eye(2) + rng.normal(0, matrix_error, (2, 2))
    return replace(lattice, matrix_px=lattice.matrix_px @ turn @ error)


def square_corner(
    shape: tuple[int, int], side: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Return where in an image a square begins, (y, x): anywhere by chance, else in the middle.

    It begins at 0 where the image is no larger than the square.
    """
    room = np.maximum(np.array(shape) - side, 0)
    return room // 2 if rng is None else rng.integers(0, room + 1)


def cut_square(image: np.ndarray, corner: np.ndarray, side: int, beyond: float = 0.0) -> np.ndarray:
    """Cut a square out of an image, shape (S, S).

    Parameters
    ----------
    image : ndarray of shape (M, N)
    corner : ndarray of shape (2,), int
        See :func:`square_corner`.
    side : int
    beyond : float
        Value of what lies outside the image.
    """
    part = image[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
    square = np.full((side, side), beyond, image.dtype)
    square[: part.shape[0], : part.shape[1]] = part
    return square
