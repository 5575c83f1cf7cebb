"""Every mode, from files to a LoRA that is used: training, preview, `generate`, and what its data may get wrong."""

from __future__ import annotations

import json
import wave
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from run_support import Silent, begin, eval_losses_of

from sonolora.core.errors import InputError
from sonolora.data.clips import load_clips
from sonolora.data.dataset_files import discover
from sonolora.data.report import Report
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio, write_wav
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.runs.generation.generate import GenerateSettings, generate

pytestmark = pytest.mark.xdist_group("modes")  # each mode is trained once
RATE = 48000
COMMON = {"rank": 8, "number_of_steps": 12, "learning_rate": 0.01, "trigger_phrase": "x"}
DEBUGGED = {  # modes whose debug archive is asked for, with what theirs has more than that of others
    "a2a": ("_reference_fitted.wav", "_reference_decoded.wav"),
    "audio-inpaint": ("_mask.json",),
    "v2a": ("_fitted.mp4",),
}
SHORT = {**COMMON, "audio_duration_seconds": 0.6}


def sweep(seconds=0.7, pitch=300.0, rate=RATE):
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * pitch * (1 + time) * time)
    return Waveform(np.stack([samples, samples]).astype(np.float32), rate)


SMALL_FILM = {"number_of_frames": 9, "resolution": "low", "aspect_ratio": "16:9"}
SMALL_PREVIEW = {"validation_number_of_frames": 9, "validation_resolution": "low", "validation_aspect_ratio": "16:9"}


def film(frames=10, pitch=300.0):
    """A square that jumps where the sound clicks."""
    picture = np.zeros((frames, 64, 64, 3), np.uint8)
    picture[frames // 2 :, 16:48, 16:48] = 255
    return picture, sweep(frames / 24, pitch)


def write_dataset(mode, folder, count=3):
    folder.mkdir()
    for index in range(count):
        (folder / f"c{index}.txt").write_text(f"a rising tone, number {index}")
        sound = sweep(pitch=250.0 + 80 * index)
        if mode == "a2a":
            write_audio(folder / f"c{index}_start.flac", sound)
            write_audio(folder / f"c{index}_end.wav", Waveform(sound.samples[:, ::-1].copy(), RATE))
        elif mode == "v2a":
            write_video(folder / f"c{index}.mp4", film(pitch=250.0 + 80 * index)[0], 24, film()[1])
        else:
            write_audio(folder / f"c{index}.wav", sound)
        if mode == "audio-inpaint":
            (folder / f"c{index}_mask.json").write_text("[[0.2, 0.4]]")
    return folder


def make_request(mode, data, assets):
    """The body of a request with one preview, and what `generate` must be asked for the same sound."""
    if mode == "v2a":
        write_video(assets / "silent.mp4", film()[0], 24, None)
        body = {**COMMON, **SMALL_FILM, **SMALL_PREVIEW, "number_of_steps": 60}
        entry = {"video_url": str(assets / "silent.mp4")}
        asked = {"video": str(assets / "silent.mp4"), "seconds": 9 / 24}
    else:
        body = dict(SHORT)
        write_wav(assets / "given.wav", sweep(pitch=400))
        path, span = str(assets / "given.wav"), {"time_ranges": [[0.2, 0.4]]}
        # `generate` uses all of a clip, a preview as much as fits in.
        part = sweep(pitch=400).samples[:, -9600:] if mode.endswith("suffix") else sweep(pitch=400).samples[:, :9600]
        write_wav(assets / "part.wav", Waveform(part, RATE))
        entry, asked = {
            "a2a": ({"reference_audio_url": path}, {"reference": path, "seconds": 0.6}),
            "audio-inpaint": ({"audio_url": path, **span}, {"audio": path, **span, "seconds": 0.6}),
            "audio-extend-suffix": ({"audio_url": path}, {"audio": str(assets / "part.wav")}),
            "audio-extend-prefix": ({"audio_url": path}, {"audio": str(assets / "part.wav")}),
        }[mode]  # fmt: skip
        if mode.startswith("audio-extend"):
            body["conditioning_seconds"] = 0.2
    prompt = "x a rising tone, number 1"
    body["debug_dataset"] = mode in DEBUGGED
    body |= {"training_data_url": str(data), "validation": [{"prompt": prompt, **entry}]}
    return body, {"prompt": prompt, **asked}


def samples_of(path):
    with wave.open(str(path)) as file:
        assert file.getframerate() == RATE
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, 2)


@pytest.fixture(scope="module", params=[mode for mode in MODES if mode != "t2a"])
def trained(request, tmp_path_factory, settings):
    """One run of each mode but `t2a`, which test_start.py has: (mode, its folder, what to ask of `generate`)."""
    mode = request.param
    root = tmp_path_factory.mktemp(mode)
    body, asked = make_request(mode, write_dataset(mode, root / "data"), root)
    begin(mode, body, replace(settings, preview_every=1000), root / "run")
    return mode, root / "run", asked


def test_the_loss_falls_and_the_lora_names_its_mode(trained):
    mode, run, _ = trained
    first, last = eval_losses_of(run).values()
    assert last < (0.85 if mode == "v2a" else 0.98) * first, mode
    metadata = Checkpoint.open(run / "lora.safetensors").metadata
    assert metadata["mode"] == mode
    tensors = Checkpoint.open(run / "lora.safetensors").tensors
    assert any("video_to_audio_attn" in name for name in tensors) == (mode == "v2a")
    assert not any(".attn1." in name or ".ff." in name for name in tensors), "the video stream is not touched"


def test_generate_gives_the_samples_of_the_preview(trained, settings, tmp_path):
    mode, run, asked = trained
    how = GenerateSettings(run / "lora.safetensors", base=settings.base, device="cpu", steps=4)
    generate(MODES[mode], asked, how, tmp_path / "x.wav", Silent())
    assert np.array_equal(samples_of(tmp_path / "x.wav"), samples_of(run / "preview.wav"))


def test_what_is_kept_is_kept_sample_for_sample(trained):
    mode, run, _ = trained
    if mode not in ("audio-inpaint", "audio-extend-suffix", "audio-extend-prefix"):
        pytest.skip("nothing of the target is given in this mode")
    given = samples_of(run.parent / "given.wav")
    result = samples_of(run / "preview.wav")
    assert len(result) == round(0.6 * RATE)
    kept = {
        "audio-inpaint": [(slice(0, 9600), slice(0, 9600)), (slice(19200, 28800), slice(19200, 28800))],
        "audio-extend-suffix": [(slice(-9600, None), slice(-9600, None))],
        "audio-extend-prefix": [(slice(0, 9600), slice(0, 9600))],
    }[mode]
    for mine, theirs in kept:
        # The writer rounds to 16 bits once more.
        assert np.abs(result[mine].astype(int) - given[theirs]).max() <= 1
    assert np.abs(np.diff(result.astype(int), axis=0)).max() < 20000, "no step at a seam as large as full scale"


def test_every_file_has_a_verdict(trained):
    mode, run, _ = trained
    files = json.loads((run / "report.json").read_text())["files"]
    assert {entry["file"] for entry in files} == {path.name for path in (run.parent / "data").iterdir()}
    assert {entry["status"] for entry in files} <= {"used", "fitted"}, mode


def test_debug_archive_has_what_the_mode_has(trained):
    mode, run, _ = trained
    if mode not in DEBUGGED:
        assert not (run / "debug_dataset.zip").exists()
        return
    names = set(zipfile.ZipFile(run / "debug_dataset.zip").namelist())
    endings = ("_fitted.wav", "_decoded.wav", ".png", ".txt", *DEBUGGED[mode])
    assert names == {"report.json", *(f"c{index}{ending}" for index in range(3) for ending in endings)}


def test_seconds_follow_from_the_film(trained):
    mode, run, _ = trained
    expected = round(9 / 24 * RATE) if mode == "v2a" else round(0.6 * RATE)
    assert len(samples_of(run / "preview.wav")) == expected


@pytest.fixture
def refused(settings, tmp_path):
    """The items of the error that a run on this data is refused with."""

    def refused(mode, folder, body, words):
        with pytest.raises(InputError, match=words) as caught:
            begin(mode, {**body, "training_data_url": str(folder)}, settings, tmp_path / "run")
        return caught.value.items

    return refused


def test_a_pair_with_a_short_side_is_skipped_whole(tmp_path, load):
    data = write_dataset("a2a", tmp_path / "data", count=2)
    write_audio(data / "c0_start.flac", sweep(0.3))
    clips, files = load("a2a", data, **SHORT)
    assert [clip.name for clip in clips] == ["c1"]
    assert "too short" in files["c0_start.flac"]["detail"]
    assert "its partner c0_start.flac is skipped" in files["c0_end.wav"]["detail"]
    assert files["c0.txt"]["status"] == "skipped"
    assert files["c1_end.wav"]["status"] == "fitted"


def test_no_whole_pair_is_an_error(tmp_path, refused):
    data = write_dataset("a2a", tmp_path / "data", count=1)
    write_audio(data / "c0_start.flac", sweep(0.3))
    refused("a2a", data, SHORT, "no clip can be used")


def test_every_wrong_mask_is_named_with_its_range(tmp_path, refused):
    data = write_dataset("audio-inpaint", tmp_path / "data")
    (data / "c0_mask.json").write_text("[[0.5, 0.2]]")
    (data / "c2_mask.json").write_bytes(b"\xff\xfe")
    items = refused("audio-inpaint", data, SHORT, r"c0_mask\.json: .*\[0\.5, 0\.2\]")
    assert len(items) == 2
    assert "c2_mask.json: not text in UTF-8" in items[1].msg


def test_silent_videos_are_named(tmp_path, refused):
    data = write_dataset("v2a", tmp_path / "data")
    write_video(data / "mute.mp4", film()[0], 24, None)
    refused("v2a", data, {**COMMON, **SMALL_FILM}, r"must have an audio track.*mute\.mp4")


def test_videos_that_are_all_too_short_say_the_published_words(tmp_path, refused):
    data = write_dataset("v2a", tmp_path / "data")
    items = refused("v2a", data, {**COMMON, "number_of_frames": 89}, "All training videos are")
    assert items[0].msg.startswith("All training videos are too short to be trainable")
    assert items[0].ctx["provided_duration"] == pytest.approx(10 / 24, abs=0.05)


@pytest.fixture
def load(tokenizer):
    """The clips of a dataset and what the report says of each file, without training."""

    def load(mode, folder, **fields):
        request, report = parse(MODES[mode].request, {**fields, "training_data_url": str(folder)}), Report()
        clips = list(load_clips(MODES[mode], request, discover(folder), 16000, tokenizer, report, [].append))
        return clips, {entry["file"]: entry for entry in report.as_json()["files"]}

    return load


@pytest.fixture
def load_films(load):
    return lambda folder, **fields: load("v2a", folder, **SMALL_FILM | fields)


def test_auto_scaling_retimes_them(tmp_path, load_films):
    data = write_dataset("v2a", tmp_path / "data", count=1)
    (clip,), files = load_films(data, number_of_frames=25, auto_scale_input=True)
    assert clip.frames.shape == (25, 288, 512, 3)
    assert clip.audio.samples.shape == (2, round(25 / 24 * 16000))
    assert files["c0.mp4"]["status"] == "fitted"
    assert "slowed down" in files["c0.mp4"]["detail"]


@pytest.mark.parametrize(("rate", "auto", "extension"), [(24, False, "mp4"), (12, False, "mkv"), (24, True, "mov")])
def test_flash_and_click_stay_together_to_within_a_frame(tmp_path, load_films, rate, auto, extension):
    (tmp_path / "data").mkdir()
    pictures = np.zeros((48, 64, 64, 3), np.uint8)
    sound = Waveform(np.zeros((2, 2 * RATE), np.float32), RATE)
    for frame in (11, 30, 41):
        pictures[frame] = 255
        sound.samples[:, frame * 2000 : frame * 2000 + 200] = 0.9
    write_video(tmp_path / "data" / f"x.{extension}", pictures, 24, sound)
    count = 33 if auto else 2 * rate - (2 * rate - 1) % 8
    (clip,), _ = load_films(tmp_path / "data", number_of_frames=count, frame_rate=rate, auto_scale_input=auto)
    light = clip.frames.mean(axis=(1, 2, 3))
    loud = np.abs(clip.audio.samples).max(axis=0)
    flashes = [frame / rate for frame in np.flatnonzero(light > 128)]
    quiet = np.concatenate([[True], loud[:-1] < 0.2])
    starts = np.flatnonzero((loud >= 0.2) & quiet) / 16000
    assert flashes, "a flash may fall between two frames, but not all of them"
    for flash in flashes:
        assert np.abs(starts - flash).min() <= 1 / rate + 0.001


def write_two_scenes(folder, silent_end):
    folder.mkdir()
    pictures = np.concatenate([np.full((30, 64, 64, 3), level, np.uint8) for level in (20, 230)])
    sound = sweep(60 / 24)
    if silent_end:
        sound.samples[:, 30 * 2000 :] = 0
    write_video(folder / "two.mov", pictures, 24, sound)
    return folder


SPLIT = {"split_input_into_scenes": True, "split_input_duration_threshold": 1.0}


def test_scenes_are_split_when_asked(tmp_path, load_films):
    folder = write_two_scenes(tmp_path / "data", silent_end=False)
    clips, files = load_films(folder, **SPLIT)
    assert [clip.name for clip in clips] == ["two_scene1", "two_scene2"]
    assert [clip.frames.mean() < 128 for clip in clips] == [True, False]
    assert "scene 2 from 1.25 s" in files["two.mov"]["detail"]
    assert len(load_films(folder, split_input_into_scenes=True)[0]) == 1, "shorter than the threshold"


def test_a_silent_trailing_scene_is_an_error(tmp_path, load_films):
    with pytest.raises(InputError, match=r"two\.mov, scene 2 .*no sound"):
        load_films(write_two_scenes(tmp_path / "data", silent_end=True), **SPLIT)


@pytest.mark.parametrize("mode", ["audio-extend-suffix", "audio-extend-prefix"])
def test_a_preview_clip_shorter_than_what_is_needed_is_refused_at_its_field(mode, tmp_path, refused):
    write_wav(tmp_path / "tiny.wav", sweep(0.15))
    body = {
        **SHORT,
        "conditioning_seconds": 0.3,
        "validation": [{"prompt": "x", "audio_url": str(tmp_path / "tiny.wav")}],
    }
    items = refused(mode, write_dataset(mode, tmp_path / "data"), body, r"lasts 0\.15 s")
    assert items[0].loc == ("body", "validation", 0, "audio_url")


def test_a_preview_address_that_is_not_there_is_refused_at_its_field(tmp_path, refused):
    body = {**SHORT, "validation": [{"prompt": "x", "reference_audio_url": str(tmp_path / "none.wav")}]}
    items = refused("a2a", write_dataset("a2a", tmp_path / "data"), body, r"none\.wav")
    assert items[0].loc == ("body", "validation", 0, "reference_audio_url")


def test_a_silent_track_counts_as_silent(tmp_path, load_films):
    """Also where the file has sound, but not in the part that is trained."""
    data = write_dataset("v2a", tmp_path / "data", count=1)
    pictures, _ = film(48)
    late = Waveform(np.zeros((2, 2 * RATE), np.float32), RATE)
    late.samples[:, RATE:] = 0.5 * np.random.default_rng(0).normal(size=(2, RATE)).clip(-1, 1)
    write_video(data / "late.mov", pictures, 24, late)
    write_video(data / "quiet.mov", pictures, 24, Waveform(np.zeros((2, 2 * RATE), np.float32), RATE))
    with pytest.raises(InputError) as caught:
        load_films(data)
    seconds = SMALL_FILM["number_of_frames"] / 24
    for name in ("late.mov", "quiet.mov"):
        assert f"{name} (silent in the {seconds:.2f} s that are trained)" in str(caught.value)
    (data / "quiet.mov").unlink()
    clips, _ = load_films(data, auto_scale_input=True)
    assert {clip.name for clip in clips} == {"c0", "late"}, "then all of it is trained"


def test_videos_get_the_same_checks_as_clips(tmp_path, load_films):
    data = write_dataset("v2a", tmp_path / "data", count=1)
    pictures, _ = film(48)
    clipped = np.clip(8 * np.random.default_rng(1).normal(size=(2, 2 * RATE)), -0.9, 0.9).astype(np.float32)
    clipped[:, RATE:] = 0.0  # and what is not trained does not count
    write_video(data / "loud.mov", pictures, 24, Waveform(clipped, RATE))
    write_video(data / "copy.mov", pictures, 24, Waveform(clipped, RATE))
    _, files = load_films(data)
    assert any("clipped" in text for text in files["loud.mov"]["warnings"])
    assert not any("silent" in text for text in files["loud.mov"]["warnings"])
    assert any("the same sound as copy.mov" in text for text in files["loud.mov"]["warnings"])
    assert files["loud.mov"]["facts"]["peak_dbfs"] == pytest.approx(-0.9, abs=0.1)
