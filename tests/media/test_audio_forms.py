"""Every form of WAV, AIFF and CAF, value by value: against the numbers that were put in, and against libsndfile.

Headers are built here by the formats' specifications. `soundfile` reads the files independently of FFmpeg.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio import decode_audio
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio_like

RATE, COUNT = 48_000, 1000
PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
INTEGERS = {
    bits: np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (COUNT, 2))
    for bits in (8, 16, 20, 24, 32)
}
FLOATS = {32: (INTEGERS[24] / 2**22).astype("<f4"), 64: INTEGERS[32] / 2**31 * 1.5}
G711 = bytes(range(256)) * 2


def packed(bits: int, width: int = 0, *, big: bool = False, unsigned: bool = False) -> bytes:
    """The integers of so many bits, in the highest bits of containers of `width`."""
    width = width or bits
    values = (INTEGERS[bits] << (width - bits)) + (1 << (width - 1)) * unsigned
    content = np.stack([values >> shift & 255 for shift in range(0, width, 8)], axis=-1).astype(np.uint8)
    return (content[..., ::-1] if big else content).tobytes()


def chunk(name: bytes, content: bytes, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(content)) + content + b"\0" * (len(content) % 2)


def wave_format(tag: int, bits: int, block: int = 0, *, channels: int = 2, order: str = "<") -> bytes:
    block = block or channels * bits // 8
    return struct.pack(f"{order}HHIIHH", tag, channels, RATE, RATE * block, block, bits)


def extensible(subformat: int, bits: int, valid: int, block: int = 0) -> bytes:
    guid = struct.pack("<H", subformat) + bytes.fromhex("000000001000800000aa00389b71")
    return wave_format(EXTENSIBLE, bits, block) + struct.pack("<HHI", 22, valid, 3) + guid


def wav(form: bytes, content: bytes, before: bytes = b"", after: bytes = b"", big: bool = False) -> bytes:
    order = ">" if big else "<"
    body = b"WAVE" + before + chunk(b"fmt ", form, order) + chunk(b"data", content, order) + after
    return (b"RIFX" if big else b"RIFF") + struct.pack(f"{order}I", len(body)) + body


def rf64(magic: bytes, content: bytes) -> bytes:
    sizes = struct.pack("<QQQI", 4 + 36 + 24 + 8 + len(content), len(content), COUNT, 0)
    head = magic + b"\xff" * 4 + b"WAVE" + chunk(b"ds64", sizes)
    return head + chunk(b"fmt ", wave_format(PCM, 16)) + b"data" + b"\xff" * 4 + content


def w64(form: bytes, content: bytes) -> bytes:
    def guid(name: bytes) -> bytes:
        return name + bytes.fromhex("f3acd3118cd100c04f8edb8a")

    def part(name: bytes, content: bytes) -> bytes:
        return guid(name) + struct.pack("<Q", 24 + len(content)) + content + b"\0" * (-len(content) % 8)

    body = guid(b"wave") + part(b"fmt ", form) + part(b"data", content)
    return b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", 24 + len(body)) + body


def aiff(bits: int, content: bytes, compression: bytes = b"", before: bytes = b"", count: int = COUNT) -> bytes:
    mantissa, exponent = math.frexp(RATE)
    rate = struct.pack(">HQ", exponent - 1 + 16383, int(mantissa * 2**64))
    common = struct.pack(">hIh", 2, count, bits) + rate + (compression + b"\x03abc" if compression else b"")
    kind = b"AIFC" + chunk(b"FVER", struct.pack(">I", 0xA2805140), ">") if compression else b"AIFF"
    sound = chunk(b"SSND", bytes(8) + content, ">")
    body = kind + before + chunk(b"COMM", common, ">") + sound
    return b"FORM" + struct.pack(">I", len(body)) + body


def caf(name: bytes, flags: int, bits: int, content: bytes, *, unbounded: bool = False) -> bytes:
    def part(name: bytes, content: bytes, size: int) -> bytes:
        return name + struct.pack(">q", size) + content

    description = struct.pack(">d4sIIIII", RATE, name, flags, bits // 4, 1, 2, bits)
    data = part(b"data", bytes(4) + content, -1 if unbounded else 4 + len(content))
    return b"caff" + struct.pack(">HH", 1, 0) + part(b"desc", description, len(description)) + data


_NOTES = chunk(b"JUNK", b"x" * 27) + chunk(b"bext", b"y" * 602)
# Name: content, and the bits of the integers in it, or of floats as a negative number, 0 for G.711.
FORMS: Mapping[str, tuple[bytes, int]] = {
    "u8.wav": (wav(wave_format(PCM, 8), packed(8, unsigned=True)), 8),
    **{f"s{bits}.wav": (wav(wave_format(PCM, bits), packed(bits)), bits) for bits in (16, 24, 32)},
    "fmt of 18 bytes.wav": (wav(wave_format(PCM, 16) + bytes(2), packed(16)), 16),
    "extensible u8.wav": (wav(extensible(PCM, 8, 8), packed(8, unsigned=True)), 8),
    **{f"extensible s{bits}.wav": (wav(extensible(PCM, bits, bits), packed(bits)), bits) for bits in (16, 24, 32)},
    "extensible 20 in 24.wav": (wav(extensible(PCM, 24, 20), packed(20, 24)), 20),
    "20 in 24.wav": (wav(wave_format(PCM, 20, 6), packed(20, 24)), 20),
    "extensible 24 in 32.wav": (wav(extensible(PCM, 32, 24), packed(24, 32)), 24),
    "extensible 24 in 32, as recorders say.wav": (wav(extensible(PCM, 24, 24, 8), packed(24, 32)), 24),
    "extensible 16 in 32.wav": (wav(extensible(PCM, 32, 16), packed(16, 32)), 16),
    "16 in 32.wav": (wav(wave_format(PCM, 16, 8), packed(16, 32)), 16),
    "16 in 24.wav": (wav(wave_format(PCM, 16, 6), packed(16, 24)), 16),
    "24 in 32.wav": (wav(wave_format(PCM, 24, 8), packed(24, 32)), 24),
    "f32.wav": (wav(wave_format(FLOAT, 32), FLOATS[32].tobytes()), -32),
    "f64.wav": (wav(wave_format(FLOAT, 64), FLOATS[64].tobytes()), -64),
    "extensible f32.wav": (wav(extensible(FLOAT, 32, 32), FLOATS[32].tobytes()), -32),
    "mu-law.wav": (wav(wave_format(MULAW, 8), G711), 0),
    "a-law.wav": (wav(wave_format(ALAW, 8), G711), 0),
    "big-endian u8.wav": (wav(wave_format(PCM, 8, order=">"), packed(8, unsigned=True), big=True), 8),
    **{
        f"big-endian s{bits}.wav": (wav(wave_format(PCM, bits, order=">"), packed(bits, big=True), big=True), bits)
        for bits in (16, 24, 32)
    },
    "big-endian f32.wav": (wav(wave_format(FLOAT, 32, order=">"), FLOATS[32].astype(">f4").tobytes(), big=True), -32),
    "odd chunks.wav": (wav(wave_format(PCM, 16), packed(16), _NOTES, chunk(b"id3 ", b"z" * 11)), 16),
    "RF64.wav": (rf64(b"RF64", packed(16)), 16),
    "BW64.wav": (rf64(b"BW64", packed(16)), 16),
    "W64.wav": (w64(wave_format(PCM, 24), packed(24)), 24),
    **{f"s{bits}.aiff": (aiff(bits, packed(bits, big=True)), bits) for bits in (8, 16, 24, 32)},
    "odd chunks.aif": (aiff(16, packed(16, big=True), before=chunk(b"NAME", b"abc", ">")), 16),
    "none.aifc": (aiff(16, packed(16, big=True), b"NONE"), 16),
    **{f"little-endian s{bits}.aifc": (aiff(bits, packed(bits), b"sowt"), bits) for bits in (16, 24, 32)},
    "in24.aifc": (aiff(24, packed(24, big=True), b"in24"), 24),
    "f32.aifc": (aiff(32, FLOATS[32].astype(">f4").tobytes(), b"fl32"), -32),
    "f64.aifc": (aiff(64, FLOATS[64].astype(">f8").tobytes(), b"fl64"), -64),
    "mu-law.aifc": (aiff(16, G711, b"ulaw", count=256), 0),
    "a-law.aifc": (aiff(16, G711, b"alaw", count=256), 0),
    **{f"big-endian s{bits}.caf": (caf(b"lpcm", 0, bits, packed(bits, big=True)), bits) for bits in (8, 16, 24, 32)},
    **{f"little-endian s{bits}.caf": (caf(b"lpcm", 2, bits, packed(bits)), bits) for bits in (16, 24, 32)},
    "f32.caf": (caf(b"lpcm", 3, 32, FLOATS[32].tobytes()), -32),
    "f64.caf": (caf(b"lpcm", 1, 64, FLOATS[64].astype(">f8").tobytes()), -64),
    "mu-law.caf": (caf(b"ulaw", 0, 8, G711), 0),
    "length unknown.caf": (caf(b"lpcm", 2, 16, packed(16), unbounded=True), 16),
}
# It refuses the first two, and reads the containers of the others at the wrong width.
UNKNOWN_TO_LIBSNDFILE = (
    *("BW64.wav", "length unknown.caf"),
    *("extensible 24 in 32, as recorders say.wav", "16 in 32.wav", "16 in 24.wav"),
)


def expected(path: Path, bits: int) -> NDArray[np.float64]:
    """(samples, channels)"""
    if bits == 0:
        return soundfile.read(path, dtype="float64")[0]
    return INTEGERS[bits] / 2 ** (bits - 1) if bits > 0 else FLOATS[-bits].astype(np.float64)


@pytest.mark.parametrize("name", FORMS)
def test_every_value_is_the_one_that_was_put_in(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content, bits = FORMS[name]
    path.write_bytes(content)
    decoded = decode_audio(path)
    assert (decoded.warning, decoded.waveform.sample_rate) == (None, RATE)
    np.testing.assert_array_equal(decoded.waveform.samples.T, expected(path, bits).astype(np.float32))
    if name not in UNKNOWN_TO_LIBSNDFILE:
        np.testing.assert_array_equal(decoded.waveform.samples.T, soundfile.read(path, dtype="float32")[0])


@pytest.mark.parametrize("name", FORMS)
def test_what_is_kept_is_given_back_with_the_same_values_in_the_same_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content, bits = FORMS[name]
    path.write_bytes(content)
    source, waveform = probe_audio(path), decode_audio(path).waveform
    assert (source.sample_rate, source.channels, source.is_float) == (RATE, 2, bits < 0)
    assert source.seconds == decode_audio(path).waveform.seconds
    changed = waveform.samples.copy()
    changed[:, 100:200] = 0.25
    out = tmp_path / f"out{source.suffix}"
    write_audio_like(out, type(waveform)(changed, RATE), source)
    result, values = soundfile.read(out, dtype="float64")[0], expected(path, bits)
    np.testing.assert_array_equal(np.delete(result, np.s_[100:200], axis=0), np.delete(values, np.s_[100:200], axis=0))
    np.testing.assert_array_equal(result[100:200], 0.25)
    info = soundfile.info(out)
    subtypes = {8: ("PCM_U8", "PCM_S8"), -32: ("FLOAT",), -64: ("DOUBLE",)}
    assert info.format.rstrip("EX") == {".wav": "WAV", ".caf": "CAF"}.get(source.suffix, "AIFF")
    container = re.search(r" in (\d+)", name)
    assert info.subtype in subtypes.get(bits, (f"PCM_{container[1] if container else bits or 16}",))


@pytest.mark.parametrize(
    ("name", "subtype", "reason"),
    [
        ("a.wav", "G721_32", "WAV of the codec 0x0040 is not supported: convert it to PCM"),
        ("a.wav", "NMS_ADPCM_32", "WAV of the codec 0x0038 is not supported: convert it to PCM"),
        ("a.aiff", "DWVW_16", "this is FORM/AIFC of 'DWVW', which cannot be decoded, or damaged"),
    ],
)
def test_a_codec_that_cannot_be_decoded_is_named(tmp_path: Path, name: str, subtype: str, reason: str) -> None:
    soundfile.write(tmp_path / name, np.zeros(8000), 8000, subtype=subtype)
    for read in (decode_audio, probe_audio):
        with pytest.raises(MediaError) as caught:
            read(tmp_path / name)
        assert reason in caught.value.reason


def test_a_wav_of_an_unknown_codec(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(wave_format(0x1234, 16), packed(16)))
    with pytest.raises(MediaError, match="its sound is in '0x1234', which cannot be decoded"):
        decode_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("subtype", "rate", "tolerance"), [("IMA_ADPCM", RATE, 0), ("MS_ADPCM", RATE, 0.01), ("GSM610", 8000, 0)]
)
def test_compressed_wav(tmp_path: Path, subtype: str, rate: int, tolerance: float) -> None:
    time = np.arange(3 * rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * (300 + 50 * time) * time), rate, subtype=subtype)
    decoded = decode_audio(tmp_path / "a.wav")
    expected = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    expected = expected[: decoded.waveform.samples.shape[1]]  # libsndfile keeps the padding of the last block
    np.testing.assert_allclose(decoded.waveform.samples[0], expected, rtol=0, atol=tolerance)
    assert decoded.warning is None


def test_floats_of_an_old_editor_are_still_floats(tmp_path: Path) -> None:
    """24 bits in 32 that are not integers: floats of which full scale is 2^23, as Cool Edit wrote them."""
    values = (INTEGERS[24] * 0.999).astype("<f4")
    (tmp_path / "a.wav").write_bytes(wav(wave_format(PCM, 24, 8), values.tobytes()))
    np.testing.assert_array_equal(decode_audio(tmp_path / "a.wav").waveform.samples.T, values / np.float32(2**23))


@pytest.mark.parametrize("name", ["s16.wav", "RF64.wav", "big-endian s16.wav", "s16.aiff"])
def test_a_file_that_is_cut_short_yields_its_beginning_and_a_warning(tmp_path: Path, name: str) -> None:
    big = name.startswith("big") or name.endswith(".aiff")
    repeats = 100
    samples = packed(16, big=big) * repeats
    makers = {
        "s16.wav": lambda: wav(wave_format(PCM, 16), samples),
        "RF64.wav": lambda: rf64(b"RF64", samples),
        "big-endian s16.wav": lambda: wav(wave_format(PCM, 16, order=">"), samples, big=True),
        "s16.aiff": lambda: aiff(16, samples, count=repeats * COUNT),
    }
    content = makers[name]()
    (tmp_path / name).write_bytes(content[: len(content) - len(samples) // 2])
    decoded = decode_audio(tmp_path / name)
    assert decoded.warning == "damaged or cut short: its header says 2.08 s, 1.04 s could be decoded"
    np.testing.assert_array_equal(decoded.waveform.samples[:, -COUNT:].T, INTEGERS[16] / 2**15)
    part = decode_audio(tmp_path / name, seconds=0.5)
    assert (part.waveform.seconds, part.warning) == (0.5, decoded.warning)
