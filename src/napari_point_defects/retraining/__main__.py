"""The training process of a window: ``python -m napari_point_defects.retraining``."""

from napari_point_defects.retraining.apart import serve

if __name__ == "__main__":
    serve()
