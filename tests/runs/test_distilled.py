"""Distilled bases and the distill LoRA: their schedule in previews and in `generate`."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from run_support import Recorded, begin
from safetensors.torch import save_file

from sonolora.core.errors import CheckpointError, InputError
from sonolora.core.randomness import normal
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import decode_audio
from sonolora.modes import MODES
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.lora_option import parse_lora
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.generation.generate import generate
from sonolora.sampling import sampler as sampler_module
from sonolora.sampling.guidance import OFF
from sonolora.sampling.noise_schedule import DISTILLED_SIGMAS


@pytest.fixture(scope="module")
def distilled_base(shallow_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copytree(shallow_base / "text_encoder", folder / "text_encoder")
    shutil.copy(shallow_base / "shallow.safetensors", folder / "ltx-2.3-22b-distilled.safetensors")
    return folder


@pytest.fixture(scope="module")
def distill_lora(tmp_path_factory):
    """With an effect, on layers that are trained and on others."""
    tensors = {}
    for layer in ("transformer_blocks.0.audio_attn1.to_q", "audio_proj_out"):
        weight = find_base("tiny").checkpoint.tensors[f"model.diffusion_model.{layer}.weight"]
        out, width = weight.shape
        tensors[f"diffusion_model.{layer}.lora_A.weight"] = 0.3 * normal((4, width), layer, "A")
        tensors[f"diffusion_model.{layer}.lora_B.weight"] = 0.3 * normal((out, 4), layer, "B")
    path = tmp_path_factory.mktemp("loras") / "distill.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture
def sampled(monkeypatch):
    """The schedules and guidance that sounds are sampled with."""
    found, original = [], sampler_module.GuidedDenoiser

    def recorded(model, example, context, guidance, **options):
        found.append(guidance)
        return original(model, example, context, guidance, **options)

    def euler(denoise, x, sigmas, on_step):
        found.append(tuple(round(sigma, 6) for sigma in sigmas))
        return sampler_module.euler(denoise, x, sigmas, on_step)

    monkeypatch.setattr(sampler_module, "GuidedDenoiser", recorded)
    monkeypatch.setitem(sampler_module.SAMPLERS, "euler", euler)
    return found


def make(out, base, **settings):
    told = Recorded()
    generate(
        MODES["t2a"],
        {"prompt": "a tone", "seconds": 0.5},
        GenerateSettings(base=str(base), device="cpu", **settings),
        out,
        told,
    )
    return decode_audio(out).waveform.samples, told


def test_generate_samples_a_distilled_base_in_its_steps(distilled_base, sampled, tmp_path):
    _, told = make(tmp_path / "a.wav", distilled_base)
    assert sampled == [OFF, DISTILLED_SIGMAS]
    assert "a distilled model: 8 steps of its own schedule" in told.messages
    sampled.clear()
    _, told = make(tmp_path / "b.wav", distilled_base, steps=3, cfg_scale=2.0)
    assert sampled[0].cfg == 2.0 and len(sampled[1]) == 4 and sampled[1] != DISTILLED_SIGMAS
    assert any("made for 8 steps; 3 follow the dev base's schedule" in text for text in told.messages)


def test_generate_with_a_distill_lora(shallow_base, distilled_base, distill_lora, sampled, tmp_path):
    plain, _ = make(tmp_path / "plain.wav", distilled_base)
    sampled.clear()
    full, _ = make(tmp_path / "full.wav", shallow_base, distill_lora=(distill_lora, 1.0))
    assert sampled == [OFF, DISTILLED_SIGMAS]
    none, _ = make(tmp_path / "none.wav", shallow_base, distill_lora=(distill_lora, 0.0))
    assert (none == plain).all(), "at strength 0 it is the base in the same schedule"
    assert abs(full - plain).max() > 1e-3
    halves = {"lora": distill_lora, "scale": 0.5, "distill_lora": (distill_lora, 0.5)}
    twice, _ = make(tmp_path / "twice.wav", shallow_base, **halves)
    assert abs(twice - full).max() < 1e-3, "strengths of several LoRAs add up"
    with pytest.raises(InputError, match="is distilled already"):
        make(tmp_path / "no.wav", distilled_base, distill_lora=(distill_lora, 1.0))


def test_previews_have_a_second_column(short_body, shallow_base, distill_lora, sampled, tmp_path):
    body = {**short_body, "number_of_steps": 2, "validation": [{"prompt": "t0ne"}]}
    settings = RunSettings(str(shallow_base), "cpu", distill_lora=f"{distill_lora}:0.5", preview_every=2)
    begin("t2a", body, settings, tmp_path / "run")
    artifacts = RunArtifacts(tmp_path / "run")
    previews = artifacts.previews()
    assert [(one.step, one.distilled, one.kind) for one in previews] == [
        (0, False, "base"),
        (0, True, "base"),
        (2, False, "lora"),
        (2, True, "lora"),
    ]
    assert previews[1].sound == "previews/step-000000-1-distilled.wav" and previews[1].sound in artifacts
    assert sampled.count(DISTILLED_SIGMAS) == 2 and len(sampled) == 8
    sounds = [decode_audio(artifacts.path(one.sound)).waveform.samples for one in previews]
    assert abs(sounds[0] - sounds[1]).max() > 1e-4
    assert (sounds[1] != sounds[3]).any(), "the trained LoRA is in both columns"
    alone = decode_audio(artifacts.path("preview.wav")).waveform.samples
    assert (alone == sounds[2]).all(), "preview.wav has the first column"

    plain = tmp_path / "plain"
    begin("t2a", body, RunSettings(str(shallow_base), "cpu", preview_every=2), plain)
    assert (plain / "lora.safetensors").read_bytes() == (tmp_path / "run" / "lora.safetensors").read_bytes()


def test_previews_with_another_lora(short_body, shallow_base, distill_lora, tmp_path):
    body = {**short_body, "number_of_steps": 1, "validation": [{"prompt": "t0ne"}]}
    sounds = []
    for name, options in (("with", {"preview_lora": (f"{distill_lora}:0.7",)}), ("without", {})):
        begin("t2a", body, RunSettings(str(shallow_base), "cpu", **options), tmp_path / name)
        sounds.append(decode_audio(tmp_path / name / "preview.wav").waveform.samples)
    assert abs(sounds[0] - sounds[1]).max() > 1e-4
    loras = [(tmp_path / name / "lora.safetensors").read_bytes() for name in ("with", "without")]
    assert loras[0] == loras[1], "training does not see it"
    saved = json.loads((tmp_path / "with" / "run.json").read_text())["settings"]["preview_lora"]
    assert saved == [f"{distill_lora}:0.7"]


def test_training_on_a_distilled_base_warns(short_body, distilled_base, sampled, tmp_path):
    told = Recorded()
    body = {**short_body, "number_of_steps": 1, "validation": [{"prompt": "t0ne"}]}
    begin("t2a", body, RunSettings(str(distilled_base), "cpu"), tmp_path / "run", told)
    assert any(text.startswith("the base is distilled: a LoRA trained on it") for text in told.warnings)
    assert sampled == [OFF, DISTILLED_SIGMAS] * 2


def test_files_that_are_no_loras_are_refused_before_the_run(short_body, shallow_base, tmp_path):
    with pytest.raises(InputError, match=r"there is no file none\.safetensors"):
        RunSettings(preview_lora=("none.safetensors",))
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    settings = RunSettings(str(shallow_base), "cpu", distill_lora=str(tmp_path / "x.safetensors"))
    with pytest.raises(CheckpointError, match="not a LoRA"):
        begin("t2a", short_body, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_strengths_of_options(tmp_path):
    odd = tmp_path / "odd:2"
    odd.touch()
    assert parse_lora("a.safetensors:0.8") == ("a.safetensors", 0.8)
    assert parse_lora("a.safetensors", default=0.5) == ("a.safetensors", 0.5)
    assert parse_lora("C:\\loras\\a.safetensors:-1") == ("C:\\loras\\a.safetensors", -1.0)
    assert parse_lora("https://example.org:80/a") == ("https://example.org:80/a", 1.0)
    assert parse_lora(str(odd)) == (str(odd), 1.0)
    with pytest.raises(InputError, match="finite"):
        parse_lora("a:nan")
    for number in ("80", "-11", "1e9"):
        with pytest.raises(InputError, match=f"the strength of a must be from -10 to 10, not {number}"):
            parse_lora(f"a:{number}")
    with pytest.raises(InputError, match="scale: must be at most 10"):
        GenerateSettings(scale=80)
