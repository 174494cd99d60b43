"""Shipped weights and their model cards; loading checks the hash and never unpickles.

Weights are a safetensors file; beside it, under the same name, a JSON model card says what it
is, what it was trained on, how well it does, and the sha256 of the weights. The names of the
files are known without PyTorch, which takes seconds to import.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_point_defects import __version__
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import brief, read_json
from napari_point_defects.materials import DefectClass

if TYPE_CHECKING:
    import torch

SHIPPED = {
    "detector": Path(__file__).parent / "detector-compact.safetensors",
    "classifier": Path(__file__).parent / "classifier-compact.safetensors",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors and the card that describes them."""

    tensors: dict[str, torch.Tensor]
    card: dict[str, Any]
    path: Path

    @property
    def version(self) -> str:
        """Name and first digits of the hash: what a census records."""
        return version_of(self.path, self.card)


def version_of(path: Path, card: dict[str, Any]) -> str:
    """Return the version of weights from where they lie and what their card says.

    Raises
    ------
    KeyError, TypeError
        If it is no card.
    """
    return f"{path.stem}@{card['sha256'][:12]}"


def save_weights(
    path: Path,
    tensors: dict[str, torch.Tensor],
    *,
    kind: str,
    settings: dict,
    training_set: dict,
    metrics: dict,
    started_from: str | None = None,
    training_range: dict | None = None,
) -> None:
    """Write weights in half precision and their model card.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors``; the card goes beside it with ``.json``.
    tensors : dict of Tensor
    kind : {"detector", "classifier"}
    settings : dict
        The network's settings, preset included.
    training_set : dict
        The training set's settings, seed included.
    metrics : dict
    started_from : str, optional
        Version of the weights that training began with.
    training_range : dict, optional
        What the training set showed, in the terms in which an image is measured.

    Raises
    ------
    PointDefectsError
        If they cannot be written; former ones of that name stay as they are.
    """
    from safetensors.torch import save

    from napari_point_defects.outputs import write_together  # here: it imports Pillow

    half = {
        name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in tensors.items()
    }
    content = save(half)
    card = {
        "kind": kind,
        "program": __version__,
        "classes": [c.name for c in DefectClass] if kind == "classifier" else ["hexagon"],
        "settings": settings,
        **({"started_from": started_from} if started_from else {}),
        "training_set": training_set,
        **({"training_range": training_range} if training_range else {}),
        "metrics": metrics,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    # together: on a full disk former weights must not be left with the card of others
    targets = {"weights": path, "card": path.with_suffix(".json")}
    with write_together(targets, overwrite=True) as temporary:
        temporary["weights"].write_bytes(content)
        temporary["card"].write_bytes((json.dumps(card, indent=2) + "\n").encode())


def load_weights(kind: str, path: Path | None = None) -> Weights:
    """Read weights after checking them against their model card.

    Parameters
    ----------
    kind : {"detector", "classifier"}
    path : Path, optional
        Default: the shipped ones.

    Returns
    -------
    Weights
        Tensors in single precision.

    Raises
    ------
    PointDefectsError
        If a file is missing or broken, the hash is wrong, or they are of another kind.
    """
    path = Path(path) if path is not None else SHIPPED[kind]
    card_path = path.with_suffix(".json")
    try:
        content = path.read_bytes()
        card = read_json(card_path)
        found, expected = hashlib.sha256(content).hexdigest(), card["sha256"]
        card_kind, _ = str(card["kind"]), card["settings"]
    except OSError as error:
        raise PointDefectsError(
            f"cannot read the weights {error.filename}: give a .safetensors file that has its "
            "model card (.json) beside it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PointDefectsError(f"{card_path} is not a model card: {brief(error)}") from error
    if found != expected:
        raise PointDefectsError(
            f"{path} does not match the hash in its model card: get both files again"
        )
    if card_kind != kind:
        raise PointDefectsError(f"{path} holds a {card_kind[:40]}, not a {kind}")
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise PointDefectsError(f"{path} is not a safetensors file: {brief(error)}") from error
    single = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    return Weights(single, card, path)
