"""Every network agrees with outputs of the publisher's code, for the same weights and inputs."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.ltx.model.transformer import audio_token_midpoints
from sonolora.runs.selftest import Check, run_checks

CHECKS = 29


def run(golden, cases_path=None, dtype=torch.float32):
    return list(
        run_checks(
            golden / "ltx23-golden.safetensors", cases_path or golden / "cases.safetensors", torch.device("cpu"), dtype
        )
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_all_cases_agree(golden, dtype):
    checks = run(golden, dtype=dtype)
    assert len(checks) == CHECKS
    assert not [check for check in checks if not check.passed]
    assert json.dumps([vars(check) for check in checks]), "the table can be stored as a record of a device"


def test_a_wrong_number_is_found(golden, tmp_path):
    cases = load_file(golden / "cases.safetensors")
    cases["audio_keep.audio_velocity"][0, 3, 5] += 0.01
    save_file(cases, tmp_path / "cases.safetensors")
    failed = [check.name for check in run(golden, tmp_path / "cases.safetensors") if not check.passed]
    assert failed == ["audio stream: audio_keep", "both streams: audio_keep"]


def test_not_a_number_does_not_pass():
    assert not Check("x", float("nan"), 1.0).passed


@pytest.mark.parametrize(("wrong", "code"), [pytest.param(False, 0, marks=pytest.mark.slow), (True, 1)])
def test_the_command(golden, tmp_path, wrong, code):
    cases = load_file(golden / "cases.safetensors")
    cases["codec.log_mel"] += float(wrong)
    save_file(cases, tmp_path / "cases.safetensors")
    files = ["--checkpoint", str(golden / "ltx23-golden.safetensors"), "--cases", str(tmp_path / "cases.safetensors")]
    result = CliRunner().invoke(app, ["selftest", *files, "--device", "cpu"])
    assert result.exit_code == code, result.output
    assert "codec: mel" in result.stdout
    assert ("FAILED" in result.stdout) == wrong


def test_kept_tokens_have_timestep_zero(cases):
    """`keep` in the cases has the meaning of `Stream.keep_BT`."""
    for case in ("audio_keep", "v2a_frozen_video_keep"):
        timesteps = torch.where(cases["keep"].bool(), 0.0, cases[f"{case}.audio_sigma"][:, None])
        assert torch.equal(timesteps, cases[f"{case}.audio_timesteps"])


def test_audio_positions(cases):
    expected = cases["audio_positions_seconds"].mean(-1)[0, 0]
    torch.testing.assert_close(audio_token_midpoints(len(expected)), expected)
