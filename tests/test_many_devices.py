"""Training on several devices: who writes, who draws what, and a run of two processes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from small_sets import SMALL
from torch import distributed

from napari_point_defects import cli
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.devices import FitSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.many_devices import SharedSampler, check_strategy, is_helper
from napari_point_defects.networks import classifier_of
from napari_point_defects.retraining.folder import load_run, read_history, run_settings
from napari_point_defects.retraining.settings import RetrainSettings, network_settings
from napari_point_defects.simulation.sets import simulate_training_set


@pytest.fixture
def process(monkeypatch):
    """Be one of several processes that train together."""

    def be(rank, n):
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_world_size", lambda: n)
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)

    return be


@pytest.mark.parametrize(
    ("environment", "devices", "helps"),
    [
        ({}, 2, False),
        ({"LOCAL_RANK": "0"}, 2, False),
        ({"LOCAL_RANK": "1"}, 2, True),
        ({"LOCAL_RANK": "1"}, "auto", True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 2, False),
        ({"RANK": "4", "LOCAL_RANK": "0"}, 2, True),
        # one of several trainings on a cluster, each of which is a run of its own
        ({"SLURM_PROCID": "3"}, 1, False),
    ],
)
def test_the_first_process_alone_writes(monkeypatch, environment, devices, helps):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_helper(devices) == helps


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [None, 7, 12, 25])
def test_processes_share_an_epoch(process, n, num_samples):
    sampler = SharedSampler(12, num_samples, seed=4)
    shares = []
    for rank in range(n):
        process(rank, n)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    together = sorted(i for share in shares for i in share)
    wanted = num_samples or 12
    assert wanted - n < len(together) <= wanted
    most = -(-wanted // 12)
    assert max(together.count(i) for i in together) <= most
    assert set(together) <= set(range(12))
    process(0, n)
    sampler.set_epoch(1)
    assert wanted < 12 or list(sampler) != shares[0]
    again = SharedSampler(12, num_samples, seed=4)
    assert list(again) == shares[0]


def test_fewer_images_than_processes(process):
    sampler = SharedSampler(2, None, seed=0)
    for rank in range(3):
        process(rank, 3)
        assert len(list(sampler)) == len(sampler) == 1


def test_settings_reach_the_network():
    settings = RetrainSettings(data=("set",), preset="compact", devices="auto", strategy="ddp")
    fit = network_settings(settings, None).fit
    assert (fit.devices, fit.strategy) == ("auto", "ddp")
    assert RetrainSettings.model_validate_json(settings.model_dump_json()) == settings
    assert (FitSettings().devices, FitSettings().strategy) == (1, "auto")
    for devices in (0, -1, "all"):
        with pytest.raises(ValidationError, match="devices"):
            FitSettings(devices=devices)
    with pytest.raises(ValidationError, match="labels are learned on one device"):
        RetrainSettings(labels="project", devices=2)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [("tea", "choose auto or one of .*ddp"), ("ddp_spawn", "cannot be started from here")],
)
def test_strategies_that_cannot_be_used(strategy, said):
    with pytest.raises(PointDefectsError, match=said):
        check_strategy(FitSettings(strategy=strategy))
    for name in ("auto", "ddp"):
        check_strategy(FitSettings(strategy=name))


def test_command_refuses_what_is_no_number(monkeypatch, capfd, tmp_path):
    arguments = ["train", "classifier", "-o", str(tmp_path / "run"), "--data", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["point-defects", *arguments, "--devices", "many"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert (
        capfd.readouterr().err.strip().endswith("--devices many: give a number from 1 on, or auto")
    )
    assert not (tmp_path / "run").exists()


_PROGRAM = """
import json, os, sys
from pathlib import Path
from napari_point_defects import many_devices
from napari_point_defects.cli import main

iterate = many_devices.SharedSampler.__iter__

def noted(self):
    drawn, rank = list(iterate(self)), os.environ["LOCAL_RANK"]
    Path(__file__).with_name(f"drawn-{self.epoch}-{rank}.json").write_text(json.dumps(drawn))
    return iter(drawn)

many_devices.SharedSampler.__iter__ = noted
sys.exit(main())
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    simulate_training_set(SMALL, tmp_path / "set", workers=1)
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(_PROGRAM)
    command = [sys.executable, str(program), "train", "classifier", "--data", str(tmp_path / "set")]
    command += ["-o", str(run), "--device", "cpu", "--devices", "2", "--strategy", "ddp"]
    command += ["--epochs", "2", "--images-per-epoch", "4"]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        command,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # one of them prints, and measures
    assert done.stdout.count("with its model card beside it") == 1
    assert done.stdout.count("after") == 1
    for epoch in range(2):
        shares = [json.loads((tmp_path / f"drawn-{epoch}-{r}.json").read_text()) for r in range(2)]
        assert [len(share) for share in shares] == [2, 2]
        assert not set(shares[0]) & set(shares[1])
    assert [row["epoch"] for row in read_history(run)] == [1, 2]
    assert run_settings(run).devices == 2
    retrained = load_run(run)
    assert all(
        torch.isfinite(t).all() for t in retrained.weights.tensors.values() if t.is_floating_point()
    )
    assert "calibration" in retrained.weights.card["metrics"]
    classifier_of(AnalysisSettings(classifier_weights=retrained.weights.path, device="cpu"))
    assert not list(run.glob("*.tmp"))
