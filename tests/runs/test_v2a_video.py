"""`--v2a-video frozen-cached`: a run from films to a LoRA that is used, what it counts, and what it refuses."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_support import Silent, StopsAt, begin, eval_losses_of
from shallow_base import write_shallow_base

from sonolora.conditioning import Video
from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import InputError
from sonolora.ltx.model.frozen_video import cache_video_kv
from sonolora.ltx.model.transformer import CachedVideoKV, load_transformer
from sonolora.ltx.weights import checkpoint
from sonolora.ltx.weights.base import BUILT_IN, find_base
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.media.audio import Waveform
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.modes.preview_spec import VideoFormat
from sonolora.modes.request import parse
from sonolora.modes.v2a import V2A
from sonolora.planning import memory_fit as fit
from sonolora.planning.allocations import Allocations
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.needs import Stage, count_needs
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import Step, Tokens, make_example, step_flops, video_caching
from sonolora.runs import example_placement
from sonolora.runs.generation.generate import GenerateSettings, generate
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.resume import resume

pytestmark = pytest.mark.xdist_group("v2a-video")
CPU, CUDA, F32 = torch.device("cpu"), torch.device("cuda"), torch.float32
CACHED = RunSettings(v2a_video="frozen-cached")
STEPS = 12
TOKENS = Tokens(18, video_format=VideoFormat(17, 24, 256, 256), one_way=True)


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """Three films of half a second, one of them also without its sound as the preview's."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "data").mkdir()
    for index in range(3):
        time = np.arange(20000) / 48000
        tone = (0.5 * np.sin(2 * np.pi * (250 + 80 * index) * time)).astype(np.float32)
        picture = np.zeros((10, 64, 64, 3), np.uint8)
        picture[3 + index :, 16:48, 16:48] = 255
        write_video(folder / "data" / f"c{index}.mp4", picture, 24, Waveform(np.stack([tone, tone]), 48000))
        (folder / "data" / f"c{index}.txt").write_text(f"a tone, number {index}")
    write_video(folder / "silent.mp4", picture, 24, None)
    small = {"number_of_frames": 9, "resolution": "low", "aspect_ratio": "16:9"}
    return {
        "training_data_url": str(folder / "data"),
        "rank": 8,
        "number_of_steps": STEPS,
        "learning_rate": 0.01,
        **small,
        **{f"validation_{name}": value for name, value in small.items()},
        "validation": [{"prompt": "a tone, number 1", "video_url": str(folder / "silent.mp4")}],
    }


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """With two layers: in the first one the video has not attended to the audio yet."""
    base = write_shallow_base(BUILT_IN / "tiny", tmp_path_factory.mktemp("base") / "shallow", layers=2)
    return replace(CACHED, base=str(base), device="cpu", preview_every=1000, checkpoint_every=1000)


@pytest.fixture(scope="module")
def run(body, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    begin("v2a", body, settings, folder)
    return folder


def sound(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.fixture
def ask(body, settings):
    return partial(_ask, body, settings.base)


def _ask(body, base, lora, out, **settings):
    (entry,) = body["validation"]
    asked = {"prompt": entry["prompt"], "video": entry["video_url"], "seconds": 9 / 24}
    asked |= {name: body[name] for name in ("resolution", "aspect_ratio")}
    generate(V2A, asked, GenerateSettings(lora, base=base, device="cpu", **{"steps": 4, **settings}), out, Silent())
    return sound(out)


def test_the_loss_falls_and_the_lora_says_how_it_was_trained(run):
    losses = eval_losses_of(run)
    assert losses[STEPS] < 0.98 * losses[0]
    lora = Checkpoint.open(run / "lora.safetensors")
    assert lora.metadata["v2a_video"] == "frozen-cached"
    layers = {name.split("video_to_audio_attn.")[1].split(".lora")[0] for name in lora.tensors if "video_to" in name}
    assert layers == {"to_q", "to_out.0"}, "keys and values are made before"
    assert json.loads((run / "run.json").read_text())["settings"]["v2a_video"] == "frozen-cached"


def test_generate_follows_the_lora(run, ask, tmp_path):
    lora = run / "lora.safetensors"
    preview = sound(run / "previews" / f"step-{STEPS:06d}-1.wav")
    assert np.array_equal(ask(lora, tmp_path / "a.wav"), preview)
    with pytest.raises(InputError, match="this LoRA was trained with frozen-cached"):
        ask(lora, tmp_path / "b.wav", v2a_video="joint")


def test_the_base_alone_generates_either_way(ask, tmp_path):
    joint, one_way = (
        ask(None, tmp_path / f"{number}.wav", steps=2, v2a_video=wanted)
        for number, wanted in enumerate((None, "frozen-cached"))
    )
    assert not np.array_equal(joint, one_way)


def test_it_continues_to_the_same_result(run, body, settings, tmp_path):
    stops, body = StopsAt(step=10), {**body, "validation": []}
    with pytest.raises(InterruptedRunError):
        begin("v2a", body, settings, tmp_path / "out", stops, stops)
    assert resume(tmp_path / "out", Silent()).read_bytes() == (run / "lora.safetensors").read_bytes()


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.video])
def test_modes_without_a_video_refuse_it(mode):
    with pytest.raises(InputError, match=f"v2a_video: frozen-cached is for v2a only; {mode} has no video"):
        CACHED.check_mode(MODES[mode])


def test_another_word_is_refused(tmp_path):
    with pytest.raises(InputError, match="'cached' is not one of joint, frozen-cached"):
        RunSettings(v2a_video="cached")
    with pytest.raises(InputError, match="is for v2a only"):
        begin("t2a", {"training_data_url": "a"}, CACHED, tmp_path / "out")


def test_videos_that_fit_nowhere_are_refused(body, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(example_placement, "available_bytes", lambda device: 1)  # noqa: ARG005
    with pytest.raises(InputError, match=r"number_of_frames: the training examples take .*--v2a-video joint"):
        begin("v2a", body, settings, tmp_path / "out")


def test_it_can_be_stopped_while_videos_are_cached(body, settings, tmp_path):
    stops = StopsAt("caching the videos", 1)
    with pytest.raises(InterruptedRunError, match="stopped at step 0 of 12"):
        begin("v2a", body, settings, tmp_path / "out", stops, stops)
    assert (tmp_path / "out" / "run.json").exists()


def test_what_does_not_fit_is_told_of_it(monkeypatch):
    """As one of the ways that would fit."""

    def count(shape, mode, request, settings, *_):  # noqa: ARG001
        stage = Stage("training", {"all": 1 if settings.one_way_video else 9}, 0)
        return SimpleNamespace(peak=stage.peak, stages=[stage], reserve=0, host_bytes=0)

    monkeypatch.setattr(fit, "count_needs", count)
    shape, request = BaseShape.published(), parse(V2A.request, {"training_data_url": "a"})
    error = fit.does_not_fit(shape, V2A, request, RunSettings(), CUDA, count(shape, V2A, request, RunSettings()), 5)
    assert "It would fit with --v2a-video frozen-cached" in str(error)


def test_one_transformer_is_kept_of_either_form():
    networks = Networks(find_base("tiny"), CPU)
    forms = [(True, False), (False, True), (False, False)]
    for video, one_way in forms:
        with networks.transformer(video=video, one_way=one_way) as model:
            assert (model.has_video, model.one_way) == (video, one_way)


def test_what_is_counted_is_what_is_taken(base, shape, takes_what_was_counted):
    model = load_transformer(base.checkpoint, video=False, one_way=True, device=CPU, dtype=F32)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert shape.transformer_bytes(F32, video=False, one_way=True) == size
    step = Step(V2A.lora_targets, 8, TOKENS)
    takes_what_was_counted(model, step)
    joint = replace(step, tokens=replace(TOKENS, one_way=False))
    assert step_flops(shape, step, "cpu").whole < 0.6 * step_flops(shape, joint, "cpu").whole


def test_caching_takes_what_was_counted(base, shape, monkeypatch):
    monkeypatch.setattr(checkpoint, "_CHUNK_BYTES", 1 << 14)  # what is read is not on the device of the video
    video = make_example(shape, replace(TOKENS, one_way=False), CPU, F32).video
    assert isinstance(video, Video)
    with Allocations("cpu") as live:
        (cached,) = cache_video_kv(base.checkpoint, [video.stream], device=CPU, dtype=F32, storage_device=CPU)
    assert isinstance(cached, CachedVideoKV)
    weights, work = video_caching(shape, TOKENS, "cpu")
    size = cached.keys_BLHNK.nbytes + cached.values_BLHNK.nbytes
    assert live.peak == pytest.approx(weights + work.bytes + size, rel=0.1)


def test_the_published_model_needs_a_small_gpu():
    """Of LTX-2.3 in bfloat16 never both streams at once."""
    request = parse(V2A.request, {"training_data_url": "a", "rank": 32})
    needs = count_needs(BaseShape.published(), V2A, request, CACHED, CUDA, clips=10)
    caching, training = needs.stages[-3:-1]
    assert caching.name == "caching the videos"
    assert caching.peak < 12e9
    assert training.resident["transformer"] < 8e9
    assert training.peak < 24e9
    keys_and_values = 2 * 48 * (12 * 24 * 24) * 2048 * 2
    assert 10 * keys_and_values < needs.examples < 10 * 1.01 * keys_and_values
