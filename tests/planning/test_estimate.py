"""Estimates of runs on bases and cards that are not here."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from run_support import Silent
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stored_forms import block_linears, scaled_fp8

from sonolora.ltx.memory.weight_policy import WeightPolicy
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.estimate import Power, estimate
from sonolora.planning.run_settings import RunSettings

RATE, CLIPS = 16000, 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for index, seconds in enumerate((*[0.6] * CLIPS, 0.2)):
        samples = np.random.default_rng(index).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
        write_audio(folder / f"clip{index}.wav", Waveform(samples, RATE))
        (folder / f"clip{index}.txt").write_text(f"noise number {index}")
    return folder


@pytest.mark.slow
def test_a_base_that_is_not_here(clips, monkeypatch, tmp_path):
    """On a machine without a registered LTX-2.3 its published shape is taken, and its time is a bound on this CPU."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5, "rank": 8})
    result = estimate(
        T2A, request, RunSettings("ltx-2.3", "cpu"), tmp_path / "out", Silent(), Power(100, 1), available=1
    )
    assert result.needs.text_tokens == 1024
    assert result.needs.stages[2].resident["transformer"] == 4 * 3_286_408_320
    assert result.error is None  # on a CPU it is no error


def test_a_card_that_is_not_here(clips, monkeypatch, tmp_path):
    """It is counted as a card computes, held to its memory, and told what would fit; time is not guessed."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5, "rank": 8})
    result = estimate(T2A, request, RunSettings("ltx-2.3"), tmp_path / "out", Silent(), card=8)
    assert (result.device, result.dtype) == ("a card of 8 GB", "bfloat16")
    assert result.needs.stages[2].resident["transformer"] == 6_575_773_952  # bfloat16, but for tables and norms
    assert result.pace is None
    assert "--block-offload" in str(result.error)


@pytest.fixture(scope="module")
def fp8_base(tmp_path_factory):
    """`tiny` in 8-bit floats with scales."""
    tiny, folder = find_base("tiny"), tmp_path_factory.mktemp("fp8")
    weights = load_file(tiny.checkpoint.path)
    with safe_open(tiny.checkpoint.path, "pt") as file:
        metadata = file.metadata()
    stored, _ = scaled_fp8(weights, block_linears(weights))
    save_file(stored, folder / "fp8.safetensors", metadata)
    shutil.copytree(tiny.text_encoder, folder / "text_encoder")
    return folder


@pytest.mark.parametrize("weights", ["full", "fp8", "nf4"])
@pytest.mark.parametrize("video", [False, True])
def test_8_bit_files_are_counted_as_they_are_loaded(weights, video, fp8_base):
    base, policy = find_base(str(fp8_base)), WeightPolicy(weights)
    model = load_transformer(
        base.checkpoint, video=video, device=torch.device("cpu"), dtype=torch.bfloat16, policy=policy
    )
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    counted = BaseShape.of(base).transformer_bytes(torch.bfloat16, video=video, policy=policy)
    assert counted == held


def test_an_estimate_says_how_the_base_is_stored(clips, fp8_base, tmp_path):
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5})
    plain, held = (
        estimate(T2A, request, RunSettings(str(fp8_base), weights=weights), tmp_path / "out", Silent(), card=8)
        for weights in ("full", "fp8")
    )
    assert plain.base_precision == held.base_precision == "float8 with scales"
    assert plain.needs.stages[2].resident["transformer"] > 1.5 * held.needs.stages[2].resident["transformer"]


def test_loras_of_previews_are_counted(clips, tmp_path):
    """Those of the streams that run; a second column of previews takes room and time of its own."""
    table = find_base("tiny").checkpoint.tensors
    tensors, shapes = {}, {}
    for layer in ("audio_attn1", "attn1"):
        key = f"transformer_blocks.0.{layer}.to_q"
        shapes[layer] = out, width = table[f"model.diffusion_model.{key}.weight"].shape
        tensors[f"diffusion_model.{key}.lora_A.weight"] = torch.ones(4, width)
        tensors[f"diffusion_model.{key}.lora_B.weight"] = torch.ones(out, 4)
    save_file(tensors, tmp_path / "distill.safetensors")
    body = {"training_data_url": str(clips), "audio_duration_seconds": 0.5, "validation": [{"prompt": "x"}]}
    request = parse(T2A.request, body)
    settings = RunSettings(device="cpu", distill_lora=str(tmp_path / "distill.safetensors"))
    plain, both = (
        estimate(T2A, request, one, tmp_path / "out", Silent()) for one in (RunSettings(device="cpu"), settings)
    )
    assert both.needs.stages[-1].resident["LoRAs of the previews"] == 4 * 4 * sum(shapes["audio_attn1"])
    assert both.disk["previews"] == 2 * plain.disk["previews"]
