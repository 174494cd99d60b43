"""Run CNN-2 over the unit cells of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from napari_point_defects.canonical import neighbourhoods
from napari_point_defects.classification.calibration import ProbabilityCalibration, noise_of_inputs
from napari_point_defects.classification.crops import (
    MOST_AVERAGED,
    cut_windows,
    reference_of_windows,
    reference_window,
)
from napari_point_defects.classification.inference import for_prediction
from napari_point_defects.classification.model import (
    ClassifierSettings,
    build_classifier,
    cell_inputs,
    inputs_of_windows,
)
from napari_point_defects.devices import choose_device, has_fast_bfloat16
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import DefectClass
from napari_point_defects.netcasting import ALPHA, BETA
from napari_point_defects.occupancy.evidence import ColumnEvidence
from napari_point_defects.records import Lattice, UnitCells
from napari_point_defects.weights import Weights, load_weights

_BATCH = 128
_TOGETHER = 2048  # cells whose inputs are cut at once: some 250 MB
_COUNTS_SHARE = 0.3  # of the work goes into what the counts say


@dataclass(frozen=True, slots=True)
class Reference:
    """What all cells of an image, or of one of its domains, are judged against.

    Attributes
    ----------
    window : ndarray of shape (2, 48, 48)
        Mean window and its noise, from :func:`~.crops.reference_window`.
    columns : ColumnEvidence or None
        The columns' images, learned; None where the weights take no evidence.
    """

    window: np.ndarray
    columns: ColumnEvidence | None


class Classifier:
    """CNN-2 with its weights, ready to predict.

    Parameters
    ----------
    weights : Path, optional
        Default: the shipped ones.
    device : str

    Raises
    ------
    PointDefectsError
        If the weights cannot be used.
    """

    def __init__(self, weights: Path | None = None, device: str = "auto") -> None:
        self.weights: Weights = load_weights("classifier", weights)
        self.device = choose_device(device)
        try:
            self.settings = ClassifierSettings.model_validate(self.weights.card["settings"])
            self.calibration = ProbabilityCalibration.from_card(self.weights.card["metrics"])
            network = build_classifier(self.settings)
            network.load_state_dict(self.weights.tensors)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise PointDefectsError(
                f"{self.weights.path} does not fit this program's classifier; train it again"
            ) from error
        if self.device.type == "cpu":
            # single precision: so arranged it is faster than bfloat16, and the same everywhere
            self.network = for_prediction(network, self.settings.side)
        else:
            self.network = network.to(self.device, memory_format=torch.channels_last).eval()

    def reference(
        self,
        data: np.ndarray,
        lattice: Lattice,
        cells: UnitCells,
        *,
        windows: np.ndarray | None = None,
    ) -> Reference | None:
        """Return what all cells of an image are judged against; None where each stands alone.

        Worth keeping where cells of one image are classified bit by bit. ``windows`` are the
        cells' own, where they are cut already.
        """
        if self.settings.crop != "window" or not len(cells):
            return None
        uses_counts = self.calibration.evidence is not None
        columns = ColumnEvidence(data, lattice, cells) if uses_counts else None
        if windows is None:
            window = reference_window(data, lattice, cells, noise=self.settings.noise)
        else:
            window = reference_of_windows(windows, noise=self.settings.noise)
        return Reference(window, columns)

    def predict(
        self,
        data: np.ndarray,
        lattice: Lattice,
        cells: UnitCells,
        *,
        rows: np.ndarray | None = None,
        reference: Reference | None = None,
        beside: UnitCells | None = None,
        alpha: float = ALPHA,
        beta: float = BETA,
        on_progress: Callable[[float, str], None] = lambda share, text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> UnitCells:
        """Return the cells with class probabilities.

        The wide window is cut once, at the mean of the cell's two votes; the paper's crop is
        cut as either hexagon would, and the two probabilities are averaged.

        Parameters
        ----------
        data : ndarray of shape (M, N)
            NaN where nothing was recorded.
        lattice : Lattice
        cells : UnitCells
            All cells of the image: each is judged against their mean.
        rows : ndarray of bool or int, optional
            Which cells to classify; the others keep their probabilities.
        reference : Reference, optional
            From :meth:`reference`, in place of the mean of these cells.
        beside : UnitCells, optional
            More cells that are known to be there: their columns shine into these.
        alpha, beta : float
            Size of the paper's crop.
        on_progress, should_stop : callable

        Returns
        -------
        UnitCells

        Raises
        ------
        Stopped
            If ``should_stop`` said yes.
        """
        windows = None
        if rows is None:
            rows = np.arange(len(cells))
        if reference is None:
            if self.settings.crop == "window" and 0 < len(cells) <= MOST_AVERAGED:
                windows = cut_windows(data, lattice, cells)  # serve the mean and the network
            reference = self.reference(data, lattice, cells, windows=windows)
            windows = None if windows is None else windows[rows]
        chosen = cells.take(rows)
        found = np.zeros((len(chosen), len(DefectClass)))
        cuts = (True,) if self.settings.crop == "window" else (True, False)
        said, against, before = None, np.zeros(2), 0.0
        if reference is not None and reference.columns is not None:
            before = _COUNTS_SHARE
            around = [cells] if len(chosen) < len(cells) else []
            around += [beside] if beside is not None else []
            said = reference.columns.of(
                data,
                lattice,
                chosen,
                UnitCells.joined(around) if around else None,
                on_progress=lambda share: on_progress(before * share, "what the counts say"),
                should_stop=should_stop,
            )
            against = reference.columns.reservations
        window = None if reference is None else reference.window
        done, total = 0, len(cuts) * len(chosen)
        # neighbours together, so that the inputs of a few thousand cells are held at a time
        for group in neighbourhoods(chosen.centres_px, most=_TOGETHER):
            for upper in cuts:
                if windows is not None:
                    inputs = inputs_of_windows(windows[group], self.settings, window)
                else:
                    inputs = cell_inputs(
                        data,
                        lattice,
                        chosen.take(group),
                        self.settings,
                        upper=upper,
                        alpha=alpha,
                        beta=beta,
                        reference=window,
                    )
                for start in range(0, len(inputs), _BATCH):
                    if should_stop():
                        raise Stopped
                    block = slice(start, start + _BATCH)
                    counts = None if said is None else said[group[block]]
                    likely = self._probabilities(inputs[block], counts, against)
                    found[group[block]] += likely / len(cuts)
                    done += len(inputs[block])
                    share = before + (1 - before) * done / total
                    on_progress(share, f"{done / total:.0%} of {len(chosen)} cells")
        probabilities = np.array(cells.probabilities, float)
        probabilities[rows] = found
        return replace(cells, probabilities=probabilities)

    def _probabilities(
        self, inputs: torch.Tensor, evidence: np.ndarray | None, reservations: np.ndarray
    ) -> np.ndarray:
        batch = inputs.to(self.device, memory_format=torch.channels_last)
        half = self.device.type == "cuda" and has_fast_bfloat16(self.device)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=half),
        ):
            logits = self.network(batch).double().cpu()
        noise = noise_of_inputs(inputs.numpy()) if self.settings.crop == "window" else None
        return self.calibration.probabilities(logits.numpy(), noise, evidence, reservations)
