"""The parts of torchvision that the networks are made of, imported without torch's compiler.

``torchvision.ops`` asks ``torch._dynamo`` for one function, which it calls on GPUs only. Importing
that brings sympy and Triton along: it takes ten times as long as all the rest of torchvision. Here
the function is looked up when it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch  # noqa: F401  before anything stands in for its parts

_NAMES = ("torch._dynamo", "torch._dynamo.utils")


def _is_compile_supported(device_type: Any) -> Any:
    return import_module(_NAMES[1]).is_compile_supported(device_type)


class _StandIn(ModuleType):
    """Makes way for the real module as soon as anything else is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _withdraw()
        return getattr(import_module(self.__name__), name)


def _withdraw() -> None:
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


@contextmanager
def _without_compiler() -> Iterator[None]:
    if not any(name in sys.modules for name in ("torchvision", *_NAMES)):
        package, utils = (_StandIn(name) for name in _NAMES)
        package.__path__ = []
        package.utils, utils.is_compile_supported = utils, _is_compile_supported
        sys.modules.update(zip(_NAMES, (package, utils), strict=True))
    try:
        yield
    finally:
        _withdraw()


with _without_compiler():
    from torchvision.models import mobilenet_v2, resnet18
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import TwoMLPHead
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou

__all__ = [
    "AnchorGenerator",
    "BasicBlock",
    "FasterRCNN",
    "FeaturePyramidNetwork",
    "GeneralizedRCNNTransform",
    "MultiScaleRoIAlign",
    "ResNet",
    "TwoMLPHead",
    "box_iou",
    "mobilenet_v2",
    "resnet18",
]
