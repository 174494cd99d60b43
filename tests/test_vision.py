import subprocess
import sys

import torch

from napari_point_defects import vision


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_networks_are_imported_without_torch_s_compiler():
    code = (
        "import sys, napari_point_defects.vision; print('torch._dynamo' in sys.modules);"
        "import torch._dynamo.utils as u;"
        "print(u.is_compile_supported('cpu'), hasattr(u, 'counters'))"
    )
    assert run(code).split() == ["False", "True", "True"]


def test_what_stands_in_makes_way_for_more_than_it_knows():
    code = (
        "import sys, torch\n"
        "from napari_point_defects.vision import _without_compiler, _StandIn\n"
        "del sys.modules['torchvision']\n"
        "with _without_compiler():\n"
        "    from torch._dynamo.utils import counters\n"
        "    import torch._dynamo as d\n"
        "print(isinstance(d, _StandIn), type(counters).__name__)"
    )
    assert run(code).split()[0] == "False"


def test_pooling_works_as_ever():
    pool = vision.MultiScaleRoIAlign(["a"], output_size=2, sampling_ratio=2)
    features = {"a": torch.ones(1, 3, 8, 8)}
    found = pool(features, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], [(8, 8)])
    assert found.shape == (1, 3, 2, 2)
    assert torch.allclose(found, torch.ones(()))
