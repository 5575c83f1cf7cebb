"""Measurements of one sound. In: a `Waveform`. Out: `Measured`, figures without a judgement."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from sonolora.analysis.compare import Fingerprint, fingerprint, pitch_profile
from sonolora.media.audio import SILENCE_DBFS, Waveform, peak, to_stereo

Floats = NDArray[np.floating]
StereoImage = Literal["mono", "dual mono", "one channel silent", "inverted", "stereo", "surround"]

_FRAME_SECONDS = 0.01
_SILENCE_RANGE_DB = 50.0  # room tone is seldom this far below the sounds recorded in the room
_PAUSE_SECONDS = 0.5  # shorter pauses are part of a rhythm or of speech

_LSB = 1 / 32768
_FLAT_RUN = 3  # samples
_FLAT = 1.5 * _LSB  # dither moves a flat top by this much
# A smooth peak is a parabola: if 3 samples lie within `_FLAT`, the next one falls by less than 4 times that.
_SHOULDER = 6 * _FLAT
_ABRUPT = 0.7  # of the top: a wave that jumps to it from below this on both sides is square, not clipped
_CLIPPED_PEAK = 0.05  # quieter peaks span too few 16-bit steps to have a shape

_DC_PARTS = 8

_SAME_DB = 50.0  # a smaller difference between two channels is inaudible
_INVERTED_CORRELATION = -0.9

_SPECTRUM_SECONDS = 0.085  # 4096 samples at 48 kHz
_MAX_SPECTRA = 100  # spread over the sound, however long it is
_LOUDER_DB = 40.0  # quieter frames are pauses, which say nothing about the spectrum
_BAND_HERTZ = 250.0
_LOWEST_CUT_HERTZ = 3000.0
_CUT_DB = 30.0
_CLIFF = 0.06  # of the frequency: the transition bands of resamplers and codecs are this wide
_EMPTY_DB = 20.0  # by which the lowest sixth is fainter than the octave below a cut in sounds of a narrow band
_AUDIBLE_DB = 80.0  # below the strongest band: a cut in anything fainter makes no difference

# ITU-R BS.1770-4: weights of the channels in power, and the length of a block.
_K_WEIGHTS = {"LFE": 0.0, "SL": 1.41, "SR": 1.41, "BL": 1.41, "BR": 1.41}
_BLOCK_SECONDS = 0.4
_METER_FLOOR = -70.0  # LUFS: the absolute gate, and what the meter shows when nothing passes it
_METER_CHANNELS = 64
_METER_SAMPLE_RATE = 44_100  # at lower rates the meter's filters are off by up to 0.4 LU


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of a sound; levels are -inf for digital silence.

    `lufs`: integrated loudness, ITU-R BS.1770-4. `clipped`: fraction of the samples in flat tops.
    `silent`: fraction of the length in pauses; `leading_silence`, `trailing_silence`, `longest_pause` (before or
    between sounds): seconds.
    `dc`: DC offset of the worst channel; full scale is 1.
    `bandwidth_hertz`: where the spectrum is cut off, see `bandwidth`; half the sample rate if nowhere.
    `digest`: SHA-256 of the samples. `fingerprint` and `pitch_profile`: see `compare`.
    """

    seconds: float
    sample_rate: int
    channels: int
    image: StereoImage
    peak_dbfs: float
    rms_dbfs: float
    lufs: float
    clipped: float
    silent: float
    leading_silence: float
    trailing_silence: float
    longest_pause: float
    dc: float
    bandwidth_hertz: float
    digest: str
    fingerprint: Fingerprint
    pitch_profile: Floats


def measure(waveform: Waveform) -> Measured:
    """Measure a sound of at least one sample; takes about 40 ms for 10 s of stereo."""
    samples = np.ascontiguousarray(waveform.samples)
    silent, leading, trailing, longest = silence(waveform)
    return Measured(
        seconds=waveform.seconds,
        sample_rate=waveform.sample_rate,
        channels=waveform.channels,
        image=stereo_image(waveform),
        peak_dbfs=_decibels(peak(waveform) ** 2),
        rms_dbfs=_decibels(float(np.square(samples).mean(dtype=np.float64))),
        lufs=loudness(waveform),
        clipped=clipped_share(waveform),
        silent=silent,
        leading_silence=leading,
        trailing_silence=trailing,
        longest_pause=longest,
        dc=dc_offset(waveform),
        bandwidth_hertz=bandwidth(waveform),
        digest=hashlib.sha256(samples.data).hexdigest(),
        fingerprint=fingerprint(waveform),
        pitch_profile=pitch_profile(waveform),
    )


def clipped_share(waveform: Waveform) -> float:
    """Fraction of the samples in flat tops: runs of 3 or more at the extreme of their channel.

    A run counts only if the waveform does not approach it gently, as it does the peak of a low tone. Clipping is
    found whatever was done to the level afterwards, but not once a resampler or a lossy codec has rounded the tops.
    Square waves, which jump to their tops, are not clipped.
    """
    clipped = 0
    for channel in waveform.samples:
        for wave in (channel, -channel):
            top = float(wave.max())
            if top < _CLIPPED_PEAK:
                continue
            at_top = np.flatnonzero(wave >= top - _FLAT)
            first = np.flatnonzero(np.diff(at_top, prepend=-2) > 1)  # where in `at_top` each run begins
            lengths = np.diff(first, append=len(at_top))
            starts, ends = at_top[first], at_top[first] + lengths
            before = wave[np.where(starts > 0, starts - 1, np.minimum(ends, len(wave) - 1))]
            after = wave[np.where(ends < len(wave), ends, np.maximum(starts - 1, 0))]
            steep = np.minimum(before, after) < top - _SHOULDER
            square = np.maximum(before, after) < _ABRUPT * top
            clipped += int(lengths[steep & ~square & (lengths >= _FLAT_RUN)].sum())
    return clipped / waveform.samples.size


def silence(waveform: Waveform) -> tuple[float, float, float, float]:
    """Fraction of the length that is silent, seconds of silence at the beginning, at the end, and of the longest pause
    that is not at the end.

    A frame of 10 ms is silent if it is 50 dB below the loudest one or below -80 dBFS, so a quiet recording is not.
    Pauses of less than half a second do not count towards the fraction.
    """
    length = max(1, round(_FRAME_SECONDS * waveform.sample_rate))
    starts = np.arange(0, waveform.samples.shape[1], length)
    energy = np.add.reduceat(np.square(waveform.samples), starts, axis=1).mean(axis=0)
    power = energy / np.diff(starts, append=waveform.samples.shape[1])
    threshold = max(10 ** (SILENCE_DBFS / 10), power.max() * 10 ** (-_SILENCE_RANGE_DB / 10))
    sounding = np.flatnonzero(power > threshold)
    if not len(sounding):
        return 1.0, waveform.seconds, waveform.seconds, waveform.seconds
    pauses = (np.diff(sounding, prepend=-1, append=len(power)) - 1) * _FRAME_SECONDS
    silent = float(pauses[pauses >= _PAUSE_SECONDS].sum())
    return min(1.0, silent / waveform.seconds), float(pauses[0]), float(pauses[-1]), float(pauses[:-1].max())


def dc_offset(waveform: Waveform) -> float:
    """The DC offset of the worst channel, with its sign.

    At least three quarters of the sound must have it: the swing of a very low sound is no offset.
    """
    worst = 0.0
    for channel in waveform.samples:
        means = [part.mean() for part in np.array_split(channel, _DC_PARTS) if len(part)]
        low, high = np.quantile(means, (0.25, 0.75))
        if low * high > 0:
            worst = max(worst, float(min(low, high, key=abs)), key=abs)
    return worst


def stereo_image(waveform: Waveform) -> StereoImage:
    """How the channels relate; see the constants for the limits."""
    if waveform.channels != 2:
        return "mono" if waveform.channels == 1 else "surround"
    left, right = waveform.samples
    left_power, right_power, product, difference = (
        float(values.mean(dtype=np.float64))
        for values in (left * left, right * right, left * right, np.square(left - right))
    )
    inaudible = 10 ** (-_SAME_DB / 10)
    if min(left_power, right_power) < inaudible * max(left_power, right_power):
        return "one channel silent"
    if difference <= inaudible * (left_power + right_power):
        return "dual mono"
    return "inverted" if product < _INVERTED_CORRELATION * np.sqrt(left_power * right_power) else "stereo"


def bandwidth(waveform: Waveform) -> float:
    """Frequency in Hz above which the spectrum has been cut off; half the sample rate if it has not.

    A resampler or a lossy codec leaves a cliff: within 6 % of its frequency the level falls by 30 dB and stays down.
    No natural sound does that, however dark: a slope of 12 dB per octave falls by 1 dB over that width. Not found if
    nothing reaches up to the cut (a dark sound in a narrow band), if the sound is all pure tones or chirps, or if a
    poor resampler has filled the top with aliases.
    """
    levels, step = _long_term_spectrum(waveform)
    width = max(1, round(_BAND_HERTZ / step))
    bands = levels[: len(levels) // width * width].reshape(-1, width)
    # Quantiles of the bins ignore tones, which are single lines in a band.
    low, middle = np.quantile(bands, (0.2, 0.5), axis=1)
    above = np.maximum.accumulate(middle[::-1])[::-1]  # the highest level from this band on
    fall, cut = _CUT_DB, waveform.sample_rate / 2
    for band in range(round(_LOWEST_CUT_HERTZ / (width * step)), len(bands)):
        below, beyond = min(low[band - 2], low[band - 1]), band + max(2, round(_CLIFF * band))
        if beyond < len(bands) and below > levels.max() - _AUDIBLE_DB and below - above[beyond] > fall:
            fall, cut = below - above[beyond], band * width * step
    # Chirps and whistles have edges, too, and nothing far below them.
    lowest, half, edge = (round(cut / step * part) for part in (1 / 6, 1 / 2, 1.0))
    if np.median(levels[1:lowest]) < np.median(levels[half:edge]) - _EMPTY_DB:
        return waveform.sample_rate / 2
    return cut


def loudness(waveform: Waveform) -> float:
    """Integrated loudness in LUFS by ITU-R BS.1770-4, to 0.01 LU; -inf for silence. The meter is FFmpeg's `ebur128`.

    A sound shorter than 400 ms, for which the standard has no block, is measured as one block.
    """
    if waveform.channels > _METER_CHANNELS:
        waveform = to_stereo(waveform)
    count = waveform.samples.shape[1]
    block = round(_BLOCK_SECONDS * waveform.sample_rate)
    # Weighted here, since FFmpeg knows the channels of some layouts only; a padded block keeps its mean power.
    weights = np.array([_K_WEIGHTS.get(speaker, 1.0) for speaker in waveform.speakers or ("",) * waveform.channels])
    gains = np.sqrt(weights * max(1.0, block / max(1, count)))
    samples = np.pad(waveform.samples * gains[:, None].astype(np.float32), ((0, 0), (0, max(0, block - count))))
    factor = -(-_METER_SAMPLE_RATE // waveform.sample_rate)
    samples, sample_rate = _upsampled(samples, factor), factor * waveform.sample_rate

    layout, time_base = f"{len(samples)}C", Fraction(1, sample_rate)
    graph = Graph()
    source = graph.add_abuffer(sample_rate=sample_rate, format="flt", layout=layout, time_base=time_base)
    sink = graph.add("abuffersink")
    graph.link_nodes(source, graph.add("ebur128", "metadata=1"), sink).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, time_base
    source.push(frame)
    source.push(None)
    lufs = _METER_FLOOR
    with suppress(av.EOFError):
        while True:
            lufs = float(sink.pull().metadata.get("lavfi.r128.I", lufs))  # a partial last step has none
    return lufs if lufs > _METER_FLOOR else float("-inf")


def _upsampled(samples: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """(channels, samples) at an integer multiple of the sample rate, with the whole band up to the old Nyquist."""
    if factor == 1:
        return samples
    count = samples.shape[1]
    size = 1 << (count - 1).bit_length()
    upsampled = np.fft.irfft(np.fft.rfft(samples, size), size * factor)[:, : count * factor]
    return (factor * upsampled).astype(np.float32)


def _long_term_spectrum(waveform: Waveform) -> tuple[Floats, float]:
    """Levels (bins,) in dB that the louder frames exceed a fifth of the time, and the hertz between bins."""
    size = 1 << round(np.log2(waveform.sample_rate * _SPECTRUM_SECONDS))
    padded = np.pad(waveform.samples, ((0, 0), (0, max(0, size - waveform.samples.shape[1]))))
    count = min(_MAX_SPECTRA, 1 + 2 * (padded.shape[1] // size))
    starts = np.linspace(0, padded.shape[1] - size, count).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, starts]  # (channels, frames, size)
    window = np.hanning(size).astype(np.float32)
    spectra = np.fft.rfft(frames * window)
    power = (spectra.real**2 + spectra.imag**2).sum(axis=0)  # (frames, bins)
    energy = power.sum(axis=1)
    louder = power[energy >= energy.max() * 10 ** (-_LOUDER_DB / 10)]
    rank = len(louder) * 4 // 5
    return 10 * np.log10(np.partition(louder, rank, axis=0)[rank] + 1e-20), waveform.sample_rate / size


def _decibels(power: float) -> float:
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")
