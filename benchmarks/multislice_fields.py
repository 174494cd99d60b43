"""Held-out fields by full abTEM multislice (PRISM): the benchmarks' ground truth.

Never the superposition that makes training images. Each field is a periodic box of about
5 nm of one material with random defects; its clean image is band-limited, so that a scan of
any rotation, magnification, shear and stretch samples it exactly.

    python -m benchmarks.multislice_fields            # make what is missing in benchmarks/fields
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.ndimage import map_coordinates

from napari_point_defects.materials import LATTICE_VECTORS, DefectClass, get_material
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.scenes import CELL_CHALCOGEN, CELL_METAL

FOLDER = Path(__file__).parent / "fields"
BOX = (8, 14)  # box height in √3 a, width in a
STEP_NM = 0.035  # scan step; the image's band limit 2 α/λ asks for 0.039 nm or finer
PHONONS = 3
INTERPOLATION = 4  # PRISM: each probe sees a window of 1.2 nm
STATIC = MicroscopeSettings(thermal_sigma_nm=0.0, phonon_configurations=1)
"""Atoms at rest: what is left of a difference is the superposition's, not the phonons'."""
RATES = (0.06, 0.025, 0.025, 0.015, 0.015)  # V_X1, V_X2, V_M, V_X1+V_M, V_X2+V_M
FIRST_SEED = 9_000_000
PLAN = [("MoTe2", 2), ("MoS2", 1), ("MoSe2", 1), ("WSe2", 1), ("WS2", 1), ("WTe2", 1)]
_FINE = 8  # zero-padding of the spectrum before cubic interpolation


@dataclass(frozen=True)
class Field:
    """One periodic field.

    Attributes
    ----------
    material : str
    clean : ndarray of shape (M, N)
        Detected fraction on the scan's grid, which spans the box once.
    nodes : ndarray of shape (K, 2)
        Hollows (y, x) in units of a, one per unit cell of the box.
    classes : ndarray of shape (K,)
    """

    material: str
    clean: np.ndarray
    nodes: np.ndarray
    classes: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """Height and width of the box in units of a."""
        return np.array([BOX[0] * np.sqrt(3), BOX[1]])

    def sample(self, canonical: np.ndarray, source_fwhm_nm: float) -> np.ndarray:
        """Clean signal at canonical points (..., 2), blurred by the source."""
        a_nm = get_material(self.material).lattice_constant_nm
        n, m = self.clean.shape
        spectrum = fft.fft2(self.clean)
        ky = fft.fftfreq(n, self.box[0] * a_nm / n)[:, None]
        kx = fft.fftfreq(m, self.box[1] * a_nm / m)[None, :]
        sigma = source_fwhm_nm / np.sqrt(8 * np.log(2))
        spectrum = fft.fftshift(spectrum * np.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2)))
        fine = np.zeros((n * _FINE, m * _FINE), complex)
        top, left = (n * _FINE) // 2 - n // 2, (m * _FINE) // 2 - m // 2
        fine[top : top + n, left : left + m] = spectrum
        image = np.real(fft.ifft2(fft.ifftshift(fine))) * _FINE**2
        where = np.moveaxis(canonical / self.box, -1, 0) * np.array([n, m])[:, None, None] * _FINE
        return map_coordinates(image, where, order=3, mode="grid-wrap")


def box_nodes() -> np.ndarray:
    """Hollows of one box, (K, 2), inside [0, height) × [0, width)."""
    rows = np.arange(2 * BOX[0])
    cols = np.arange(BOX[1])
    y = np.repeat(rows * LATTICE_VECTORS[1, 0], len(cols))
    x = (cols[None, :] + 0.5 * (rows[:, None] % 2)).ravel()
    return np.stack([y, x], axis=1)


def simulate_field(material_name: str, seed: int, microscope: MicroscopeSettings) -> Field:
    """Draw defects and run PRISM multislice with frozen phonons on the whole box."""
    import abtem
    from ase import Atoms

    abtem.config.set({"diagnostics.progress_bar": False, "precision": "float32"})
    material = get_material(material_name)
    rng = np.random.default_rng(seed)
    nodes = box_nodes()
    classes = rng.choice(6, size=len(nodes), p=[1 - sum(RATES), *RATES])
    a = material.lattice_constant_nm * 10
    height, width, depth = BOX[0] * np.sqrt(3) * a, BOX[1] * a, 8.0
    half = material.chalcogen_distance_nm * 5
    symbols, positions = [], []
    for node, cls in zip(nodes, classes, strict=True):
        y, x = (node + CELL_CHALCOGEN) * a
        left = [-half, half]
        if cls % 3 == 1:
            left = [rng.choice(left)]
        elif cls % 3 == 2:
            left = []
        symbols += [material.chalcogen] * len(left)
        positions += [(x % width, y % height, depth / 2 + z) for z in left]
        if cls < DefectClass.V_M:
            y, x = (node + CELL_METAL) * a
            symbols.append(material.metal)
            positions.append((x % width, y % height, depth / 2))
    atoms = Atoms(symbols, positions=positions, cell=(width, height, depth), pbc=True)
    phonons = abtem.FrozenPhonons(
        atoms,
        num_configs=PHONONS if microscope.thermal_sigma_nm else 1,
        sigmas=microscope.thermal_sigma_nm * 10,
        seed=seed,
    )
    # Fine enough for the detector's outer angle, and divisible by PRISM's interpolation.
    gpts = tuple(
        INTERPOLATION * fft.next_fast_len(int(np.ceil(side / 0.0495 / INTERPOLATION)))
        for side in (width, height)
    )
    potential = abtem.Potential(phonons, gpts=gpts, slice_thickness=2.0)
    matrix = abtem.SMatrix(
        potential=potential,
        energy=microscope.energy_ev,
        semiangle_cutoff=microscope.semiangle_mrad,
        interpolation=INTERPOLATION,
        store_on_host=False,
    )
    shape = (int(np.ceil(height / 10 / STEP_NM)), int(np.ceil(width / 10 / STEP_NM)))
    scan = abtem.GridScan(
        start=(0, 0), end=(width, height), gpts=(shape[1], shape[0]), endpoint=False
    )
    detector = abtem.AnnularDetector(inner=microscope.inner_mrad, outer=microscope.outer_mrad)
    ctf = abtem.CTF(
        energy=microscope.energy_ev, semiangle_cutoff=microscope.semiangle_mrad, defocus=depth / 2
    )
    signal = matrix.scan(scan=scan, detectors=detector, ctf=ctf).compute().array
    return Field(material_name, np.asarray(signal, np.float32).T, nodes, classes)


def field_path(material: str, index: int | str) -> Path:
    """Where a field is kept."""
    return FOLDER / f"{material}_{index}.npz"


def load_field(material: str, index: int | str) -> Field:
    """Read a field that was made before."""
    with np.load(field_path(material, index), allow_pickle=False) as stored:
        return Field(
            material, stored["clean"].astype(np.float32), stored["nodes"], stored["classes"]
        )


def main() -> None:
    """Make the fields that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    _make("MoTe2", "static", FIRST_SEED, STATIC)
    for number, (material, count) in enumerate(PLAN):
        for index in range(count):
            seed = FIRST_SEED + 100 * number + index + 1
            _make(material, index, seed, MicroscopeSettings())


def _make(material: str, index: int | str, seed: int, microscope: MicroscopeSettings) -> None:
    path = field_path(material, index)
    if path.exists():
        return
    start = time.perf_counter()
    field = simulate_field(material, seed, microscope)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary, clean=field.clean, nodes=field.nodes, classes=field.classes, seed=seed
    )
    temporary.replace(path)
    print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
