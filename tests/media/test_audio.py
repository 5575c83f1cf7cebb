from __future__ import annotations

import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sonolora.core.errors import MediaError
from sonolora.media import audio
from sonolora.media.audio import Waveform, decode_audio, peak, peak_normalized, resample, to_stereo
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio, write_wav


def _noise(channels: int, count: int) -> Waveform:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, count)).astype(np.float32)
    return Waveform(samples, 48_000)


def _encode(path: Path, stereo: Waveform, codec: str, **options: str) -> None:
    with av.open(str(path), "w", options={"write_xing": "0"}) as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo", options=options)
        interleaved = np.ascontiguousarray(stereo.samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        ("pcm_u8", 1 / 128),
        ("pcm_s16le", 1 / 2**15),
        ("pcm_s24le", 1 / 2**23),
        ("pcm_s32le", 1 / 2**23),
        ("pcm_f32le", 0.0),
        ("pcm_f64le", 0.0),
    ],
)
def test_every_sample_format_becomes_float_of_full_scale_one(tmp_path: Path, codec: str, tolerance: float) -> None:
    noise = _noise(2, 5000)
    _encode(tmp_path / "a.wav", noise, codec)
    decoded = decode_audio(tmp_path / "a.wav")
    assert decoded.warning is None
    assert decoded.waveform.samples.dtype == np.float32
    assert np.abs(decoded.waveform.samples - noise.samples).max() <= tolerance


@pytest.mark.parametrize(("name", "codec"), [("a.ogg", "vorbis"), ("a.m4a", "alac"), ("a.mkv", "pcm_s16le")])
def test_other_codecs_that_the_extensions_may_hold(tmp_path: Path, tones, peak_hertz, name: str, codec: str) -> None:
    _encode(tmp_path / name, tones(440, 660), codec, strict="experimental")
    decoded = decode_audio(tmp_path / name)
    assert decoded.warning is None
    assert decoded.waveform.seconds == pytest.approx(3.0, abs=0.01)
    assert [peak_hertz(decoded.waveform, channel) for channel in (0, 1)] == pytest.approx([440, 660], abs=0.1)


@pytest.mark.parametrize("channels", [1, 3, 8, 16])
def test_any_number_of_channels_is_kept_in_order(tmp_path: Path, channels: int) -> None:
    noise = _noise(channels, 3000)
    write_wav(tmp_path / "a.wav", noise)
    decoded = decode_audio(tmp_path / "a.wav").waveform
    np.testing.assert_allclose(decoded.samples, noise.samples, atol=1 / 2**15)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.wav", b"this is text\n" * 300, "not audio or video"),
        ("text.aac", b"this is text\n" * 300, "not audio or video"),
        ("empty.mp3", b"", "empty"),
        ("no_samples.wav", None, "no samples"),
        ("playlist.wav", b"ffconcat version 1.0\nfile secret.wav\n", "not audio or video"),
    ],
)
def test_what_is_not_sound_is_refused_in_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, content: bytes | None, reason: str
) -> None:
    write_wav(tmp_path / "secret.wav", _noise(1, 1000))
    if content is None:
        write_wav(tmp_path / name, Waveform(np.zeros((1, 0), np.float32), 48_000))
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        decode_audio(tmp_path / name)
    assert str(caught.value).startswith(f"{name}: ")
    assert capfd.readouterr() == ("", "")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        decode_audio(tmp_path / "gone.wav")


def test_video_without_sound_has_no_audio_track(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, width=32, height=32)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no audio track"):
        decode_audio(path)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", _noise(1, 1000))
    pcm_header = (tmp_path / "a.wav").read_bytes()[:44]
    # The same header, but format tag 3 (IEEE float) of 32 bits.
    samples = np.full(500, np.nan, "<f4").tobytes()
    header = pcm_header[:20] + struct.pack("<HHIIHH", 3, 1, 48_000, 192_000, 4, 32) + pcm_header[36:]
    (tmp_path / "nan.wav").write_bytes(header + samples)
    with pytest.raises(MediaError, match="not finite"):
        decode_audio(tmp_path / "nan.wav")


@pytest.mark.parametrize("extension", [".wav", ".mp3", ".flac"])
def test_cut_off_file_yields_its_beginning_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], extension: str
) -> None:
    whole, cut = tmp_path / f"whole{extension}", tmp_path / f"cut{extension}"
    # Noise, so that the bytes are spread evenly over the time.
    write_audio(whole, _noise(2, 144_000))
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 4 // 10])
    decoded = decode_audio(cut)
    assert decoded.waveform.seconds == pytest.approx(1.2, abs=0.1)
    assert decoded.warning is not None
    assert f"header says 3.00 s, {decoded.waveform.seconds:.2f} s could be decoded" in decoded.warning
    assert decode_audio(whole).warning is None
    assert capfd.readouterr() == ("", "")


def test_cut_off_m4a_has_lost_its_index(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    write_audio(path, _noise(2, 48_000))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MediaError, match="cut short"):
        decode_audio(path)


@pytest.mark.parametrize("extension", [".mp3", ".flac", ".ogg", ".aac", ".m4a"])
def test_damage_in_the_middle_is_reported(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    write_audio(path, _noise(2, 144_000))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    path.write_bytes(content)
    decoded = decode_audio(path)
    assert decoded.warning is not None
    assert decoded.warning.startswith("damaged")
    assert decoded.waveform.seconds > 1.4


def test_damage_throughout(tmp_path: Path) -> None:
    path = tmp_path / "a.aac"
    path.write_bytes(np.random.default_rng(2).bytes(20_000))
    with pytest.raises(MediaError):
        decode_audio(path)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_is_no_damage(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, _noise(1, 4321))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    decoded = decode_audio(path)
    assert decoded.waveform.samples.shape == (1, 4321)
    assert decoded.warning is None


def test_guessed_length_of_an_mp3_without_header_is_no_damage(tmp_path: Path) -> None:
    noise = _noise(2, 144_000)
    noise.samples[:, :72_000] = 0  # a silent start: few bits a second
    _encode(tmp_path / "a.mp3", noise, "libmp3lame", flags="+qscale", global_quality="236")
    with av.open(str(tmp_path / "a.mp3")) as container:
        assert container.duration > 3.5e6  # microseconds: a wrong guess
    decoded = decode_audio(tmp_path / "a.mp3")
    assert decoded.waveform.seconds == pytest.approx(3.0, abs=0.1)
    assert decoded.warning is None


def test_rate_that_changes_midway_is_refused(tmp_path: Path, tones) -> None:
    write_audio(tmp_path / "a.aac", tones(440, sample_rate=48_000))
    write_audio(tmp_path / "b.aac", tones(440, sample_rate=16_000))
    both = tmp_path / "both.aac"
    both.write_bytes((tmp_path / "a.aac").read_bytes() + (tmp_path / "b.aac").read_bytes())
    with pytest.raises(MediaError, match="changes midway"):
        decode_audio(both)


def test_name_with_a_colon_and_latin_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("http: 12:30 é.wav")
    write_wav(path, _noise(1, 1000))
    tag = b"INFOINAM\x06\x00\x00\x00caf\xe9s\x00"  # not valid UTF-8
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(tag)) + tag
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert decode_audio(path).waveform.samples.shape == (1, 1000)


def test_mono_is_doubled_and_stereo_kept() -> None:
    mono, stereo = _noise(1, 100), _noise(2, 100)
    np.testing.assert_array_equal(to_stereo(mono).samples, np.repeat(mono.samples, 2, axis=0))
    assert to_stereo(stereo) is stereo


@pytest.mark.parametrize(
    ("channels", "left", "right"),
    [
        # By hand from the published formula: centre and surround at 0.707, sum divided by 2.414 or 3.121.
        (6, [1, 0, 0.707, 0, 0.707, 0], [0, 1, 0.707, 0, 0, 0.707]),
        (8, [1, 0, 0.707, 0, 0.707, 0, 0.707, 0], [0, 1, 0.707, 0, 0, 0.707, 0, 0.707]),
    ],
)
@pytest.mark.parametrize("extension", [".wav", ".flac"])
def test_surround_is_mixed_as_published(
    tmp_path: Path, channels: int, left: list[float], right: list[float], extension: str
) -> None:
    source = _noise(channels, 2000)
    write_audio(tmp_path / f"a{extension}", source)
    decoded = decode_audio(tmp_path / f"a{extension}").waveform
    assert bool(decoded.speakers) == (extension == ".flac")  # a plain WAV header names no loudspeakers
    expected = np.array([left, right]) / (2.414 if channels == 6 else 3.121) @ source.samples
    np.testing.assert_allclose(to_stereo(decoded).samples, expected, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8, 12])
@pytest.mark.parametrize("sign", [1, -1])
def test_full_scale_never_clips_in_the_mix(channels: int, sign: int) -> None:
    full = Waveform(np.full((channels, 10), sign, np.float32), 48_000)
    assert peak(to_stereo(full)) <= 1 + 1e-6


def test_unknown_layout_is_averaged() -> None:
    named = Waveform(_noise(4, 50).samples, 48_000, ("FL", "FR", "TFL", "TFR"))
    for waveform in (_noise(3, 50), named):
        mean = waveform.samples.mean(axis=0)
        np.testing.assert_allclose(to_stereo(waveform).samples, [mean, mean], atol=1e-6)


@pytest.mark.parametrize(("source", "target"), [(48_000, 16_000), (44_100, 16_000), (16_000, 48_000)])
def test_resampled_sine_is_the_sine(tones, source: int, target: int) -> None:
    got = resample(tones(1000, 3000, seconds=1.0, sample_rate=source), target)
    want = tones(1000, 3000, seconds=1.0, sample_rate=target)
    assert got.sample_rate == target
    assert abs(got.samples.shape[1] - target) <= 1
    inner = slice(target // 10, -target // 10)  # away from the ends, where the filter sees silence
    assert np.abs(got.samples[:, inner] - want.samples[:, inner]).max() < 1e-4


def test_resampling_leaves_no_alias(tones) -> None:
    got = resample(tones(9000, seconds=1.0), 16_000).samples[0, 1600:-1600]
    assert 20 * np.log10(np.abs(got).max() / 0.4) < -100


def test_resampling_to_the_same_rate_changes_nothing(tones) -> None:
    waveform = tones(440)
    assert resample(waveform, 48_000) is waveform


def test_peak_normalized(tones) -> None:
    quiet = tones(440, 660, amplitude=0.05)
    assert peak(peak_normalized(quiet)) == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    assert peak(peak_normalized(quiet, dbfs=-6)) == pytest.approx(10 ** (-6 / 20), rel=1e-6)
    loud = Waveform(quiet.samples * 40, 48_000)
    assert peak(peak_normalized(loud)) == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    quiet.samples[1] /= 2
    balance = np.abs(peak_normalized(quiet).samples).max(axis=1)
    assert balance[0] / balance[1] == pytest.approx(2, rel=1e-3)


def test_silence_decodes_and_stays_silence(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(np.zeros((2, 1000), np.float32), 48_000))
    silent = decode_audio(tmp_path / "a.wav").waveform
    assert peak(silent) == 0
    assert peak_normalized(silent) is silent
    dither = Waveform(np.full((2, 1000), 2 / 32768, np.float32), 48_000)
    assert peak_normalized(dither) is dither


def test_waveform_refuses_the_wrong_shape_and_type() -> None:
    with pytest.raises(ValueError, match="channels, samples"):
        Waveform(np.zeros(10, np.float32), 48_000)
    with pytest.raises(ValueError, match="float64"):
        Waveform(np.zeros((1, 10)), 48_000)  # type: ignore[arg-type]


def test_wave_module_agrees_on_the_length(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", _noise(2, 12_345))
    with wave.open(str(tmp_path / "a.wav")) as reader:
        assert decode_audio(tmp_path / "a.wav").waveform.seconds == reader.getnframes() / reader.getframerate()


@pytest.mark.parametrize("rate", [1, 8, 999, 1_000_000])
def test_sample_rates_that_no_sound_has(tmp_path: Path, rate: int) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(4000))
    for read in (decode_audio, probe_audio):
        with pytest.raises(MediaError, match=f"says {rate} samples a second"):
            read(tmp_path / "a.wav")


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _encode(tmp_path / "a.flac", Waveform(np.zeros((2, 60 * 48_000), np.float32), 48_000), "flac")
    monkeypatch.setattr(audio, "MAX_DECODED_BYTES", 30 * 48_000 * 2 * 4)
    with pytest.raises(MediaError, match="too long: at most 0 minutes"):
        decode_audio(tmp_path / "a.flac")
