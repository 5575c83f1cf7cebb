"""How runs are carried out: defaults, what excludes what, and settings that an earlier version has saved."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from sonolora.core.devices import compute_dtype, resolve_device
from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings, UnknownSettingError, read_settings
from sonolora.training.noise import DENSITIES
from sonolora.training.sigma_densities import SIGMA_DENSITIES

# As a run of the first version has saved them.
SAVED = {
    "base": "tiny", "device": "cpu", "seed": 7, "batch_size": 2, "sigma_density": "matched", "weights": "nf4",
    "gradient_checkpointing": False, "stream_blocks": True, "v2a_video": "joint", "checkpoint_every": 10,
    "preview_every": 50, "keep_checkpoints": 2, "cuda_graph": False, "compile": False,
}  # fmt: skip


def test_settings_of_an_earlier_version_are_read():
    settings = read_settings(SAVED)
    assert settings.block_offload and settings.policy == WeightPolicy("nf4", offloaded=True)
    added = {**asdict(RunSettings()), "block_offload": True}
    assert asdict(settings) == {**added, **{k: v for k, v in SAVED.items() if k != "stream_blocks"}}
    assert read_settings(asdict(settings)) == settings


def test_settings_that_did_not_exist_yet_have_their_defaults():
    assert read_settings({"seed": 7}) == RunSettings(seed=7)


def test_changes_win_over_what_was_saved():
    changed = read_settings(SAVED, device="cuda", block_offload=False)
    assert (changed.device, changed.block_offload) == ("cuda", False)


def test_settings_of_a_later_version_are_named():
    with pytest.raises(UnknownSettingError, match="unknown settings: flash, rank_dropout"):
        read_settings({**SAVED, "rank_dropout": 0.1, "flash": True})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "int4"}, "weights: 'int4' is not one of full, int8, fp8, nf4"),
        ({"sigma_density": "x"}, "sigma_density: 'x' is not one of published"),
        ({"v2a_video": "frozen"}, "'frozen' is not one of joint, frozen-cached"),
        ({"batch_size": 0}, "batch_size: must be at least 1, not 0"),
        ({"checkpoint_every": -1}, "checkpoint_every: must be at least 1"),
    ],
)
def test_values_that_cannot_be_are_named(values, message):
    with pytest.raises(InputError, match=message):
        RunSettings(**values)


@pytest.mark.parametrize("name", ["cuda_graph", "compile"])
def test_block_offload_excludes_captured_and_compiled_steps(name):
    with pytest.raises(SonoloraError, match="--block-offload exclude each other"):
        RunSettings(block_offload=True, **{name: True})


def test_a_mode_without_video_refuses_its_setting():
    with pytest.raises(InputError, match="v2a_video: frozen-cached is for v2a only; t2a has no video"):
        RunSettings(v2a_video="frozen-cached").check_mode(T2A)


def test_options_that_change_a_step():
    settings = RunSettings(weights="nf4", block_offload=True, seed=3)
    assert settings.given() == ("--weights nf4", "--block-offload")


def test_the_names_of_densities_are_those_of_their_functions():
    assert tuple(DENSITIES) == SIGMA_DENSITIES


class TestDevices:
    def test_auto_and_cpu(self):
        assert resolve_device("cpu") == torch.device("cpu")
        assert resolve_device("auto").type in ("cpu", "cuda")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("gpu", "'gpu' is not a device: use auto, cpu, cuda, cuda:1 or mps"),
            ("xpu", "'xpu' is not supported"),
            ("cuda:99", "'cuda:99' is not present: "),
        ],
    )
    def test_what_is_not_here(self, name, message):
        with pytest.raises(SonoloraError, match=message):
            resolve_device(name)

    def test_apple_gpus_are_accepted_where_they_are(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(SonoloraError, match="'mps' is not present: it needs a Mac"):
            resolve_device("mps")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        device = resolve_device("mps")
        assert (device.type, compute_dtype(device)) == ("mps", torch.float32)

    def test_a_build_without_cuda_says_so(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        monkeypatch.setattr(torch.version, "cuda", None)
        with pytest.raises(SonoloraError, match="this build of PyTorch has no CUDA support"):
            resolve_device("cuda")
