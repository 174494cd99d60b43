"""A training set that takes a moment to simulate."""

from napari_point_defects.simulation.presets import TrainingSetSettings

SMALL = TrainingSetSettings(
    materials=("MoTe2", "WS2"),
    train_images=6,
    validation_images=3,
    side_a=6.0,
    a_px=(10.0, 12.0),
    column_counts=(2e3, 2e3),
    seed=11,
)
