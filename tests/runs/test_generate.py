"""`generate`: what is given keeps its length, its format and every sample that is not regenerated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from run_support import Recorded, Silent

from sonolora.core.errors import InputError
from sonolora.core.frames import frame_count
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.conditioning_inputs import load_conditioning_input
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache
from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.lora.adapters import add_adapters, save_lora
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.modes.negative_prompts import resolve_negative_prompt
from sonolora.modes.preview_spec import PreviewSpec
from sonolora.modes.request import NEGATIVE_PROMPT, parse
from sonolora.runs.generation.generate import GenerateSettings, generate
from sonolora.runs.generation.generation_clips import ClipLength, continued_windows, load_generation_input, region_input
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.preview import render
from sonolora.sampling.sampler import SamplingSettings

CPU = torch.device("cpu")
TRAINED = 0.5
CODEC_RATE = 16_000


@pytest.fixture(scope="module")
def base(shallow_base):
    return find_base(str(shallow_base))


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """Makes the LoRA of a mode that was trained on clips of half a second; it has no effect."""
    folder = tmp_path_factory.mktemp("loras")

    def make(mode, **metadata):
        path = folder / f"{mode}.safetensors"
        model = load_transformer(base.checkpoint, video=mode == "v2a", device=CPU, dtype=torch.float32)
        adapters = add_adapters(model, MODES[mode].lora_targets, 8, 0)
        text = {"mode": mode, "seconds": str(TRAINED), "conditioning_seconds": "0.2", **metadata}
        save_lora(path, adapters, {"format": "pt", **text})
        return path

    return make


def write_sound(path, seconds, rate=48_000, channels=2, subtype="PCM_16"):
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.4 * np.sin(2 * np.pi * 300 * (1 + 0.2 * np.sin(time)) * time)
    soundfile.write(path, np.stack([sound * (1 - 0.1 * index) for index in range(channels)], 1), rate, subtype)
    return str(path)


def write_silent_video(path, frames):
    pictures = np.zeros((frames, 64, 64, 3), np.uint8)
    pictures[frames // 2 :, 16:48, 16:48] = 255
    write_video(path, pictures, 24, None)
    return str(path)


@pytest.fixture(scope="module")
def run(shallow_base):
    def run(mode, body, out, told=None, **settings):
        settings = GenerateSettings(**{"base": str(shallow_base), "device": "cpu", "steps": 1, **settings})
        generate(MODES[mode], {"prompt": "a tone", **body}, settings, out, told or Silent())
        return out

    return run


def read(path):
    """Samples as integers of 32 bits, or as floats."""
    exact = soundfile.info(path).subtype in ("FLOAT", "DOUBLE")
    return soundfile.read(path, dtype="float64" if exact else "int32", always_2d=True)[0]


def outside(spans, count, rate):
    kept = np.ones(count, bool)
    for start, end in spans:
        kept[round(start * rate) : round(end * rate)] = False
    return kept


@pytest.mark.parametrize(
    ("name", "rate", "channels", "subtype"),
    [
        ("take.wav", 44_100, 2, "PCM_24"),
        ("take.wav", 22_050, 1, "PCM_16"),
        ("take.wav", 48_000, 6, "PCM_16"),
        ("take.wav", 96_000, 2, "PCM_32"),
        ("take.wav", 48_000, 2, "FLOAT"),
        ("take.flac", 44_100, 2, "PCM_16"),
    ],
)
def test_inpainting_gives_back_the_file_with_new_spans(name, rate, channels, subtype, lora, run, tmp_path):
    spans = [[0.1, 0.2], [1.5, 1.6], [2.95, 3.0]]
    source = write_sound(tmp_path / name, 3.0, rate, channels, subtype)
    out, told = tmp_path / f"out-{name}", Recorded()
    run("audio-inpaint", {"audio": source, "time_ranges": spans}, out, told, lora=lora("audio-inpaint"))
    before, after = soundfile.info(source), soundfile.info(out)
    assert (after.samplerate, after.channels, after.subtype) == (rate, channels, subtype)
    assert after.frames == before.frames
    old, new = read(source), read(out)
    kept = outside(spans, len(old), rate)
    assert np.array_equal(new[kept], old[kept])
    for start, end in spans:
        span = slice(round(start * rate), round(end * rate))
        assert (old[span] != new[span]).mean() > 0.9
        assert new[span].any(axis=0).all(), "every channel has sound"
    assert any("audio lasts 3.00 s: its ranges are regenerated in 3 regions of 0.5 s" in text for text in told.messages)
    assert out.with_suffix(".png").exists()


@pytest.mark.parametrize("side", ["prefix", "suffix"])
def test_an_extension_has_the_whole_file_and_as_much_new_as_in_training(side, lora, run, tmp_path):
    mode, rate = f"audio-extend-{side}", 44_100
    source = write_sound(tmp_path / "take.wav", 2.0, rate, 2, "PCM_24")
    out = run(mode, {"audio": source}, tmp_path / "out.wav", lora=lora(mode))
    old, new = read(source), read(out)
    added = round((TRAINED - 0.2) * rate)
    assert len(new) == len(old) + added
    assert np.array_equal(new[added:] if side == "suffix" else new[: len(old)], old)
    assert np.abs(new[:added] if side == "suffix" else new[len(old) :]).max() > 0
    assert soundfile.info(out).subtype == "PCM_24"


def test_48_khz_when_asked(lora, run, tmp_path):
    source = write_sound(tmp_path / "take.wav", 1.0, 44_100, 1, "PCM_24")
    body = {"audio": source, "time_ranges": [[0.2, 0.3]]}
    out = run("audio-inpaint", body, tmp_path / "out.wav", lora=lora("audio-inpaint"), output_48k=True)
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (48_000, 2, "PCM_16", 48_000)


def test_v2a_is_as_long_as_the_video(lora, run, tmp_path):
    body = {"video": write_silent_video(tmp_path / "silent.mp4", 20), "resolution": "low", "aspect_ratio": "16:9"}
    out = run("v2a", body, tmp_path / "out.wav", lora=lora("v2a"))
    assert soundfile.info(out).frames == round(20 / 24 * 48_000) == 40_000
    assert read(out)[-4000:].any(), "there is sound to the end"


def test_a2a_is_as_long_as_its_reference(lora, run, tmp_path):
    reference, told = write_sound(tmp_path / "reference.wav", 1.7, 44_100), Recorded()
    out = run("a2a", {"reference": reference}, tmp_path / "out.wav", told, lora=lora("a2a"))
    assert soundfile.info(out).frames == round(1.7 * 48_000)
    out = run("a2a", {"reference": reference, "seconds": 0.4}, tmp_path / "short.wav", lora=lora("a2a"))
    assert soundfile.info(out).frames == round(0.4 * 48_000)


class TestLengths:
    """The rules, without a network."""

    @pytest.fixture
    def load(self, tmp_path):
        def load(mode, body, told=None, longest=20.0):
            spec = parse(MODES[mode].generation, {"prompt": "x", **body}).spec()
            return load_generation_input(spec, ClipLength(TRAINED, longest), CODEC_RATE, tmp_path, told or Silent())

        return load

    def test_what_is_longer_than_the_base_knows_is_split_and_nothing_is_lost(self, load, tmp_path):
        told = Recorded()
        given = load("a2a", {"reference": write_sound(tmp_path / "r.wav", 30.0)}, told)
        assert given.seconds == 30.0
        last, _ = given.windows[-1]
        assert last + frame_count(20.0) == frame_count(30.0)
        for _, one in given.windows:
            assert {frame_count(sound.seconds) for sound in (one.clip.audio, one.clip.reference)} == {501}
            assert one.clip.reference.samples.any()
        assert "30.00 s are more than the 20 s that the base knows" in told.messages[0]
        assert "20.00 s are 40.0 times" in told.warnings[0]

    def test_what_the_base_knows_is_generated_at_once(self, load, tmp_path):
        (window,) = load("a2a", {"reference": write_sound(tmp_path / "r.wav", 6.0)}).windows
        assert window[1].clip.reference.seconds == 6.0

    def test_a_range_beyond_the_end_is_told(self, load, tmp_path):
        told, source = Recorded(), write_sound(tmp_path / "s.wav", 0.7)
        load("audio-inpaint", {"audio": source, "time_ranges": [[0.2, 9.0]]}, told)
        assert told.warnings == ["audio lasts 0.70 s: time_ranges beyond its end are cut or ignored"]
        told = Recorded()
        load("audio-inpaint", {"audio": source, "time_ranges": [[0.2, 0.71]]}, told)
        assert told.warnings == []
        with pytest.raises(InputError, match=r"time_ranges: audio lasts 0\.70 s, and no range lies inside it"):
            load("audio-inpaint", {"audio": source, "time_ranges": [[0.8, 0.9]]})

    def test_the_length_of_an_extension(self, load, tmp_path):
        source = write_sound(tmp_path / "s.wav", 1.0)
        for body, expected in (
            ({"extend_seconds": 0.4}, 1.4),
            ({"seconds": 1.5}, 1.5),
            ({"conditioning_seconds": 0.3}, 1.2),
        ):
            given = load("audio-extend-prefix", {"audio": source, "conditioning_seconds": 0.2, **body})
            assert given.recording.seconds == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"seconds": 0.9}, r"seconds: audio lasts 1\.00 s and all of it is in the result, .*found 0\.9"),
            ({"seconds": 2, "extend_seconds": 1}, "set either seconds or extend_seconds"),
            ({"conditioning_seconds": 0.5}, "nothing to generate"),
            ({"conditioning_seconds": 1.5, "extend_seconds": 1}, r"lasts 1\.00 s and conditioning_seconds = 1\.5"),
        ],
    )
    def test_an_extension_that_cannot_be(self, load, tmp_path, body, words):
        with pytest.raises(InputError, match=words):
            load("audio-extend-prefix", {"audio": write_sound(tmp_path / "s.wav", 1.0), **body})

    def test_what_is_too_long_is_refused_and_not_cut(self, load, tmp_path):
        reference = write_sound(tmp_path / "r.wav", 301, 8000, 1)
        with pytest.raises(InputError, match=r"reference: it lasts 301\.0 s, and at most 300 s"):
            load("a2a", {"reference": reference})
        assert load("a2a", {"reference": reference, "seconds": 3}).seconds == 3

    def test_the_level_is_that_of_what_is_kept(self, load, tmp_path):
        """A loud fault inside the span does not make the context quiet."""
        time = np.arange(48_000 * 2) / 48_000
        sound = 0.05 * np.sin(2 * np.pi * 300 * time)
        sound[50_000:50_400] = 0.9
        soundfile.write(tmp_path / "s.wav", np.stack([sound, sound], 1), 48_000)
        body = {"prompt": "x", "audio": str(tmp_path / "s.wav"), "time_ranges": [[1.0, 1.1]]}
        given = load("audio-inpaint", body)
        spec = parse(MODES["audio-inpaint"].generation, body).spec()
        part = region_input(given.recording, given.regions[0], spec, CODEC_RATE)
        assert part.given.gain == pytest.approx(10 ** (-1 / 20) / 0.05, rel=0.01)
        assert part.first == round(0.8 * 48_000)
        assert part.paste[0] == pytest.approx((0.2, 0.3))

    @pytest.mark.parametrize("side", ["prefix", "suffix"])
    def test_a_long_extension_continues_itself(self, load, tmp_path, side):
        mode, told = f"audio-extend-{side}", Recorded()
        body = {"audio": write_sound(tmp_path / "s.wav", 1.0), "conditioning_seconds": 0.2, "extend_seconds": 3.0}
        (region,) = load(mode, body, told).regions
        assert region.end - region.start == pytest.approx(3.2)
        assert "3.00 s are added to audio in windows of 2 s, each of which continues the one before" in told.messages
        spec = parse(MODES[mode].generation, {"prompt": "x", **body}).spec()
        length = ClipLength(TRAINED, 20.0)
        assert continued_windows(spec, 1.2, length) == ([0], frame_count(1.2)), "at once, as far as the LoRA holds"
        starts, window = continued_windows(spec, 3.2, length)
        assert (sorted(starts)[0], sorted(starts)[-1] + window) == (0, frame_count(3.2))
        assert starts == sorted(starts, reverse=side == "suffix")
        assert all(abs(a - b) <= window - round(0.2 / 0.04) for a, b in pairwise(starts)), "with as much context"

    @pytest.mark.parametrize(("seconds", "warned"), [(0.2, False), (TRAINED, False), (2.0, False), (2.1, True)])
    def test_a_length_far_beyond_the_trained_one_is_warned_of(self, load, tmp_path, seconds, warned):
        for mode, body in (
            ("t2a", {"seconds": seconds}),
            ("a2a", {"reference": write_sound(tmp_path / "r.wav", seconds)}),
        ):
            told = Recorded()
            load(mode, body, told)
            assert [
                ("4.2 times the length of the LoRA's training clips (0.5 s)" in text) for text in told.warnings
            ] == ([True] if warned else [])

    @pytest.mark.parametrize(("frames", "padded"), [(3, 9), (9, 9), (12, 17), (20, 25), (41, 41)])
    def test_a_video_is_padded_by_its_last_frame(self, load, tmp_path, frames, padded):
        video = write_silent_video(tmp_path / "v.mp4", frames)
        given = load("v2a", {"video": video, "resolution": "low", "aspect_ratio": "16:9"})
        assert given.seconds == pytest.approx(frames / 24)
        film = given.windows[0][1].clip.frames
        assert len(film) == padded
        assert all(np.array_equal(frame, film[frames - 1]) for frame in film[frames:])
        assert not np.array_equal(film[0], film[frames - 1])

    def test_windows_of_a_video_show_what_is_seen_then(self, load, tmp_path):
        """A film of 1.2 s in windows of 0.5."""
        pictures = np.repeat(np.arange(0, 240, 5, dtype=np.uint8), 64 * 64 * 3).reshape(48, 64, 64, 3)
        write_video(tmp_path / "v.mp4", pictures, 40, None)
        body = {"video": str(tmp_path / "v.mp4"), "resolution": "low", "aspect_ratio": "16:9", "frame_rate": 40}
        given = load("v2a", body, longest=0.5)
        assert len(given.windows) > 3
        for start, one in given.windows:
            assert len(one.clip.frames) == 25
            assert one.clip.frames[0].mean() == pytest.approx(min(start * 0.04 * 40, 47) * 5, abs=6)


@pytest.mark.parametrize("mode", ["t2a", "a2a", "v2a", "audio-inpaint", "audio-extend-prefix", "audio-extend-suffix"])
def test_it_gives_the_samples_of_a_preview_that_is_given_the_same(mode, base, lora, run, tmp_path):
    source = write_sound(tmp_path / "given.wav", 0.2 if "extend" in mode else TRAINED)
    common = ("a tone", NEGATIVE_PROMPT)
    film = {}
    if mode == "v2a":
        video = write_silent_video(tmp_path / "silent.mp4", 9)
        (entry,) = [{"prompt": "a tone", "video_url": video}]
        small = {"validation_number_of_frames": 9, "validation_resolution": "low", "validation_aspect_ratio": "16:9"}
        request = parse(MODES[mode].request, {"training_data_url": "x", "validation": [entry], **small})
        (spec,) = MODES[mode].previews(request)
        film = {"video": video, "resolution": "low", "aspect_ratio": "16:9"}
    elif mode == "a2a":
        spec, film = PreviewSpec(*common, TRAINED, reference=source), {"reference": source}
    elif mode == "audio-inpaint":
        spec = PreviewSpec(*common, TRAINED, source=source, regenerate=((0.2, 0.3),))
        film = {"audio": source, "time_ranges": [[0.2, 0.3]]}
    elif mode == "t2a":
        spec = PreviewSpec(*common, TRAINED)
    else:
        before = mode.endswith("suffix")
        span = (0.0, TRAINED - 0.2) if before else (0.2, TRAINED)
        spec = PreviewSpec(*common, TRAINED, source=source, regenerate=(span,), given_seconds=0.2, source_at_end=before)
        film = {"audio": source}
    out = run(mode, film, tmp_path / "out.wav", lora=lora(mode), steps=2, seed=7)

    codec = load_audio_codec(base.checkpoint, device=CPU)
    encoder = Encoder(base, codec, Cache(default_cache_folder()), CPU, torch.float32, mode == "v2a")
    given = load_conditioning_input(spec, codec.sample_rate, codec.output_sample_rate, tmp_path)
    contexts = encoder.encode_texts(common, [].append)
    item = encoder.prepare_given(given, contexts, NEGATIVE_PROMPT)
    model = load_transformer(base.checkpoint, video=mode == "v2a", device=CPU, dtype=torch.float32)
    preview = render(model, codec, item, SamplingSettings(2, Guidance.of_base(base.checkpoint.metadata)), 7, CPU)
    expected = np.clip(np.rint(preview.samples.T * 32768), -32768, 32767).astype(int)
    assert np.array_equal(soundfile.read(out, dtype="int16")[0], expected)


def test_the_publishers_negative_prompt_has_a_name():
    assert "muted audio" in resolve_negative_prompt("published")
    assert resolve_negative_prompt("hiss") == "hiss"
    assert resolve_negative_prompt(NEGATIVE_PROMPT) == NEGATIVE_PROMPT
