"""Sounds that take several calls of `generate`, and LoRAs that fit only some of them."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from run_support import Recorded

from sonolora.core.errors import InputError
from sonolora.data.fetch import Sources
from sonolora.ltx.lora.adapters import add_adapters, save_lora
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.runs.generation.passes import NamedLoRA, Pass, generate_passes
from sonolora.runs.loaded_networks import Networks

RATE = 48_000
URL = "https://example.com/take.wav"
FORWARD, BACKWARD = "audio-extend-prefix", "audio-extend-suffix"


@pytest.fixture(scope="module")
def networks(shallow_base):
    return Networks(find_base(str(shallow_base)), torch.device("cpu"))


@pytest.fixture(scope="module")
def lora(networks, tmp_path_factory):
    """Makes the LoRA of a mode, with an effect."""
    folder = tmp_path_factory.mktemp("loras")

    def make(mode, number=0):
        path = folder / f"{mode}.safetensors"
        model = load_transformer(networks.base.checkpoint, video=False, device=networks.device, dtype=torch.float32)
        adapters = add_adapters(model, MODES[mode].lora_targets, 8, 0)
        torch.nn.init.normal_(adapters.flat, std=0.1)
        save_lora(path, adapters, {"format": "pt", "mode": mode, "seconds": "0.5", "conditioning_seconds": "0.2"})
        return NamedLoRA(path, 1.0, f"loras.{number}.path")

    return make


@pytest.fixture
def extend(networks, tmp_path):
    """Extends a take of 1.2 s at both ends; the sound, and what was said of it."""
    source = tmp_path / "take.wav"
    time = np.arange(RATE * 6 // 5) / RATE
    soundfile.write(source, 0.4 * np.sin(2 * np.pi * 300 * time), RATE, "PCM_24")
    sources = Sources(local=False, known={URL: source})

    def extend(*loras, modes=(FORWARD, BACKWARD), seconds=(0.2, 0.3), **settings):
        names = {"audio": "audio_url", "extend_seconds": "extend_seconds_after"}
        passes = [
            Pass(MODES[mode], {"prompt": "a tone", "audio": URL, "extend_seconds": new}, names)
            for mode, new in zip(modes, seconds, strict=False)
        ]
        told, out = Recorded(), tmp_path / "out.wav"
        given = GenerateSettings(base=networks.base.name, device="cpu", **{"steps": 2, **settings})
        generate_passes(passes, loras, given, out, told, sources=sources, networks=networks)
        return soundfile.read(out, dtype="int32")[0], soundfile.read(source, dtype="int32")[0], told.messages

    return extend


def test_both_ends_of_a_sound_by_the_loras_of_each_direction(extend, lora):
    first, source, messages = extend()
    before, after = round(0.3 * RATE), round(0.2 * RATE)
    assert len(first) == before + len(source) + after
    assert np.array_equal(first[before:-after], source), "what was given is kept, sample by sample"
    values = [text for text in messages if text.startswith("values: ")]
    assert len(values) == 2 and "2 steps (as requested)" in values[0] and "1.4 s (as requested)" in values[0]
    assert "conditioning_seconds 1.0 (default)" in values[0]

    forward, _, messages = extend(lora(FORWARD))
    assert "conditioning_seconds 0.2 (as the LoRA was trained)" in "\n".join(messages)
    assert not np.array_equal(forward[-after:], first[-after:])
    backward, _, _ = extend(lora(BACKWARD))
    assert np.array_equal(backward[-after:], first[-after:]), "it has no part in what follows"
    assert not np.array_equal(backward[:before], first[:before])


@pytest.mark.parametrize(("mode", "direction"), [(FORWARD, "backward"), (BACKWARD, "forward")])
def test_a_lora_that_would_be_used_nowhere_is_refused(mode, direction, extend, lora):
    other = BACKWARD if mode == FORWARD else FORWARD
    with pytest.raises(InputError, match=f"which extends {direction}: ask for that direction") as caught:
        extend(lora(mode), lora(other, 1), modes=(mode,))
    assert caught.value.items[0].loc == ("body", "loras", 1, "path")


def test_what_is_wrong_is_said_of_the_fields_of_the_request(extend, tmp_path):
    with pytest.raises(InputError) as caught:
        extend(seconds=(0.01,), modes=(FORWARD,))
    assert caught.value.items[0].loc == ("body", "extend_seconds_after")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(InputError) as caught:
        extend(NamedLoRA(broken, 1.0, "loras.0.path"))
    (item,) = caught.value.items
    assert item.loc == ("body", "loras", 0, "path")
    assert "broken.safetensors" in item.msg and str(tmp_path) not in item.msg
