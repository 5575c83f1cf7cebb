"""From an archive to fitted clips: every kind of bad file, each with words that a person can act on."""

from __future__ import annotations

import numpy as np
import pytest

from sonolora.core.errors import InputError
from sonolora.data.clips import load_clips, with_trigger
from sonolora.data.dataset_files import discover
from sonolora.data.report import Report
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_audio
from sonolora.modes import MODES
from sonolora.modes.request import parse

RATE = 16000


def noise(seconds, level=0.5, channels=2, rate=RATE, seed=0):
    random = np.random.default_rng(seed)
    return Waveform(random.uniform(-level, level, (channels, round(seconds * rate))).astype(np.float32), rate)


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(mode="t2a", dataset=False, preview_inputs=None, **fields):
        mode = MODES[mode]
        request = parse(mode.request, {"training_data_url": "x", "audio_duration_seconds": 1.0, **fields})
        report = Report()
        files = discover(tmp_path)
        clips = list(load_clips(mode, request, files, RATE, tokenizer, report, [].append, preview_inputs))
        if dataset:
            return clips, report.as_json()["warnings"]
        return clips, {entry["file"]: entry for entry in report.as_json()["files"]}

    return load


def test_clips_are_stereo_at_the_codecs_rate_and_exactly_long(tmp_path, load):
    write_audio(tmp_path / "mono.wav", noise(1.5, channels=1, rate=44100))
    write_audio(tmp_path / "surround.wav", noise(1.0, channels=6, rate=48000))
    clips, report = load()
    assert [clip.name for clip in clips] == ["mono", "surround"]
    for clip in clips:
        assert clip.audio.sample_rate == RATE
        assert clip.audio.samples.shape == (2, RATE)
        assert np.abs(clip.audio.samples).max() == pytest.approx(10 ** (-1 / 20), rel=1e-4), "normalised to -1 dBFS"
    assert report["mono.wav"]["status"] == "fitted"
    assert "trimmed from 1.500 s to 1.000 s" in report["mono.wav"]["detail"]
    assert report["surround.wav"]["status"] == "used"


def test_normalising_can_be_turned_off(tmp_path, load):
    write_audio(tmp_path / "quiet.wav", noise(1.0, level=0.1))
    (clip,), _ = load(audio_normalize=False)
    assert np.abs(clip.audio.samples).max() == pytest.approx(0.1, rel=0.01)


def test_trigger_phrase_stands_before_every_caption_once(tmp_path, load):
    for name, caption in (("a", "rain on a roof"), ("b", "f0ley rain on a roof"), ("c", None)):
        write_audio(tmp_path / f"{name}.wav", noise(1.0))
        if caption is not None:
            (tmp_path / f"{name}.txt").write_text(caption)
    clips, report = load(trigger_phrase=" f0ley ")
    assert [clip.caption for clip in clips] == ["f0ley rain on a roof", "f0ley rain on a roof", "f0ley"]
    assert any("no caption" in warning for warning in report["c.wav"]["warnings"])
    assert with_trigger("", "x") == "x"
    assert with_trigger("rain", "raindrops") == "rain raindrops", "a word that merely begins like it"


def test_a_text_file_renamed_wav_is_skipped_by_name(tmp_path, load):
    write_audio(tmp_path / "good.wav", noise(1.0))
    (tmp_path / "fake.wav").write_text("this is not sound")
    (tmp_path / "fake.txt").write_text("its caption")
    clips, report = load()
    assert len(clips) == 1
    assert report["fake.wav"]["status"] == report["fake.txt"]["status"] == "skipped"
    assert "not audio" in report["fake.wav"]["detail"]
    assert report["fake.txt"]["detail"] == "its clip is skipped"


def test_an_archive_of_nothing_but_broken_files_names_them(tmp_path, load):
    (tmp_path / "fake.wav").write_text("this is not sound")
    (tmp_path / "empty.mp3").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 2 clips can be used.*empty\.mp3.*fake\.wav"):
        load()


def test_a_truncated_mp3_is_trained_on_what_there_is_and_warned_about(tmp_path, load):
    write_audio(tmp_path / "cut.mp3", noise(3.0))
    data = (tmp_path / "cut.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(data[: len(data) // 2])
    clips, report = load()
    assert len(clips) == 1
    assert any("its header says 3.0" in warning for warning in report["cut.mp3"]["warnings"])


def test_a_silent_clip_is_used_and_warned_about(tmp_path, load):
    write_audio(tmp_path / "silent.wav", noise(1.0, level=0))
    (clip,), report = load()
    assert not clip.audio.samples.any(), "and not amplified"
    assert any("silent" in warning for warning in report["silent.wav"]["warnings"])


def test_a_caption_without_a_clip_is_reported(tmp_path, load):
    write_audio(tmp_path / "good.wav", noise(1.0))
    (tmp_path / "lonely.txt").write_text("who am I?")
    _, report = load()
    assert report["lonely.txt"]["status"] == "skipped"
    assert "a caption without a clip" in report["lonely.txt"]["detail"]


def test_captions_in_a_wrong_encoding_stop_the_run_before_any_clip_is_read(tmp_path, load):
    for name in ("good", "better", "best"):
        (tmp_path / f"{name}.wav").write_text("not even sound")
        (tmp_path / f"{name}.txt").write_bytes("мягкий дождь".encode("cp1251" if name != "best" else "utf-8"))
    with pytest.raises(InputError, match=r"better\.txt: not valid UTF-8.*\n.*good\.txt: not valid UTF-8"):
        load()


def test_no_audio_at_all_lists_what_is_there_and_what_is_wanted(tmp_path, load):
    (tmp_path / "picture.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no audio clips found \(found picture\.jpg\)") as caught:
        load()
    assert caught.value.items[0].ctx["supported_formats"][0] == ".wav"


def test_clips_of_another_mode_are_told_what_their_names_lack(tmp_path, load):
    for name in ("one", "two"):
        write_audio(tmp_path / f"{name}.wav", noise(1.0))
        (tmp_path / f"{name}.txt").write_text("rain")
    with pytest.raises(InputError) as caught:
        load("a2a")
    said = str(caught.value)
    assert said.startswith("training_data_url: no pairs found: one.wav: ") and "two.wav: " in said
    assert "a pair needs x_start and x_end" in said and "one.txt" not in said
    with pytest.raises(InputError, match=r"one\.wav has no mask: add one_mask\.json"):
        load("audio-inpaint")


def test_nothing_more_is_said_of_a_clip_that_is_skipped(tmp_path, load):
    for name in ("good", "better"):
        write_audio(tmp_path / f"{name}.wav", noise(1.0))
        (tmp_path / f"{name}.txt").write_text(f"rain, {name}")
    write_audio(tmp_path / "short.wav", noise(0.5, level=0))
    (tmp_path / "short.txt").write_text("rain, good")
    _, report = load(audio_normalize=False)
    assert report["short.wav"]["status"] == report["short.txt"]["status"] == "skipped"
    assert report["short.wav"]["warnings"] == report["short.txt"]["warnings"] == ()
    assert report["good.txt"]["warnings"] == (), "nor of what is like it"


def test_an_empty_folder_says_so(load):
    with pytest.raises(InputError, match="found no files"):
        load()


def test_two_files_with_one_name_are_named(tmp_path, load):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_audio(tmp_path / folder / "x.wav", noise(1.0))
    with pytest.raises(InputError, match=r"a/x\.wav.*b/x\.wav"):
        load()


def test_other_files_and_metadata_are_reported_and_do_no_harm(tmp_path, load):
    write_audio(tmp_path / "good.wav", noise(1.0))
    (tmp_path / "notes.pdf").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._good.wav").write_bytes(b"x")
    clips, report = load()
    assert len(clips) == 1
    assert report["notes.pdf"]["status"] == "skipped"
    assert report[".DS_Store"]["status"] == "ignored"


def test_captions_pair_across_folders_and_letter_case(tmp_path, load):
    (tmp_path / "audio").mkdir()
    (tmp_path / "text").mkdir()
    write_audio(tmp_path / "audio" / "Clip.wav", noise(1.0))
    (tmp_path / "text" / "clip.txt").write_text("here")
    (clip,), _ = load()
    assert clip.caption == "here"


@pytest.mark.parametrize(("seconds", "preserve", "how"), [(0.99, True, "stretched"), (0.99, False, "padded")])
def test_preserving_pitch_is_about_near_misses(tmp_path, load, seconds, preserve, how):
    write_audio(tmp_path / "near.wav", noise(seconds))
    _, report = load(audio_preserve_pitch=preserve)
    assert report["near.wav"]["detail"].startswith(how)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        (f"[[0, {'9' * 400}]]", "not finite"),
        (f"[{', '.join(['[50.0, 60.0]'] * 50_000)}]", "no range lies inside the clip"),
        (" " * (1 << 20) + "[[0.1, 0.2]]", "too many for a mask"),
    ],
    ids=["deep", "huge number", "many ranges", "huge file"],
)
def test_no_mask_is_more_than_an_error_of_one_line(tmp_path, load, text, words):
    write_audio(tmp_path / "one.wav", noise(1.0))
    (tmp_path / "one_mask.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load("audio-inpaint")
    assert "one_mask.json" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_damaged_partner_does_not_make_a_clip_too_short(tmp_path, load):
    write_audio(tmp_path / "x_end.wav", noise(1.5))
    (tmp_path / "x_start.wav").write_text("no sound")
    with pytest.raises(InputError, match="none of the 2 clips can be used") as caught:
        load("a2a")
    assert caught.value.items[0].type == "value_error"


@pytest.mark.parametrize(
    ("seconds", "preserve", "spans"),
    [
        (1.02, True, ((0.5 / 1.02, 0.6 / 1.02), (0.99 / 1.02, 1.0))),
        (0.98, True, ((0.5 / 0.98, 0.6 / 0.98),)),
        (1.02, False, ((0.5, 0.6), (0.99, 1.0))),
        (1.5, True, ((0.5, 0.6), (0.99, 1.0))),
    ],
)
def test_a_mask_is_stretched_with_its_clip(tmp_path, load, seconds, preserve, spans):
    write_audio(tmp_path / "one.wav", noise(seconds))
    (tmp_path / "one_mask.json").write_text("[[0.5, 0.6], [0.99, 1.02]]")
    (clip,), _ = load("audio-inpaint", audio_preserve_pitch=preserve)
    assert np.array(clip.regenerate) == pytest.approx(np.array(spans), abs=1e-4)


def test_a_mask_of_nothing_that_the_clip_has(tmp_path, load):
    write_audio(tmp_path / "one.wav", noise(0.985))
    (tmp_path / "one_mask.json").write_text("[[0.99, 1.0]]")
    with pytest.raises(InputError, match="no range of its mask lies inside it"):
        load("audio-inpaint")


def ramp(seconds):
    """A sound of which every second is louder than the one before."""
    samples = noise(seconds).samples * np.linspace(0.1, 1.0, round(seconds * RATE), dtype=np.float32)
    return Waveform(samples, RATE)


@pytest.mark.parametrize(("mode", "part"), [("audio-extend-suffix", "last"), ("audio-extend-prefix", "first")])
def test_extension_trains_the_end_of_a_long_clip_backward_and_the_beginning_forward(tmp_path, load, mode, part):
    write_audio(tmp_path / "long.wav", ramp(3.0))
    (clip,), report = load(mode, audio_normalize=False, conditioning_seconds=0.4)
    written = decode_audio(tmp_path / "long.wav").waveform.samples
    expected = written[:, -RATE:] if part == "last" else written[:, :RATE]
    np.testing.assert_array_equal(clip.audio.samples, expected)
    assert ("the last" in report["long.wav"]["detail"]) == (part == "last")
    assert clip.regenerate == (((0.0, 0.6),) if part == "last" else ((0.4, 1.0),))


def test_what_is_measured_is_what_is_trained(tmp_path, load):
    samples = noise(3.0, level=0.05).samples
    samples[:, RATE:] = 0.0
    samples[:, 2 * RATE :] = np.clip(noise(1.0, level=4.0).samples, -1, 1)
    write_audio(tmp_path / "a.wav", Waveform(samples, RATE))
    _, report = load("audio-extend-prefix", conditioning_seconds=0.4)
    facts = report["a.wav"]["facts"]
    assert (facts["seconds"], facts["silence"]) == (3.0, 0.0)
    assert facts["peak_dbfs"] == pytest.approx(-26, abs=0.5)
    assert not any("clipped" in text for text in report["a.wav"]["warnings"])
    _, report = load("audio-extend-suffix", conditioning_seconds=0.4)
    assert report["a.wav"]["facts"]["peak_dbfs"] == 0.0
    assert any("clipped" in text for text in report["a.wav"]["warnings"])


def dataset_warnings(load, mode="t2a", **fields):
    return load(mode, dataset=True, **fields)[1]


def test_warnings_about_the_whole_dataset(tmp_path, load):
    for index in range(11):
        write_audio(tmp_path / f"c{index}.wav", noise(1.0 if index < 3 else 0.7, seed=index))
    warnings = dataset_warnings(load, trigger_phrase="f0ley", validation=[{"prompt": "a bell"}])
    assert [text.split(":")[0].split(",")[0] for text in warnings] == [
        "only 3 clips",
        "8 of 11 clips are skipped",
        "validation.0.prompt lacks the trigger phrase 'f0ley'",
    ]
    assert "With audio_duration_seconds = 0.7, all of them would be used" in warnings[1]
    assert dataset_warnings(load, audio_duration_seconds=0.6, validation=[{"prompt": "a bell"}]) == []
    kept = {"conditioning_seconds": 0.53, "audio_duration_seconds": 0.6}
    (warning,) = dataset_warnings(load, "audio-extend-prefix", **kept)
    assert "leave 2 latent frames" in warning


def test_a_preview_of_a_training_clip_is_found(tmp_path, load):
    for name in ("c0_start", "c0_end", "c1_start", "c1_end"):
        write_audio(tmp_path / f"{name}.wav", noise(1.0, seed=len(name) + ord(name[1]) + ord(name[3])))
    for source, field, mode in (
        ("c1_start.wav", "validation.0.reference_audio_url", "a2a"),
        ("c0_end.wav", "validation.0.audio_url", "audio-extend-suffix"),
    ):
        given = {field: tmp_path / source}
        extra = {"conditioning_seconds": 0.4} if mode != "a2a" else {}
        warnings = dataset_warnings(load, mode, preview_inputs=given, **extra)
        assert [text for text in warnings if text.startswith(f"{field} is {source}, which is trained on")]


def test_captions_from_a_table_are_trained(tmp_path, load):
    write_audio(tmp_path / "a.wav", noise(1.0))
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,a soft  rain\n")
    (clip,), report = load(trigger_phrase="f0ley")
    assert clip.caption == "f0ley a soft rain"
    assert report["metadata.csv"]["status"] == "used"
    assert report["a.wav"]["warnings"] == ()


def test_one_flaw_does_not_refuse_an_archive(tmp_path, load):
    for name in ("a", "b"):
        write_audio(tmp_path / f"{name}.wav", noise(1.0))
        (tmp_path / name).mkdir()
        (tmp_path / name / "cover.jpg").write_bytes(b"x")
    (tmp_path / "a_mask.json").write_text("[[0.2, 0.4], [0.5, 0.5], [-3, -1]]")
    (tmp_path / "b_mask.json").write_text("[[-0.2, 0.4]]")
    (tmp_path / "z_mask.json").write_text("[[0.2, 0.4]]")
    clips, report = load("audio-inpaint")
    assert [clip.regenerate for clip in clips] == [((0.2, 0.4),), ((0.0, 0.4),)]
    ignored, cut = ("; ".join(report[f"{name}_mask.json"]["warnings"]) for name in "ab")
    assert "[0.5, 0.5] is ignored" in ignored
    assert "[-3, -1] is ignored" in ignored
    assert "[-0.2, 0.4] is cut to [0, 0.4]" in cut
    assert report["z_mask.json"]["detail"].startswith("a mask without a clip")
    assert report["a/cover.jpg"]["status"] == report["b/cover.jpg"]["status"] == "skipped"
