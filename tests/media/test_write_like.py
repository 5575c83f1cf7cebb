"""Files like their source; WAV, AIFF and CAF are in `test_audio_forms`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio, write_audio_like, write_wav

RATE = 44_100
RNG = np.random.default_rng(0)


def pcm(path: Path, bits: int, channels: int = 2, count: int = 5000) -> np.ndarray:
    """Write random integers of so many bits; returns them left-aligned in 32, (samples, channels)."""
    values = RNG.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (count, channels)) << (32 - bits)
    soundfile.write(path, values.astype(np.int32), RATE, subtype=f"PCM_{bits}")
    return values


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_comes_back_as_flac_bit_for_bit(tmp_path: Path, bits: int, channels: int) -> None:
    values = pcm(tmp_path / "a.flac", bits, channels)
    source = probe_audio(tmp_path / "a.flac")
    assert (source.suffix, source.bits, source.channels, source.sample_rate) == (".flac", bits, channels, RATE)
    waveform = decode_audio(tmp_path / "a.flac").waveform
    stereo = Waveform(np.broadcast_to(waveform.samples, (2, 5000)).copy(), RATE)
    write_audio_like(tmp_path / "b.flac", stereo, source)
    info = soundfile.info(tmp_path / "b.flac")
    assert (info.subtype, info.channels, info.samplerate) == (f"PCM_{bits}", channels, RATE)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.flac", dtype="int32", always_2d=True)[0], values)


@pytest.mark.parametrize("bits", [16, 24])
def test_alac_comes_back_as_alac(tmp_path: Path, bits: int) -> None:
    pcm(tmp_path / "a.wav", bits)
    waveform = decode_audio(tmp_path / "a.wav").waveform
    wav = probe_audio(tmp_path / "a.wav")
    write_audio_like(tmp_path / "a.m4a", waveform, replace(wav, codec="alac"))
    source = probe_audio(tmp_path / "a.m4a")
    assert (source.codec, source.bits, source.suffix) == ("alac", bits, ".m4a")
    write_audio_like(tmp_path / "b.m4a", decode_audio(tmp_path / "a.m4a").waveform, source)
    np.testing.assert_array_equal(decode_audio(tmp_path / "b.m4a").waveform.samples, waveform.samples)
    assert probe_audio(tmp_path / "b.m4a").bits == bits


@pytest.mark.parametrize("subtype", ["PCM_32", "DOUBLE"])
@pytest.mark.parametrize("offset", [0, 1200, -300])
def test_what_a_float_of_32_bits_cannot_hold_is_taken_from_the_source(
    tmp_path: Path, subtype: str, offset: int
) -> None:
    kind = np.int32 if subtype == "PCM_32" else np.float64
    values = RNG.integers(-(2**31), 2**31, (5000, 1)) if kind is np.int32 else RNG.normal(0, 0.2, (5000, 1))
    soundfile.write(tmp_path / "a.wav", values.astype(kind), RATE, subtype=subtype)
    source, decoded = probe_audio(tmp_path / "a.wav"), decode_audio(tmp_path / "a.wav").waveform.samples[0]
    kept = slice(max(offset, 0), min(5000 + offset, 5000))  # where the result has the source
    samples = np.full(5000, 0.125, np.float32)
    samples[kept] = decoded[kept.start - offset : kept.stop - offset]
    samples[2000:2100] = 0.25
    write_audio_like(tmp_path / "b.wav", Waveform(np.stack([samples, samples]), RATE), source, offset=offset)
    result = soundfile.read(tmp_path / "b.wav", dtype=kind.__name__)[0]
    expected = np.full(5000, 2**28 if kind is np.int32 else 0.125, np.float64)
    expected[kept] = values[kept.start - offset : kept.stop - offset, 0]
    expected[2000:2100] = 2**29 if kind is np.int32 else 0.25
    np.testing.assert_array_equal(result, expected)
    assert soundfile.info(tmp_path / "b.wav").subtype == subtype


@pytest.mark.parametrize(
    ("source_subtype", "name", "subtype"),
    [
        ("FLOAT", "a.flac", "PCM_24"),
        ("PCM_U8", "a.flac", "PCM_16"),
        ("PCM_24", "a.aiff", "PCM_24"),
        ("DOUBLE", "a.caf", "DOUBLE"),
        ("ULAW", "a.wav", "PCM_16"),
        ("FLOAT", "a.aifc", "FLOAT"),
        ("PCM_32", "a.flac", None),  # libsndfile reads no FLAC of 32 bits
    ],
)
def test_another_container_holds_as_much_as_it_can(tmp_path: Path, source_subtype: str, name: str, subtype) -> None:
    values = np.round(RNG.uniform(-1, 1, (3000, 2)) * 127) / 128  # every format holds them
    soundfile.write(tmp_path / "source.wav", values, RATE, subtype=source_subtype)
    waveform = decode_audio(tmp_path / "source.wav").waveform
    write_audio_like(tmp_path / name, waveform, probe_audio(tmp_path / "source.wav"))
    np.testing.assert_array_equal(decode_audio(tmp_path / name).waveform.samples, waveform.samples)
    if subtype:
        assert soundfile.info(tmp_path / name).subtype == subtype
    else:
        assert probe_audio(tmp_path / name).bits == 32


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.aac", "a.ogg"])
def test_lossy_formats_keep_codec_rate_channels_and_bit_rate(tmp_path: Path, tones, peak_hertz, name: str) -> None:
    rate = 48_000 if name == "a.ogg" else RATE
    write_audio(tmp_path / name, tones(440, sample_rate=rate))
    source = probe_audio(tmp_path / name)
    assert (source.suffix, source.sample_rate, source.channels) == (Path(name).suffix, rate, 1)
    assert source.bits is None
    out = tmp_path / f"out{source.suffix}"
    write_audio_like(out, tones(440, 440, sample_rate=rate), source)
    result = probe_audio(out)
    assert (result.codec, result.sample_rate, result.channels) == (source.codec, rate, 1)
    assert peak_hertz(decode_audio(out).waveform, 0) == pytest.approx(440, abs=0.1)
    write_audio_like(tmp_path / "out.wav", tones(440, 440, sample_rate=rate), source)
    assert soundfile.info(tmp_path / "out.wav").subtype == "PCM_16"


def test_vorbis_can_be_read_but_not_written(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", RNG.normal(0, 0.1, (RATE, 2)), RATE, format="OGG", subtype="VORBIS")
    source = probe_audio(tmp_path / "a.ogg")
    assert (source.codec, source.suffix, source.sample_rate) == ("vorbis", ".wav", RATE)


def test_the_content_decides_the_format_not_the_name(tmp_path: Path, tones) -> None:
    write_audio(tmp_path / "a.mp3", tones(440))
    (tmp_path / "a.mp3").rename(tmp_path / "a.wav")
    assert probe_audio(tmp_path / "a.wav").suffix == ".mp3"
    write_wav(tmp_path / "b.wav", tones(440))
    (tmp_path / "b.wav").rename(tmp_path / "b.WAV")
    assert probe_audio(tmp_path / "b.WAV").suffix == ".wav"


def test_what_cannot_be_written_like_the_source(tmp_path: Path, tones) -> None:
    write_wav(tmp_path / "a.wav", tones(440))
    source = probe_audio(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="16000 Hz cannot be written like a source of 48000 Hz"):
        write_audio_like(tmp_path / "b.wav", tones(440, sample_rate=16_000), source)
    with pytest.raises(ValueError, match="the extension is none of"):
        write_audio_like(tmp_path / "b.xyz", tones(440), source)
    with pytest.raises(ValueError, match="not finite"):
        write_audio_like(tmp_path / "b.wav", Waveform(np.full((1, 9), np.inf, np.float32), 48_000), source)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_integers_are_clipped_and_floats_are_not(tmp_path: Path, tones) -> None:
    loud = tones(440, amplitude=2.0, sample_rate=RATE)
    pcm(tmp_path / "a.wav", 24, 1)
    write_audio_like(tmp_path / "b.wav", loud, probe_audio(tmp_path / "a.wav"))
    assert np.abs(decode_audio(tmp_path / "b.wav").waveform.samples).max() == 1
    soundfile.write(tmp_path / "f.wav", np.zeros(10), RATE, subtype="FLOAT")
    write_audio_like(tmp_path / "c.wav", loud, probe_audio(tmp_path / "f.wav"))
    np.testing.assert_array_equal(decode_audio(tmp_path / "c.wav").waveform.samples, loud.samples)
