"""The domains of an image, and where they are, as JSON knows them."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_point_defects.analysed_area import AREA_NAMES, FIRST_CODE, AnalysedArea, Domain
from napari_point_defects.bending_fields import bending_fields, bending_of
from napari_point_defects.records import Lattice


def lattice_fields(lattice: Lattice) -> dict[str, Any]:
    """Return a lattice as JSON knows it."""
    return {
        "origin": np.asarray(lattice.origin_px, float).tolist(),
        "matrix": np.asarray(lattice.matrix_px, float).tolist(),
        "quality": float(lattice.quality),
        "sublattice_confidence": float(lattice.sublattice_confidence),
        **({} if lattice.bending is None else {"bending": bending_fields(lattice.bending)}),
    }


def lattice_of(fields: dict[str, Any]) -> Lattice:
    """Make a lattice of what :func:`lattice_fields` returned.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is not as it must be.
    """
    lattice = Lattice(
        _finite(fields["origin"], (2,)),
        _finite(fields["matrix"], (2, 2)),
        float(_finite(fields["quality"], ())),
        float(_finite(fields["sublattice_confidence"], ())),
        bending_of(fields.get("bending")),
    )
    if not abs(np.linalg.det(lattice.matrix_px)) > 0:
        raise ValueError("the lattice has no area")
    return lattice


def domain_fields(domains: Sequence[Domain], area: AnalysedArea | None) -> dict[str, Any] | None:
    """Return the domains of an image as JSON knows them; None where nothing is to be said.

    The lattice of the first is the image's own and is not repeated.
    """
    if area is None or not domains:
        return None
    if len(domains) == 1 and (area.labels == domains[0].number).all():
        return None
    labels = np.ascontiguousarray(area.labels, np.uint8)
    return {
        "domains": [
            {
                "number": int(domain.number),
                "twin_of": int(domain.twin_of),
                "lattice": lattice_fields(domain.lattice) if i else None,
            }
            for i, domain in enumerate(domains)
        ],
        "step": int(area.step_px),
        "labels_shape": [int(n) for n in labels.shape],
        "labels": base64.b64encode(zlib.compress(labels.tobytes())).decode(),
    }


def domains_of(
    fields: dict[str, Any] | None, lattice: Lattice, shape: tuple[int, int]
) -> tuple[tuple[Domain, ...], AnalysedArea | None]:
    """Make domains and area of what :func:`domain_fields` returned.

    Parameters
    ----------
    fields : dict or None
    lattice : Lattice
        Of the image: the first domain's.
    shape : (int, int)
        Of the image.

    Raises
    ------
    KeyError, TypeError, ValueError
        If they are not as they must be.
    """
    if fields is None:
        return (), None
    domains = tuple(
        Domain(
            int(each["number"]),
            lattice_of(each["lattice"]) if i else lattice,
            int(each["twin_of"]),
        )
        for i, each in enumerate(fields["domains"])
    )
    numbers = [domain.number for domain in domains]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError("the domains' numbers must differ")
    if not all(0 < number < FIRST_CODE for number in numbers):
        raise ValueError(f"a domain's number must be from 1 to {FIRST_CODE - 1}")
    step = int(fields["step"])
    size = tuple(int(n) for n in fields["labels_shape"])
    if step < 1 or size != tuple(-(-n // step) for n in shape):
        raise ValueError("the map of the analysed area does not fit the image")
    count = size[0] * size[1]
    try:
        # no more than fits: a few bytes could otherwise fill the memory
        packed = base64.b64decode(fields["labels"], validate=True)
        unpacking = zlib.decompressobj()
        raw = unpacking.decompress(packed, count + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the map of the analysed area is damaged ({error})") from error
    if len(raw) != count or not unpacking.eof:
        raise ValueError("the map of the analysed area is damaged")
    labels = np.frombuffer(raw, np.uint8).reshape(size)
    if not np.isin(labels, [*numbers, *AREA_NAMES]).all():
        raise ValueError("the map of the analysed area shows unknown domains")
    return domains, AnalysedArea(labels, step, (int(shape[0]), int(shape[1])))


def _finite(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(value, float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{str(value)[:40]!r} is no finite number")
    return array
