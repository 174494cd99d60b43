import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_point_defects.blurring import gaussian_blur


@pytest.mark.parametrize("edge", ["nearest", "reflect", "constant"])
@pytest.mark.parametrize("sigma", [0.3, 1.9, 20.0])
@pytest.mark.parametrize("shape", [(150, 233), (7, 400), (64, 64), (1, 9)])
def test_the_same_as_scipy(edge, sigma, shape):
    image = np.random.default_rng(3).normal(100, 30, shape).astype(np.float32)
    expected = gaussian_filter(image.astype(float), sigma, mode=edge)
    found = gaussian_blur(image, sigma, edge=edge)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-4)


def test_the_image_stays_as_it_is():
    image = np.ones((70, 70), np.float32)
    image.flags.writeable = False
    np.testing.assert_allclose(gaussian_blur(image, 2.0, edge="nearest"), 1, rtol=1e-6)
