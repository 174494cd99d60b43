import pytest
import torch
from torchvision.models import resnet18

from napari_point_defects.classification.inference import for_prediction
from napari_point_defects.classification.model import (
    CLASSIFIER_PRESETS,
    build_classifier,
    input_channels,
)
from napari_point_defects.detection.model import DETECTOR_PRESETS, build_detector
from napari_point_defects.folded_networks import folded


def trained(network, seed=4):
    """Give a network weights and normalisations that are far from those it starts with."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                values.data.uniform_(0.5, 1.5, generator=generator)
            for values in (module.bias, module.running_mean):
                values.data.normal_(0, 0.3, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", ["compact", "paper-1channel"])
@pytest.mark.parametrize("side", [16, 48, 40])
def test_the_classifier_predicts_the_same(name, side):
    settings = CLASSIFIER_PRESETS[name].model_copy(update={"side": side})
    torch.manual_seed(1)
    network = trained(build_classifier(settings))
    inputs = torch.randn(5, input_channels(settings), side, side)
    with torch.inference_mode():
        expected = network(inputs)
        for layout in (torch.contiguous_format, torch.channels_last):
            found = for_prediction(network, side)(inputs.contiguous(memory_format=layout))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_detector_s_features_are_the_same():
    torch.manual_seed(2)
    network = trained(build_detector(DETECTOR_PRESETS["compact"]))
    inputs = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        expected, found = network.backbone(inputs), folded(network).backbone(inputs)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4)


def test_nothing_is_left_to_normalise_and_the_network_stays_as_it_was():
    network = trained(resnet18(num_classes=6))
    before = {name: values.clone() for name, values in network.state_dict().items()}
    ready = folded(network)
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in ready.modules())
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
