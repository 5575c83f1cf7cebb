"""Files and archives that each have one fault, and get exactly that warning or reason."""

from __future__ import annotations

import json
import re
import zipfile

import numpy as np
import pytest
from run_support import Silent

from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform, peak_normalized
from sonolora.media.write_audio import write_audio, write_wav
from sonolora.media.write_video import write_video
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.runs.check_data import check

RATE = 48000
SECONDS = 1.2


def sound(seed, seconds=SECONDS, rate=RATE, low=0.0):
    """A few bursts of stereo noise at random times: nothing to complain about."""
    random = np.random.default_rng(seed)
    count = round(seconds * rate)
    samples = random.normal(0, 0.0005, (2, count))
    # At irregular times, as real events: a regular beat has no lag that could be told.
    for start in np.cumsum(random.uniform(0.06, 0.24, 20)) - 0.05:
        if start > seconds - 0.05:
            break
        first = round(start * rate)
        length = min(round(0.12 * rate), count - first)
        samples[:, first : first + length] += random.normal(0, 0.3, (2, length)) * np.hanning(length)
    return peak_normalized(Waveform((samples + low).astype(np.float32), rate), -3.0)


def changed(waveform, samples):
    return Waveform(np.ascontiguousarray(samples, np.float32), waveform.sample_rate)


def from_half_a_second(waveform):
    return changed(waveform, np.where(np.arange(waveform.samples.shape[1]) < RATE / 2, 0, waveform.samples))


def weighted(waveform, left, right, *, mono=False):
    samples = waveform.samples[[0, 0]] if mono else waveform.samples
    return changed(waveform, samples * [[left], [right]])


def noise(level):
    return np.random.default_rng(6).normal(0, level, (2, round(SECONDS * RATE)))


def lowpassed(waveform, hertz):
    spectrum = np.fft.rfft(waveform.samples)
    spectrum[:, np.fft.rfftfreq(waveform.samples.shape[1], 1 / waveform.sample_rate) > hertz] = 0
    return changed(waveform, np.fft.irfft(spectrum, waveform.samples.shape[1]))


def good(folder, names=("one", "two", "three")):
    for index, name in enumerate(names):
        write_wav(folder / f"{name}.wav", sound(index))
        (folder / f"{name}.txt").write_text(f"bursts of noise, pattern {name}")


def bad_sound(waveform):
    def make(folder):
        good(folder)
        write_wav(folder / "bad.wav", waveform)
        (folder / "bad.txt").write_text("something odd")

    return make


def bad_bytes(name, data, caption=True):
    def make(folder):
        good(folder)
        (folder / name).write_bytes(data)
        if caption and not name.endswith(".txt"):
            (folder / "bad.txt").write_text("something odd")

    return make


def cut_short(extension, share=0.5):
    def make(folder):
        good(folder)
        path = folder / f"bad{extension}"
        write_audio(path, sound(9, 4.0))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        (folder / "bad.txt").write_text("something odd")

    return make


def twice(folder):
    good(folder)
    write_wav(folder / "zcopy.wav", sound(1))
    (folder / "zcopy.txt").write_text("another caption")


def reencoded(folder):
    good(folder)
    write_audio(folder / "zcopy.mp3", changed(sound(1), 0.5 * sound(1).samples))
    (folder / "zcopy.txt").write_text("another caption")


def same_captions(folder):
    good(folder)
    for name in ("one", "two", "three"):
        (folder / f"{name}.txt").write_text("a burst of noise")


def no_caption(folder):
    good(folder)
    (folder / "two.txt").unlink()


def masks(text):
    def make(folder):
        good(folder)
        for name in ("one", "two", "three"):
            (folder / f"{name}_mask.json").write_text("[[0.3, 0.6]]")
        (folder / "two_mask.json").write_text(text)

    return make


def pairs(change):
    def make(folder):
        for index, name in enumerate(("one", "two")):
            write_wav(folder / f"{name}_start.wav", sound(index, 1.4))
            write_wav(folder / f"{name}_end.wav", change(sound(index, 1.4)) if index else sound(7 + index, 1.4))
            (folder / f"{name}.txt").write_text(f"pattern {name}")
        # The first pair is a transformation without fault.
        softened = lowpassed(sound(0, 1.4), 9000)
        write_wav(folder / "one_end.wav", changed(softened, np.tanh(2 * softened.samples) / 2))

    return make


def unrelated(waveform):
    """A steady chirp where the reference has bursts."""
    time = np.arange(waveform.samples.shape[1]) / RATE
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 1.1 * time)
    return changed(waveform, np.sin(2 * np.pi * (300 + 900 * time) * time) * swell * [[0.5], [0.4]])


def sparse(waveform):
    """With pauses, in which noise is to be found."""
    return np.where(np.arange(waveform.samples.shape[1]) / RATE % 0.5 < 0.2, waveform.samples, 0)


def late(waveform):
    return changed(waveform, np.roll(waveform.samples, round(0.2 * RATE), axis=1))


def films(seconds_of_sound=0.5):
    def make(folder):
        for index in range(2):
            pictures = np.random.default_rng(index).integers(0, 255, (24, 64, 64, 3), np.uint8)
            write_video(folder / f"f{index}.mov", pictures, 24, sound(index, 1.0 if index else seconds_of_sound))
            (folder / f"f{index}.txt").write_text(f"film {index}")

    return make


WARNED = {
    "clipped": (bad_sound(changed(sound(5), np.clip(6 * sound(5).samples, -0.99, 0.99))), "bad.wav", "clipped"),
    "silent": (bad_sound(changed(sound(5), 0 * sound(5).samples)), "bad.wav", "silent: nothing in it"),
    "late start": (bad_sound(from_half_a_second(sound(5))), "bad.wav", "starts with"),
    "offset": (bad_sound(changed(sound(5), 0.7 * sound(5).samples + 0.15)), "bad.wav", "DC offset"),
    "dull": (bad_sound(lowpassed(sound(5), 4000)), "bad.wav", "cut off at"),
    "inverted": (bad_sound(weighted(sound(5), 1, -1, mono=True)), "bad.wav", "one of its channels is inverted"),
    "one side": (bad_sound(weighted(sound(5), 1, 0)), "bad.wav", "only one of its two channels"),
    "mono": (bad_sound(changed(sound(5), sound(5).samples[:1])), "bad.wav", "mono"),
    "low rate": (bad_sound(sound(5, rate=8000)), "bad.wav", "a sample rate of 8000 Hz"),
    "copy": (twice, "zcopy.wav", "the same sound as two.wav, sample for sample"),
    "re-encoded copy": (reencoded, "zcopy.mp3", "nearly the same sound as two.wav"),
    "same captions": (same_captions, "one.txt", "all 3 captions are the same"),
    "no caption": (no_caption, "two.wav", "no caption"),
    "empty caption": (bad_bytes("two.txt", b"  \n"), "two.txt", "is empty"),
    "noisy": (bad_sound(changed(sound(5), sparse(sound(5)) + noise(0.01))), "bad.wav", "steady background noise"),
    "Windows-1252": (bad_bytes("two.txt", "café noises".encode("cp1252")), "two.txt", "read as Windows-1252: 'café"),
    "weak caption": (bad_bytes("two.txt", b"bursts"), "two.txt", "'bursts' is a weak caption"),
    "cut mp3": (cut_short(".mp3"), "bad.mp3", "cut short: its header says"),
    "cut wav": (cut_short(".wav"), "bad.wav", "cut short: its header says"),
}  # fmt: skip
SKIPPED = {
    "text as wav": (bad_bytes("bad.wav", b"this is text" * 100), "bad.wav", "not audio"),
    "empty file": (bad_bytes("bad.mp3", b""), "bad.mp3", "empty"),
    "too short": (bad_sound(sound(5, 0.5)), "bad.wav", "too short"),
    "caption alone": (bad_bytes("alone.txt", b"who am I"), "alone.txt", "a caption without a clip"),
    "picture": (bad_bytes("cover.jpg", b"x", caption=False), "cover.jpg", "not used by this mode"),
    "hidden": (bad_bytes(".secret.wav", b"x", caption=False), ".secret.wav", "hidden"),
    "macOS": (bad_bytes("._one.wav", b"x", caption=False), "._one.wav", "macOS metadata"),
    "archive inside": (bad_bytes("more.zip", b"x", caption=False), "more.zip", "archive inside the archive"),
}
OTHER_MODES = {
    "late target": ("a2a", pairs(late), "two_end.wav", "the target comes 200 ms after"),
    "soft target": ("a2a", pairs(lambda s: changed(s, 0.2 * s.samples)), "two_end.wav", "softer than its reference"),
    "unrelated pair": ("a2a", pairs(lambda s: unrelated(s)), "two_end.wav", "nothing in common"),
    "ranges beyond": ("audio-inpaint", masks("[[0.3, 0.6], [2, 3]]"), "two_mask.json", "[2, 3] is ignored"),
    "equal pair": ("a2a", pairs(lambda s: s), "two_end.wav", "the same sound"),
    "mark all": ("audio-inpaint", masks("[[0.0, 0.95]]"), "two_mask.json", "95% of it is regenerated"),
    "mark little": ("audio-inpaint", masks("[[0.5, 0.51]]"), "two_mask.json", "only 1.0% of it is regenerated"),
    "short span": ("audio-inpaint", masks("[[0.2, 0.5], [0.7, 0.75]]"), "two_mask.json", "less than 4 latent frames"),
    "short sound": ("v2a", films(), "f0.mov", "its picture lasts 1.00 s and its sound 0.50 s"),
}  # fmt: skip
REFUSED = {
    "wrong encoding": ("t2a", bad_bytes("two.txt", "дождь".encode("cp1251")), r"two\.txt: not valid UTF-8"),
    "rich text": ("t2a", bad_bytes("two.txt", b"{\\rtf1 a bell}"), r"two\.txt: Rich Text"),
    "binary caption": ("t2a", bad_bytes("two.txt", b"a\x00b"), r"two\.txt: holds the control character"),
    "same name": ("t2a", bad_bytes("one.mp3", b"x", caption=False), r"names must be unique.*one\.mp3"),
    "mask of no list": ("audio-inpaint", masks("{}"), r"two_mask\.json: it must be a list"),
    "mask backwards": ("audio-inpaint", masks("[[0.5, 0.2]]"), r"two_mask\.json: .*\[0\.5, 0\.2\] is ignored"),
    "mask outside": ("audio-inpaint", masks("[[5, 6]]"), r"two_mask\.json: no range lies inside"),
    "mask not finite": ("audio-inpaint", masks("[[NaN, 1]]"), r"two_mask\.json: .*not finite"),
    "no mask": ("audio-inpaint", good, r"one\.wav has no mask"),
    "no pairs": ("a2a", bad_bytes("x_end.wav", b"x", caption=False), r"x_end\.wav has no reference"),
    "no videos": ("v2a", good, "no videos found"),
    "pictures": ("v2a", lambda folder: (folder / "a.png").write_bytes(b"x"), r"these are images.*a\.png"),
}


def examine(mode, folder, out):
    """The error, the verdicts, and all warnings as (file, text)."""
    fields = {"number_of_frames": 17, "resolution": "low"} if mode == "v2a" else {"audio_duration_seconds": 1.0}
    if mode == "a2a":
        fields["audio_normalize"] = False  # which would even out the levels
    request = parse(MODES[mode].request, {"training_data_url": str(folder), **fields})
    checked = check(MODES[mode], request, find_base("tiny"), out, Silent())
    files = {entry["file"]: entry for entry in json.loads((out / "report.json").read_text())["files"]}
    return checked.error, files, [(name, text) for name, entry in files.items() for text in entry["warnings"]]


def make(builder, folder):
    folder.mkdir()
    builder(folder)
    return folder


def test_sound_data_has_no_finding(tmp_path):
    error, files, warnings = examine("t2a", make(good, tmp_path / "data"), tmp_path / "out")
    assert error is None
    assert warnings == []
    assert {entry["status"] for entry in files.values()} == {"used", "fitted"}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("fault", WARNED)
def test_a_fault_is_warned_of_and_nothing_else(fault, tmp_path):
    builder, file, words = WARNED[fault]
    error, _, warnings = examine("t2a", make(builder, tmp_path / "data"), tmp_path / "out")
    assert error is None
    assert [name for name, text in warnings if words in text] == [file], warnings
    # Where the clips are longer than the training's, what trimming loses is said, too.
    others = [text for _, text in warnings if words not in text and "to trimming" not in text]
    if fault not in ("empty caption", "one side", "inverted", "silent"):
        assert others == []


@pytest.mark.parametrize("fault", SKIPPED)
def test_a_file_is_skipped_for_its_reason(fault, tmp_path):
    builder, file, words = SKIPPED[fault]
    error, files, warnings = examine("t2a", make(builder, tmp_path / "data"), tmp_path / "out")
    assert error is None
    assert files[file]["status"] in ("skipped", "ignored")
    assert words in files[file]["detail"]
    assert warnings == []


@pytest.mark.parametrize("fault", OTHER_MODES)
def test_other_modes_have_faults_of_their_own(fault, tmp_path):
    mode, builder, file, words = OTHER_MODES[fault]
    error, _, warnings = examine(mode, make(builder, tmp_path / "data"), tmp_path / "out")
    assert error is None
    assert [name for name, text in warnings if words in text] == [file], warnings


@pytest.mark.parametrize("fault", REFUSED)
def test_some_faults_stop_everything(fault, tmp_path):
    mode, builder, words = REFUSED[fault]
    error, _, _ = examine(mode, make(builder, tmp_path / "data"), tmp_path / "out")
    assert error is not None
    assert re.search(words, str(error)), str(error)


def test_a_damaged_archive_stops_everything(tmp_path):
    make(good, tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.write(tmp_path / "data" / "one.wav", "one.wav")
    content = bytearray((tmp_path / "data.zip").read_bytes())
    content[1000] ^= 0xFF
    (tmp_path / "data.zip").write_bytes(content)
    error, _, _ = examine("t2a", tmp_path / "data.zip", tmp_path / "out")
    assert error is not None
    assert error.items[0].type == "invalid_archive"
    assert "one.wav" in str(error)
