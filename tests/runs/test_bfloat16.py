"""bfloat16 end to end, as on a GPU: a run trains, renders previews and gives a LoRA that `generate` uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from run_support import Silent, begin, eval_losses_of
from safetensors.torch import load_file

from sonolora.media.audio import decode_audio
from sonolora.modes import MODES
from sonolora.planning import needs, work_counts
from sonolora.runs import loaded_networks, start_up
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.generation.generate import GenerateSettings, generate


@pytest.fixture(autouse=True)
def _bfloat16(monkeypatch):
    """What a CUDA device computes in, on this CPU."""
    for module in (work_counts, needs, loaded_networks, start_up):
        monkeypatch.setattr(module, "compute_dtype", lambda device: torch.bfloat16)  # noqa: ARG005


def test_a_run_and_its_lora(with_previews, settings, tmp_path):
    (wanted, *_), how = with_previews["validation"], replace(settings, preview_every=1000)
    lora = begin("t2a", {**with_previews, "validation": [wanted], "learning_rate": 0.01}, how, tmp_path / "run")
    prepared = load_file(tmp_path / "run" / "prepared.safetensors")
    assert {tensor.dtype for tensor in prepared.values()} == {torch.float32, torch.bfloat16}, "latents and contexts"
    losses = eval_losses_of(tmp_path / "run")
    assert losses[12] < 0.98 * losses[0]
    tensors = load_file(lora).values()
    assert all(tensor.dtype == torch.bfloat16 and tensor.isfinite().all() for tensor in tensors)
    artifacts = RunArtifacts(tmp_path / "run")
    base, preview = (decode_audio(artifacts.path(one.sound)).waveform for one in artifacts.previews())
    body = {"prompt": wanted["prompt"]}
    how = GenerateSettings(lora, base=settings.base, device="cpu", steps=4)
    generate(MODES["t2a"], body, how, tmp_path / "new.wav", Silent())
    assert np.array_equal(decode_audio(tmp_path / "new.wav").waveform.samples, preview.samples)
    assert not np.array_equal(base.samples, preview.samples)


def test_it_is_near_to_float32(body, settings, tmp_path, monkeypatch):
    begin("t2a", body, settings, tmp_path / "bfloat16")
    monkeypatch.undo()
    begin("t2a", body, settings, tmp_path / "float32")
    found, expected = (eval_losses_of(tmp_path / name) for name in ("bfloat16", "float32"))
    assert found != expected
    assert found == pytest.approx(expected, rel=0.02)
