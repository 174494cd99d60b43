"""Movies of one sheet whose history is known: vacancies are made, grow, heal and migrate.

The sheet stays, the field of view moves over it: by a drift from frame to frame, a slow turn, and a
bending that goes on during the movie. Dirt lies on the sheet and moves with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from napari_point_defects.materials import LATTICE_VECTORS, DefectClass, get_material
from napari_point_defects.records import Lattice, missing_chalcogens, missing_metals
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.noise import NoiseSettings, add_noise
from napari_point_defects.simulation.scenes import (
    CELL_CHALCOGEN,
    CELL_METAL,
    Scene,
    SceneSettings,
    _superposer,
    lattice_nodes,
)
from napari_point_defects.simulation.superposition import Blur

_DIRT_STEP_A = 0.5
_ROOM = 6  # nodes of the sheet beyond what any frame shows

Event = tuple[int, int, int, int, int]
"""Frame from which on the cell is so, its node (two numbers), class before, class after."""


class MoviePlan(BaseModel):
    """Everything that fixes a simulated movie but its random seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scene: SceneSettings = Field(SceneSettings(), description="Of the first frame")
    noise: NoiseSettings = Field(NoiseSettings(), description="Of every frame")
    frames: int = Field(20, ge=1, description="Number of frames")
    drift_a: float = Field(0.0, ge=0, description="Mean drift from frame to frame [a]")
    wander_a: float = Field(0.0, ge=0, description="Random part of the drift, along each axis [a]")
    turn_deg: float = Field(0.0, description="Turn from frame to frame [°]")
    bend_a: float = Field(0.0, ge=0, description="Amplitude of a slow bending [a]")
    births: float = Field(0.0, ge=0, lt=1, description="Perfect cells losing an atom, per frame")
    metal_share: float = Field(0.2, ge=0, le=1, description="Of these that lose the M atom")
    growth: float = Field(0.0, ge=0, lt=1, description="V_X1 becoming V_X2, per frame")
    healing: float = Field(0.0, ge=0, lt=1, description="V_X1 becoming perfect, per frame")
    hops: float = Field(0.0, ge=0, lt=1, description="V_X1 moving to a neighbour, per frame")


@dataclass(frozen=True, slots=True)
class MovieFrame:
    """One frame and what is in it.

    Attributes
    ----------
    image : ndarray of shape (M, N), uint8 or uint16
    lattice : Lattice
        Without bending; its origin is node (0, 0) of the sheet.
    chalcogen_px, metal_px : ndarray of shape (K, 2)
    nodes : ndarray of shape (K, 2), int
        Of every unit cell in the image, on the sheet.
    classes : ndarray of shape (K,), int
    """

    image: np.ndarray
    lattice: Lattice
    chalcogen_px: np.ndarray
    metal_px: np.ndarray
    nodes: np.ndarray
    classes: np.ndarray


class SimulatedMovie:
    """A sheet's history, seen frame by frame.

    Parameters
    ----------
    plan : MoviePlan
    seed : int

    Attributes
    ----------
    events : list of Event
    classes : ndarray of shape (T, A, B), int
        Of the sheet's cells; cell [i, j] is at node ``low + (i, j)``.
    low : ndarray of shape (2,), int
    """

    def __init__(self, plan: MoviePlan, seed: int) -> None:
        self.plan = plan
        rng = np.random.default_rng([seed, 1])
        self._seed = seed
        scene = plan.scene
        direction = rng.uniform(0, 2 * np.pi)
        steps = plan.drift_a * np.array([np.sin(direction), np.cos(direction)])
        steps = steps + plan.wander_a * rng.normal(size=(plan.frames, 2))
        steps[0] = rng.uniform(-0.5, 0.5, 2)
        moved = np.cumsum(steps, axis=0)
        middle = (np.array([scene.height_px, scene.width_px]) - 1) / 2
        self.lattices = []
        for index in range(plan.frames):
            angle = scene.angle_deg + index * plan.turn_deg
            turned = scene.model_copy(update={"angle_deg": angle}).lattice()
            # the sheet moves; the turn is about the middle of the image
            origin = middle + turned.matrix_px @ moved[index]
            self.lattices.append(Lattice(origin, turned.matrix_px))
        shape = scene.height_px, scene.width_px
        nodes = [_whole(lattice_nodes(each, shape)) for each in self.lattices]
        self.low = np.min([n.min(axis=0) for n in nodes], axis=0) - _ROOM
        size = np.max([n.max(axis=0) for n in nodes], axis=0) - self.low + _ROOM
        self.events: list[Event] = []
        self.classes = self._history(tuple(int(n) for n in size), rng)
        self._phase = rng.uniform(0, 2 * np.pi, 2)
        self._dirt = self._dirt_on(size, rng)

    def __len__(self) -> int:
        return self.plan.frames

    def __iter__(self) -> Iterator[MovieFrame]:
        return (self.frame(index) for index in range(len(self)))

    def frame(self, index: int) -> MovieFrame:
        """Record one frame."""
        scene, lattice = self.plan.scene, self.lattices[index]
        rng = np.random.default_rng([self._seed, 2, index])
        shape = scene.height_px, scene.width_px
        nodes = _whole(lattice_nodes(lattice, shape))
        classes = self.classes[(index, *(nodes - self.low).T)]
        places = nodes @ LATTICE_VECTORS
        chalcogen, metal = (
            self._bent(lattice.to_image(places + site), index)
            for site in (CELL_CHALCOGEN, CELL_METAL)
        )
        superposer = _superposer(
            shape,
            scene.pixel_size_nm,
            get_material(scene.material),
            MicroscopeSettings(),
            Blur(scene.source_fwhm_nm, scene.tail_fraction, scene.tail_fwhm_nm),
            scene.chalcogen_gain,
        )
        jitter = rng.normal(0, scene.jitter_a * scene.a_px, shape[0])
        clean = superposer.render(
            {
                "metal": metal[~missing_metals(classes)],
                "chalcogen_pair": chalcogen[missing_chalcogens(classes) == 0],
                "chalcogen_single": chalcogen[missing_chalcogens(classes) == 1],
            },
            jitter if scene.jitter_a else None,
        )
        brightest = max(superposer.peak["metal"], superposer.peak["chalcogen_pair"])
        if scene.contamination:
            clean = clean + brightest * self._dirt_in(lattice, shape)
        seen = _inside(chalcogen, shape) & _inside(metal, shape)
        record = Scene(
            clean.astype(np.float32),
            lattice,
            chalcogen[seen],
            metal[seen],
            classes[seen],
            np.empty((0, 2)),
            superposer.peak["chalcogen_pair"],
            brightest,
            superposer.volume_px["chalcogen_pair"],
        )
        image = add_noise(record, self.plan.noise, rng)
        return MovieFrame(image, lattice, chalcogen[seen], metal[seen], nodes[seen], classes[seen])

    def stack(self) -> np.ndarray:
        """Return all frames, shape (T, M, N)."""
        return np.stack([frame.image for frame in self])

    def _history(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw what becomes of every cell."""
        plan = self.plan
        rates = np.array(plan.scene.defect_rates)
        state = rng.choice(len(DefectClass), size=size, p=[1 - rates.sum(), *rates]).astype(np.int8)
        history = np.empty((plan.frames, *size), np.int8)
        history[0] = state
        for index in range(1, plan.frames):
            before, state = state, state.copy()
            chance = rng.random(size)
            born = (before == 0) & (chance < plan.births)
            metal = rng.random(size) < plan.metal_share
            state[born] = np.where(metal, DefectClass.V_M, DefectClass.V_X1)[born]
            single = before == DefectClass.V_X1
            state[single & (chance < plan.growth)] = DefectClass.V_X2
            healed = single & (chance >= plan.growth) & (chance < plan.growth + plan.healing)
            state[healed] = DefectClass.PERFECT
            hop = single & (rng.random(size) < plan.hops) & (state == before)
            for i, j in np.argwhere(hop):
                di, dj = _NEIGHBOURS[rng.integers(6)]
                target = (i + di) % size[0], (j + dj) % size[1]
                if before[target] == 0 and state[target] == 0:
                    state[i, j], state[target] = DefectClass.PERFECT, DefectClass.V_X1
            for i, j in np.argwhere(state != before):
                node = self.low + (i, j)
                self.events.append(
                    (index, int(node[0]), int(node[1]), int(before[i, j]), int(state[i, j]))
                )
            history[index] = state
        return history

    def _bent(self, points: np.ndarray, index: int) -> np.ndarray:
        """Bend the image of the sheet, slowly and from frame to frame a little otherwise."""
        plan = self.plan
        if not plan.bend_a:
            return points
        turns = 2 * np.pi * 0.7 * points[..., 0, None] / plan.scene.height_px
        wave = np.sin(turns + self._phase + 0.25 * index)
        return points + plan.bend_a * plan.scene.a_px * wave

    def _dirt_on(self, size: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the dirt on a grid (in a) that holds the sheet, and where the grid begins."""
        scene = self.plan.scene
        corners = np.array([[0, 0], [0, size[1]], [size[0], 0], size]) + self.low
        corners = corners @ LATTICE_VECTORS
        low = corners.min(axis=0)
        grid = np.ceil(np.ptp(corners, axis=0) / _DIRT_STEP_A).astype(int) + 2
        length = scene.contamination_length_nm / get_material(scene.material).lattice_constant_nm
        field = ndimage.gaussian_filter(
            rng.normal(size=grid), length / _DIRT_STEP_A / np.sqrt(2) / 2, mode="wrap"
        )
        field = np.exp(field / field.std() * 0.7)
        return scene.contamination * field / field.mean(), low

    def _dirt_in(self, lattice: Lattice, shape: tuple[int, int]) -> np.ndarray:
        field, low = self._dirt
        pixels = np.stack(np.indices(shape), -1)
        at = (lattice.to_canonical(pixels) - low) / _DIRT_STEP_A
        return ndimage.map_coordinates(field, np.moveaxis(at, -1, 0), order=1, mode="nearest")


_NEIGHBOURS = np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [1, -1], [-1, 1]])


def _whole(places: np.ndarray) -> np.ndarray:
    """Return the nodes of hollows at canonical places."""
    return np.rint(places @ np.linalg.inv(LATTICE_VECTORS)).astype(int)


def _inside(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.all((points >= 0) & (points <= np.array(shape) - 1), axis=-1)
