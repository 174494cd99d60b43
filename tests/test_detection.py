"""CNN-1: its training data, both presets, training, and the seams of its tiles."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import maximum_filter
from torchvision.models import mobilenet_v2
from torchvision.ops import nms

from napari_point_defects.canonical import CanonicalImage
from napari_point_defects.detection import prediction
from napari_point_defects.detection.data import FRAME_ERRORS, HexagonDataset, collate
from napari_point_defects.detection.model import (
    DETECTOR_PRESETS,
    DetectorSettings,
    build_detector,
    input_channels,
)
from napari_point_defects.detection.overlaps import without_doubles
from napari_point_defects.detection.prediction import Detector
from napari_point_defects.detection.training import DetectorModule, match_boxes, train_detector
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.fitting import FitSettings
from napari_point_defects.materials import (
    CELL_FROM_CHALCOGEN,
    CELL_SIZE,
    CHALCOGEN_SITES,
    HEXAGON_SIZE,
    LATTICE_VECTORS,
    METAL_SITES,
)
from napari_point_defects.records import Lattice
from napari_point_defects.simulation.presets import TrainingSetSettings
from napari_point_defects.simulation.sets import simulate_image
from napari_point_defects.training_set import TrainingSet, TrainingSetWriter
from napari_point_defects.training_views import misjudge
from napari_point_defects.weights import save_weights

PIXELS_PER_A = 24.0
TINY = DetectorSettings(
    train_crop_px=128,
    tile_px=128,
    fit=FitSettings(epochs=1, batch_images=1, bfloat16=False, loader_workers=0, device="cpu"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three and one bright images, 8 lattice constants wide."""
    settings = TrainingSetSettings(
        materials=("MoS2",),
        side_a=8.0,
        a_px=(14.0, 16.0),
        column_counts=(1e4, 1e4),
        contamination_share=0.0,
        vacuum_share=0.0,
        drift_a=(0.0, 0.0),
        seed=3,
    )
    folder = tmp_path_factory.mktemp("hexagons")
    for split, (name, count) in enumerate((("train", 3), ("validation", 1))):
        writer = TrainingSetWriter(folder / name)
        for index in range(count):
            writer.add(simulate_image(settings, split, index))
        writer.close()
    return folder


# --- tiles -----------------------------------------------------------------------------------

MARK = 5.0


class MarkFinder:
    """A network that finds a hexagon around every marked pixel, cut off at the tile's edges."""

    def __init__(self, jitter_px=0.0):
        self.jitter_px, self.tiles = jitter_px, 0
        self.rng = np.random.default_rng(0)

    def __call__(self, tensors):
        self.tiles += 1
        tile = tensors[0][0].numpy()
        centres = np.argwhere(tile == MARK).astype(float)
        half = HEXAGON_SIZE / 2 * PIXELS_PER_A
        centres += self.rng.normal(0, self.jitter_px, centres.shape)
        boxes = np.concatenate([centres - half, centres + half], axis=1)
        limits = np.tile(tile.shape, 2)
        cut = np.clip(boxes, 0, limits)
        share = np.prod(cut[:, 2:] - cut[:, :2], axis=1) / np.prod(2 * half)
        boxes, share = cut[share > 0.4], share[share > 0.4]
        return [
            {
                "boxes": torch.from_numpy(boxes[:, [1, 0, 3, 2]]).float(),
                "scores": torch.from_numpy(0.5 + 0.45 * share).float(),
            }
        ]


def marked_image(shape, offset=(0.0, 0.0)):
    """A canonical image whose hexagons' centres are marked; nothing else to be seen."""
    pixels = np.full(shape, 0.5, np.float32)
    ij = np.stack(np.meshgrid(*[np.arange(-120, 121)] * 2), -1).reshape(-1, 2)
    centres = np.rint(ij @ LATTICE_VECTORS * PIXELS_PER_A + offset).astype(int)
    inside = np.all((centres >= 0) & (centres < shape), axis=1)
    pixels[tuple(centres[inside].T)] = MARK
    return CanonicalImage(pixels, np.zeros(2), PIXELS_PER_A), centres[inside]


def detector_of(network, tile_px):
    detector = object.__new__(Detector)
    detector.settings = DetectorSettings(tile_px=tile_px, pixels_per_a=PIXELS_PER_A)
    detector.device = torch.device("cpu")
    detector.network = network
    detector.weights = SimpleNamespace(version="marks")
    return detector


def find(monkeypatch, image, *, tile_px, jitter_px=0.0, **options):
    """Return the hexagons' centres in canonical pixels, their scores, and the tiles looked at."""
    monkeypatch.setattr(prediction, "to_canonical_image", lambda *args: image)
    network = MarkFinder(jitter_px)
    lattice = Lattice(np.zeros(2), PIXELS_PER_A * np.eye(2))  # one image pixel each
    hexagons = detector_of(network, tile_px).predict(image.pixels, lattice, **options)
    return hexagons.corners_px.mean(axis=1), hexagons.scores, network.tiles


def in_order(points):
    return points[np.lexsort(np.round(points, 3).T)]


@pytest.mark.parametrize("tile_px", [128, 200, 256, 512])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (7.0, 11.0)])
def test_tiles_lose_and_double_nothing(monkeypatch, tile_px, offset):
    image, marks = marked_image((610, 1170), offset)
    untiled, scores, tiles = find(monkeypatch, image, tile_px=2048, min_score=0.0)
    assert tiles == 1
    tiled, tiled_scores, tiles = find(monkeypatch, image, tile_px=tile_px, min_score=0.0)
    assert tiles >= 6
    # at the image's own edges a hexagon is cut off either way
    assert len(tiled) == len(untiled) <= len(marks)
    assert in_order(tiled) == pytest.approx(in_order(untiled), abs=1e-3)
    assert np.sort(tiled_scores) == pytest.approx(np.sort(scores))
    whole = np.all((marks > 45) & (marks < np.array(image.pixels.shape) - 45), axis=1)
    distance = np.linalg.norm(tiled[:, None] - marks[whole], axis=-1)
    assert np.all((distance < 1).sum(axis=0) == 1)


def test_two_slightly_different_views_of_a_hexagon_are_one(monkeypatch):
    image, marks = marked_image((610, 800))
    found, _, _ = find(monkeypatch, image, tile_px=256, jitter_px=1.0, min_score=0.0)
    whole = np.all((marks > 45) & (marks < np.array(image.pixels.shape) - 45), axis=1)
    distance = np.linalg.norm(found[:, None] - marks[whole], axis=-1)
    assert np.all((distance < 6).sum(axis=0) == 1)


@pytest.mark.parametrize("shape", [(90, 100), (128, 128), (90, 700)])
def test_images_smaller_than_a_tile(monkeypatch, shape):
    image, _ = marked_image(shape)
    untiled, _, _ = find(monkeypatch, image, tile_px=2048)
    tiled, _, _ = find(monkeypatch, image, tile_px=256)
    assert len(untiled) > 0
    assert in_order(tiled) == pytest.approx(in_order(untiled), abs=1e-3)


def test_empty_tiles_cost_nothing(monkeypatch):
    image, marks = marked_image((500, 1500))
    _, _, tiles = find(monkeypatch, image, tile_px=256)
    image.pixels[:, 600:] = 0
    found, _, fewer = find(monkeypatch, image, tile_px=256)
    assert fewer < 0.6 * tiles
    distance = np.linalg.norm(found[:, None] - marks[None], axis=-1)
    whole = np.all((marks > 45) & (marks < [455, 555]), axis=1)
    assert np.all((distance[:, whole] < 1).sum(axis=0) == 1)


def test_low_scores_are_dropped(monkeypatch):
    image, _ = marked_image((300, 300))
    _, scores, _ = find(monkeypatch, image, tile_px=256, min_score=0.0)
    kept, kept_scores, _ = find(monkeypatch, image, tile_px=256, min_score=0.9)
    assert len(kept) == (scores >= 0.9).sum() < len(scores)
    assert kept_scores.min() >= 0.9


def test_progress_rises_to_one_and_a_wish_to_stop_is_heard(monkeypatch):
    image, _ = marked_image((610, 1170))
    shares = []
    find(monkeypatch, image, tile_px=256, on_progress=lambda share, text: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    seen = len(shares)
    with pytest.raises(Stopped):
        find(
            monkeypatch,
            image,
            tile_px=256,
            on_progress=lambda share, text: shares.append(share),
            should_stop=lambda: len(shares) >= seen + 2,
        )
    assert len(shares) == seen + 2


def test_no_image_no_hexagons(monkeypatch):
    image = CanonicalImage(np.zeros((300, 300), np.float32), np.zeros(2), PIXELS_PER_A)
    found, scores, tiles = find(monkeypatch, image, tile_px=256)
    assert (len(found), len(scores), tiles) == (0, 0, 0)


# --- large images ----------------------------------------------------------------------------


def random_boxes(count, rng, extent=3000.0, spread=0.2):
    centres = rng.uniform(0, extent, (count, 2))
    half = 20 * (1 + spread * rng.normal(size=(count, 2)).clip(-2, 2))
    half[:: max(1, count // 5)] *= 6  # some far too large
    return np.concatenate([centres - half, centres + half], axis=1)


@pytest.mark.parametrize("count", [0, 1, 40, 4000])
def test_doubles_go_as_in_plain_suppression(count):
    rng = np.random.default_rng(count)
    boxes, scores = random_boxes(count, rng), np.round(rng.uniform(size=count), 2)
    plain = nms(
        torch.from_numpy(boxes[:, [1, 0, 3, 2]]).float(), torch.from_numpy(scores).float(), 0.4
    )
    kept = without_doubles(boxes, scores, 0.4)
    assert np.array_equal(np.sort(kept), np.sort(plain.numpy()))
    assert np.all(np.diff(scores[kept]) <= 0)


def test_a_large_image_is_looked_at_in_pieces_alike(monkeypatch):
    """A lattice of bright hollows, seen as a whole and in pieces of a few tiles."""
    shape, a_px = (700, 900), 20.0
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    lattice = Lattice(np.array([350.0, 450.0]), a_px * turn)
    y, x = np.mgrid[: shape[0], : shape[1]]
    canonical = lattice.to_canonical(np.stack([y, x], -1).astype(float))
    waves = canonical @ np.linalg.inv(LATTICE_VECTORS)
    data = np.cos(2 * np.pi * waves).sum(-1) + np.cos(2 * np.pi * (waves.sum(-1)))
    data = (data + 0.01 * y + np.random.default_rng(0).normal(0, 0.1, shape)).astype(np.float32)
    data[100:140, 300:380] = np.nan

    class PeakFinder:
        seen = 0

        def __call__(self, tensors):
            tile = tensors[0][0].numpy()
            type(self).seen = max(type(self).seen, tile.size)
            peaks = (tile == maximum_filter(tile, 9)) & (tile > 1)
            centres = np.argwhere(peaks).astype(float)
            half = HEXAGON_SIZE / 2 * PIXELS_PER_A
            boxes = np.concatenate([centres - half, centres + half], axis=1)[:, [1, 0, 3, 2]]
            scores = 1 / (1 + np.exp(-tile[peaks]))
            return [{"boxes": torch.from_numpy(boxes), "scores": torch.from_numpy(scores)}]

    found = []
    for whole_px in (10**9, 1000):
        monkeypatch.setattr(prediction, "_WHOLE_PX", whole_px)
        monkeypatch.setattr(prediction, "_PIECE_PX", 600)
        shares = []
        detector = detector_of(PeakFinder(), 256)
        hexagons = detector.predict(
            data, lattice, on_progress=lambda share, text, shares=shares: shares.append(share)
        )
        assert shares == sorted(shares)
        found.append(hexagons)
    whole, pieces = found
    assert len(whole) > 1000
    order = [np.lexsort(np.round(f.corners_px.mean(1), 2).T) for f in found]
    assert whole.corners_px[order[0]] == pytest.approx(pieces.corners_px[order[1]], abs=1e-3)
    assert whole.scores[order[0]] == pytest.approx(pieces.scores[order[1]], abs=1e-3)


# --- training data ---------------------------------------------------------------------------


def brightness(tensor, points):
    rows, cols = np.rint(points).astype(int).T
    inside = (rows >= 0) & (cols >= 0) & (rows < tensor.shape[1]) & (cols < tensor.shape[2])
    return tensor[0].numpy()[rows[inside], cols[inside]].mean()


@pytest.mark.parametrize("augment", [False, True])
def test_boxes_surround_hexagons(images, augment):
    torch.manual_seed(0)
    data = HexagonDataset(TrainingSet(images / "train"), TINY, augment)
    seen = 0
    for index in [0, 1, 2] * (3 if augment else 1):
        tensor, target = data[index]
        assert tensor.shape == (1, 128, 128)
        boxes = target["boxes"].numpy()
        seen += len(boxes)
        assert boxes[:, 2] - boxes[:, 0] == pytest.approx(HEXAGON_SIZE[1] * PIXELS_PER_A, abs=1e-3)
        assert boxes[:, 3] - boxes[:, 1] == pytest.approx(HEXAGON_SIZE[0] * PIXELS_PER_A, abs=1e-3)
        assert target["labels"].tolist() == [1] * len(boxes)
        centres = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
        chalcogen = (centres[:, None] + CHALCOGEN_SITES * PIXELS_PER_A).reshape(-1, 2)
        metal = (centres[:, None] - CHALCOGEN_SITES * PIXELS_PER_A).reshape(-1, 2)
        hollow = brightness(tensor, centres)
        # Mo is more than twice as bright as two S here: turned frames keep them apart
        assert brightness(tensor, metal) > brightness(tensor, chalcogen) + 0.5
        assert brightness(tensor, chalcogen) > hollow + 0.2
    assert seen > 20


@pytest.mark.parametrize("augment", [False, True])
def test_unit_cells_can_be_found_directly(images, augment):
    torch.manual_seed(0)
    settings = TINY.model_copy(update={"target": "cell"})
    data = HexagonDataset(TrainingSet(images / "train"), settings, augment)
    height, width = CELL_SIZE * PIXELS_PER_A
    for index in range(3):
        tensor, target = data[index]
        boxes = target["boxes"].numpy()
        assert len(boxes) > 5
        assert boxes[:, 2] - boxes[:, 0] == pytest.approx(width, abs=1e-3)
        assert boxes[:, 3] - boxes[:, 1] == pytest.approx(height, abs=1e-3)
        chalcogen = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2 - CELL_FROM_CHALCOGEN * PIXELS_PER_A
        metal = chalcogen + (METAL_SITES[0] - CHALCOGEN_SITES[0]) * PIXELS_PER_A
        assert brightness(tensor, metal) > brightness(tensor, chalcogen) + 0.5
    network = build_detector(settings)
    losses = network.train()([tensor], [target])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_without_augmentation_an_item_is_always_the_same(images):
    data = HexagonDataset(TrainingSet(images / "train"), TINY, augment=False)
    first, again = data[1], data[1]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])


def test_hexagons_that_leave_the_crop_go(images):
    data = HexagonDataset(TrainingSet(images / "train"), TINY, augment=True)
    torch.manual_seed(1)
    for index in range(3):
        boxes = data[index][1]["boxes"].numpy()
        size = boxes[:, 2:] - boxes[:, :2]
        inside = np.clip(boxes[:, 2:], 0, 128) - np.clip(boxes[:, :2], 0, 128)
        assert np.all(inside / size > 0.85)


def test_misjudged_lattice_keeps_the_sublattices():
    lattice = Lattice(np.array([50.0, 60.0]), 20 * np.eye(2))
    rng = np.random.default_rng(0)
    determinants = []
    for _ in range(30):
        other = misjudge(lattice, rng, **FRAME_ERRORS)
        sites = lattice.to_image(CHALCOGEN_SITES)
        moved = other.to_image(CHALCOGEN_SITES)
        distance = np.linalg.norm(moved[:, None] - sites, axis=-1).min(axis=1)
        assert distance.max() < 0.1 * 20
        determinants.append(np.sign(np.linalg.det(other.matrix_px)))
    assert set(determinants) == {-1.0, 1.0}


# --- networks and their training -------------------------------------------------------------


@pytest.mark.parametrize("preset", ["compact", "paper"])
def test_presets_build_and_take_one_training_step(images, preset):
    settings = DETECTOR_PRESETS[preset].model_copy(update={"train_crop_px": 128, "tile_px": 128})
    torch.manual_seed(0)
    data = HexagonDataset(TrainingSet(images / "train"), settings, augment=True)
    inputs, targets = collate([data[0], data[1]])
    assert inputs[0].shape == (input_channels(settings), 128, 128)
    module = DetectorModule(settings, total_steps=10)
    before = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    optimizer = module.configure_optimizers()
    if isinstance(optimizer, dict):
        optimizer = optimizer["optimizer"]
    assert optimizer.param_groups[0]["lr"] > 0
    losses = module.network(inputs, targets)
    # smooth L1 of the boxes and cross-entropy of the classes, of both stages
    assert len(losses) == 4
    sum(losses.values()).backward()
    optimizer.step()
    after = dict(module.named_parameters())
    assert all(torch.isfinite(after[n]).all() for n in before)
    changed = [n for n, p in before.items() if not torch.equal(p, after[n])]
    assert len(changed) > 0.9 * len(before)


def test_paper_preset_is_the_papers():
    settings = DETECTOR_PRESETS["paper"]
    assert (settings.tile_px, settings.most_detections) == (512, 800)
    fit = settings.fit
    assert (fit.epochs, fit.learning_rate, fit.weight_decay) == (40, 1e-4, 0)
    network = build_detector(settings)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(82e6, rel=0.02)
    anchors = network.rpn.anchor_generator
    assert anchors.sizes == ((8, 16, 32, 64, 128),)
    assert anchors.aspect_ratios == ((0.5, 1.0, 2.0),)
    assert network.roi_heads.detections_per_img == 800


def test_compact_preset_is_small():
    network = build_detector(DETECTOR_PRESETS["compact"])
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.5e6, rel=0.1)


def test_backbone_weights_are_taken_from_safetensors(tmp_path):
    torch.manual_seed(5)
    weights = mobilenet_v2().state_dict()
    save_file(weights, tmp_path / "imagenet.safetensors")
    settings = DETECTOR_PRESETS["paper"].model_copy(
        update={"backbone_weights": tmp_path / "imagenet.safetensors"}
    )
    stem = build_detector(settings).backbone[0][0].weight
    assert torch.equal(stem, weights["features.0.0.weight"])
    del weights["features.3.conv.0.0.weight"]
    save_file(weights, tmp_path / "imagenet.safetensors")
    with pytest.raises(PointDefectsError, match="MobileNetV2"):
        build_detector(settings)
    (tmp_path / "imagenet.safetensors").write_text("no weights")
    with pytest.raises(PointDefectsError, match="MobileNetV2"):
        build_detector(settings)


def boxes(*corners):
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def test_matching_of_boxes():
    truth = boxes([0, 0, 10, 10], [20, 0, 30, 10])
    assert match_boxes(truth, truth).tolist() == [2, 2, 2, 2.0]
    assert match_boxes(boxes(), truth).tolist() == [0, 2, 0, 0]
    assert match_boxes(truth, boxes()).tolist() == [0, 0, 2, 0]
    # half of each covered: IoU 1/3, no hit
    assert match_boxes(boxes([5, 0, 15, 10]), truth).tolist() == [0, 2, 1, 0]
    hits, wanted, found, overlap = match_boxes(boxes([0, 0, 10, 8], [50, 50, 60, 60]), truth)
    assert (hits, wanted, found) == (1, 2, 2)
    assert overlap == pytest.approx(0.8)


def test_two_boxes_on_one_hexagon_are_one_hit():
    truth = boxes([0, 0, 10, 10])
    hits, wanted, found, _ = match_boxes(boxes([0, 0, 10, 9], [0, 1, 10, 10]), truth)
    assert (hits, wanted, found) == (1, 1, 2)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """One epoch on three images: nothing learnt, but everything a run leaves behind."""
    folder = tmp_path_factory.mktemp("run")
    shares = []
    tensors, metrics = train_detector(
        images, folder, TINY, on_progress=lambda share, text: shares.append(share)
    )
    return folder, tensors, metrics, shares


def test_training_leaves_metrics_and_a_checkpoint(trained):
    folder, _, metrics, shares = trained
    assert (folder / "last.ckpt").is_file()
    assert "val_score" in (folder / "metrics.csv").read_text()
    assert metrics["epochs"] == 1
    assert 0 <= metrics["val_score"] <= 1
    assert shares
    assert shares[-1] <= 1


def test_trained_weights_can_be_shipped_and_used(trained, images, tmp_path):
    _, tensors, metrics, _ = trained
    path = tmp_path / "detector.safetensors"
    save_weights(
        path,
        tensors,
        kind="detector",
        settings=TINY.model_dump(mode="json"),
        training_set={"seed": 3},
        metrics=metrics,
    )
    detector = Detector(path, "cpu")
    assert detector.settings == TINY
    item = TrainingSet(images / "validation")[0]
    hexagons = detector.predict(item.pixels.astype(np.float32), item.lattice, min_score=0.0)
    assert hexagons.corners_px.shape == (len(hexagons), 4, 2)
    assert np.isfinite(hexagons.corners_px).all()
    # the network may be run again and says the same
    again = detector.predict(item.pixels.astype(np.float32), item.lattice, min_score=0.0)
    assert np.array_equal(again.scores, hexagons.scores)


@pytest.mark.parametrize(
    "says", [{"preset": "paper", "network": "paper"}, {"preset": "paper"}, {"surprise": 1}], ids=str
)
def test_weights_of_another_network_are_refused(trained, tmp_path, says):
    _, tensors, metrics, _ = trained
    settings = TINY.model_dump(mode="json")
    del settings["network"]  # older cards have none: the preset's name told it
    settings |= says
    path = tmp_path / "detector.safetensors"
    save_weights(
        path, tensors, kind="detector", settings=settings, training_set={}, metrics=metrics
    )
    with pytest.raises(PointDefectsError, match="train it again"):
        Detector(path, "cpu")


def test_starting_weights_are_used(images, trained, tmp_path):
    _, tensors, _, _ = trained
    still = TINY.model_copy(
        update={"fit": TINY.fit.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0})}
    )
    again, _ = train_detector(images, tmp_path, still, start=tensors)
    name = "backbone.fine.0.0.weight"
    assert torch.allclose(again[name], tensors[name], atol=1e-6)


def test_training_needs_both_splits(images, tmp_path):
    with pytest.raises(PointDefectsError, match="point-defects simulate"):
        train_detector(tmp_path, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()
