"""Trained networks made ready to predict on a processor: the same function, but for rounding."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> nn.Module:
    """Return a copy with every batch normalisation folded into the convolution before it.

    Weights lie channels last, as a processor's vector units want them.

    Parameters
    ----------
    network : nn.Module
        Trained; it is not changed. A normalisation is folded where the module that holds it
        lists it right behind a convolution, as torchvision's do.

    Returns
    -------
    nn.Module
        For evaluation only.
    """
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        before = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(before and before[1], nn.Conv2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            before = name, child
    return network.to(memory_format=torch.channels_last).requires_grad_(False)
