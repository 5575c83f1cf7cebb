"""What a run needs, computed, against what it takes: torch's own profiler, loaded networks, real steps and samples."""

from __future__ import annotations

import math
import resource
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.randomness import normal
from sonolora.data.foreign_captions import FOREIGN_CAPTIONS
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.codec.video_encoder import load_video_encoder
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.text.language_model import tensor_shapes
from sonolora.ltx.text.text_encoder import load_text_encoder
from sonolora.ltx.weights import checkpoint as checkpoint_module
from sonolora.modes import MODES
from sonolora.modes.preview_spec import VideoFormat
from sonolora.modes.request import parse
from sonolora.planning import work_counts as counts
from sonolora.planning.allocations import Allocations
from sonolora.planning.available_memory import available_bytes
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.memory_fit import check_fit, does_not_fit
from sonolora.planning.needs import count_needs, training_step, training_tokens
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import (
    Step,
    Tokens,
    decoding,
    encoding,
    step_bytes,
    text_encoding,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SETTINGS = RunSettings()
RANK = 8
FILM = VideoFormat(17, 24, 64, 64)
CASES = {
    "t2a": Tokens(26),
    "a2a": Tokens(26, 26),
    "audio-inpaint": Tokens(26, kept=True),
    "a2a, partly kept": Tokens(26, 26, kept=True),
    "v2a": Tokens(18, video_format=FILM),
}
# Gemma 3 12B without its eyes, by Keras' presets, whose vocabulary lacks 64 rows of 3,840 values.
KERAS_GEMMA_PARAMETERS = 11_765_788_416
PREVIEW = {"prompt": "", "reference_audio_url": "a", "audio_url": "a", "video_url": "a", "time_ranges": [[1.0, 2.0]]}


@pytest.fixture(scope="module")
def published():
    return BaseShape.published()


@pytest.fixture(scope="module")
def shallow(shape):
    """The embedded base with two layers and little to encode with, so that training decides what fits."""
    config = {**shape.config, "transformer": {**shape.config["transformer"], "num_layers": 2}}
    return replace(shape, fingerprint="shallow", config=config)


def request(mode, **changed):
    return parse(MODES[mode].request, {"training_data_url": "a", "validation": [PREVIEW], **changed})


def size(module):
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def step_of(mode, tokens, rank=RANK):
    return Step(MODES[mode].lora_targets, rank, tokens)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in ("a2a, partly kept", "v2a") else pytest.mark.slow) for case in CASES],
)
def test_a_step_keeps_and_takes_what_was_counted(base, shape, case, takes_what_was_counted):
    """On meta and extrapolated from three layers, against a real step with all of them."""
    step = step_of(case.partition(",")[0], CASES[case])
    counted = step_bytes(shape, step, "cpu")
    model = load_transformer(base.checkpoint, video=step.tokens.joint, device=CPU, dtype=torch.float32)
    takes_what_was_counted(model, step)
    assert counted.adapters == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert counted.resident == counted.example + 4 * counted.adapters + 4  # and the gradient's norm


def test_members_of_a_sweep_take_what_was_counted(base, shape, takes_what_was_counted):
    step = replace(step_of("t2a", Tokens(26)), members=3)
    model = load_transformer(base.checkpoint, video=False, device=CPU, dtype=torch.float32)
    takes_what_was_counted(model, step)
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    assert step_bytes(shape, step, "cpu").adapters == trained


def test_what_cannot_be_extrapolated_is_counted(shape):
    """Fewer layers than two different numbers of them."""
    step = step_of("t2a", CASES["t2a"])
    few, all_layers = (step_bytes(one, step, "cpu") for one in (shape.with_layers(1), shape))
    assert few.activations < all_layers.activations / 3


def test_the_peak_is_that_of_the_profiler(base, shape, trainer_of):
    """Of torch's own record of every allocation and release in a real step."""
    counted = step_bytes(shape, step_of("t2a", CASES["t2a"]), "cpu")
    model = load_transformer(base.checkpoint, video=False, device=CPU, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer = trainer_of(model, step_of("t2a", CASES["t2a"]))
        trainer.step()
        trainer.step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert peak == pytest.approx(counted.peak, rel=0.001)
    assert now == pytest.approx(counted.resident, rel=0.001)


@pytest.mark.parametrize("video", [False, True])
def test_weights_are_those_that_are_held(base, shape, video):
    model = load_transformer(base.checkpoint, video=video, device=CPU, dtype=torch.bfloat16)
    assert shape.transformer_bytes(torch.bfloat16, video=video) == size(model)
    encoder = load_video_encoder(base.checkpoint, device=CPU, dtype=torch.bfloat16)
    assert shape.video_encoder_bytes(torch.bfloat16) == size(encoder)
    codec = load_audio_codec(base.checkpoint, device=CPU)
    assert shape.codec_bytes() == size(codec.vae) + size(codec.vocoder)


def test_encoders_take_what_was_counted(base, shape, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_CHUNK_BYTES", 1 << 16)  # it is large beside this text encoder
    codec = load_audio_codec(base.checkpoint, device=CPU)
    film = torch.zeros(FILM.frames, FILM.height, FILM.width, 3, dtype=torch.uint8)
    encoder = load_video_encoder(base.checkpoint, device=CPU, dtype=torch.float32)

    def peak(work):
        with Allocations("cpu") as live, torch.no_grad():
            work()
        return live.peak

    assert decoding(shape, 26).bytes == pytest.approx(
        peak(lambda: codec.decode(normal((1, 26, codec.channels), "latents"))), rel=0.05
    )
    sound = peak(lambda: codec.encode(torch.zeros(1, 2, codec.sample_rate)))
    assert encoding(shape, Tokens(26), "cpu").bytes == pytest.approx(sound, rel=0.05)
    pictures = peak(lambda: encoder.encode(film.permute(3, 0, 1, 2)[None].float() / 127.5 - 1))
    assert encoding(shape, Tokens(26, video_format=FILM), "cpu").bytes == pytest.approx(max(sound, pictures), rel=0.05)
    words = "a bell " * shape.context_tokens
    for video in (False, True):
        text = load_text_encoder(base.checkpoint, base.text_encoder, video=video, device=CPU, dtype=torch.float32)
        assert text_encoding(shape, "cpu", video=video).bytes == pytest.approx(
            peak(partial(text.encode, [words])), rel=0.05
        )


@pytest.mark.parametrize("mode", MODES)
def test_examples_have_the_counted_shape(mode):
    """The parts that a mode fills, by its own rule for the files of an archive."""
    names = ["a_start.wav", "a_end.wav"] if mode == "a2a" else ["b.mp4" if mode == "v2a" else "b.wav", "b_mask.json"]
    (sample,) = MODES[mode].pair(names).samples
    tokens = training_tokens(MODES[mode], request(mode))
    assert bool(tokens.reference) == (sample.reference is not None)
    kept = sample.mask is not None or MODES[mode].regenerated(request(mode)) is not None
    assert tokens.kept == kept
    assert (tokens.video_format is not None) == MODES[mode].video


@pytest.mark.parametrize("mode", ["t2a", "v2a"])
def test_layers_are_alike_from_the_second_on(published, mode, monkeypatch):
    """At the full width: what two and three layers give for five is what five take."""
    tokens = Tokens(14, video_format=VideoFormat(9, 24, 64, 64)) if mode == "v2a" else Tokens(14)
    config = {**published.config, "transformer": {**published.config["transformer"], "num_layers": 5}}
    five = replace(published, fingerprint="five", config=config)
    extended = step_bytes(five, step_of(mode, tokens, 128), "cuda")
    monkeypatch.setattr(counts, "_COUNTED", 5)
    whole = step_bytes(replace(five, fingerprint="whole"), step_of(mode, tokens, 128), "cuda")
    assert whole == extended


def test_published_weights(published):
    """The figures of the published file; 2 bytes a value, and 4 in the tables and the norms of queries and keys."""
    wide = 48 * (9 + 2 + 4) * 2048 + 2 * 2048
    assert published.transformer_bytes(torch.bfloat16, video=False) == 2 * (3_286_408_320 + wide)
    gemma = sum(math.prod(shape) for shape in tensor_shapes(published.text_config).values())
    assert gemma == KERAS_GEMMA_PARAMETERS + 64 * 3840


@pytest.mark.parametrize(("video", "gigabytes"), [(False, 1.5), (True, 3.5)])
def test_texts_need_a_layer_and_not_the_language_model(published, video, gigabytes):
    """Of 23.5 GB of Gemma and 1.6 or 6.4 GB of projectors; at least what the largest part of these holds."""
    layer = 2 * sum(
        math.prod(shape) for name, shape in tensor_shapes(published.text_config).items() if "layers.0." in name
    )
    aggregate = 2 * (1_156_061_184 if video else 385_353_728)
    assert layer + aggregate < text_encoding(published, "cuda", video=video).bytes < gigabytes * 1e9


def test_a_run_that_fits_says_nothing(base):
    assert check_fit(MODES["t2a"], request("t2a"), SETTINGS, base, CPU, available=10**11) is None
    assert check_fit(MODES["t2a"], request("t2a"), SETTINGS, base, CUDA, available=10**11) is None


def test_a_card_that_is_too_small_is_refused_with_what_fits(shallow):
    mode, wish = MODES["t2a"], request("t2a", rank=128, audio_duration_seconds=2)

    def peak(rank, seconds):
        return count_needs(
            shallow, mode, request("t2a", rank=rank, audio_duration_seconds=seconds), SETTINGS, CUDA
        ).peak

    room = peak(64, 2)
    error = does_not_fit(shallow, mode, wish, SETTINGS, CUDA, count_needs(shallow, mode, wish, SETTINGS, CUDA), room)
    assert isinstance(error, InputError)
    assert error.items[0].loc == ("body", "rank")
    assert "computed, not measured" in str(error)
    assert "It would fit with rank = 64, or audio_duration_seconds = " in str(error)
    seconds = float(str(error).rpartition(" = ")[2])
    assert peak(128, seconds) <= room < peak(128, seconds + 0.5)


def test_what_fits_with_no_setting_is_an_error_of_another_kind(base):
    with pytest.raises(SonoloraError, match="fit: with --weights nf4 --block-offload, rank = 8, ") as refused:
        check_fit(MODES["t2a"], request("t2a"), SETTINGS, base, CUDA, available=10**8)
    assert not isinstance(refused.value, InputError)


def test_changes_together(shallow):
    """Where no change alone is enough. What is given must stay shorter than the clip."""
    mode = MODES["audio-extend-prefix"]
    wish = request(mode.name, rank=64, audio_duration_seconds=20)
    least = RunSettings(weights="nf4", block_offload=True)
    room = count_needs(shallow, mode, request(mode.name, rank=8, audio_duration_seconds=1.5), least, CUDA).peak
    error = does_not_fit(shallow, mode, wish, least, CUDA, count_needs(shallow, mode, wish, least, CUDA), room)
    assert "It would fit with rank = 8, audio_duration_seconds = 1.5 together" in str(error)


def test_on_the_cpu_it_is_a_warning(base):
    warning = check_fit(MODES["t2a"], request("t2a"), SETTINGS, base, CPU, available=10**7)
    assert warning is not None
    assert "memory may not be enough" in warning


def test_available_memory_is_the_systems():
    assert 0 < available_bytes(CPU) < 2**50


def test_keeping_the_base_needs_captions_and_the_adapters_once_more(shape):
    mode = MODES["t2a"]
    request = parse(mode.request, {"training_data_url": "x", "rank": RANK})
    plain, keeping = (count_needs(shape, mode, request, RunSettings(preserve=share), CPU) for share in (0.0, 0.2))
    training, more = (next(one for one in needs.stages if one.name == "training") for needs in (plain, keeping))
    captions = len(FOREIGN_CAPTIONS) * shape.context_bytes(torch.float32, video=False)
    assert more.peak - training.peak == captions + plain.step.adapters


def test_examples_share_contexts_and_are_no_part_of_the_peak(shape):
    """They are on the device where they fit beside it, and otherwise on the host."""
    one, many, alike = (
        count_needs(shape, MODES["t2a"], request("t2a"), SETTINGS, CUDA, *numbers)
        for numbers in ((1,), (1000, 1000), (1000, 1))
    )
    assert one.peak == many.peak == alike.peak
    assert many.examples == 1000 * one.examples
    context = shape.context_bytes(torch.bfloat16, video=False)
    assert context == shape.context_tokens * shape.transformer_config.audio.context_dim * 2
    assert many.examples - alike.examples == 999 * context


def test_it_needs_no_gpu_and_little_memory(published):
    """A step of the full shape with a video, of which nothing is allocated."""

    def kilobytes():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = kilobytes()
    counted = step_bytes(published, training_step(MODES["v2a"], request("v2a"), SETTINGS), "cuda")
    assert counted.activations > 10**10
    assert kilobytes() - before < 10**6
