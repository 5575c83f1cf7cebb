"""What can be measured of one sound. In: a `Waveform`. Out: `Measured`, figures without judgement."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sonolora.analysis.compare import Fingerprint, fingerprint
from sonolora.media.audio import SILENCE_DBFS, Waveform, peak

Floats = NDArray[np.floating]
StereoImage = Literal["mono", "dual mono", "one channel silent", "inverted", "stereo", "surround"]

_FRAME_SECONDS = 0.01
_SILENCE_RANGE_DB = 50.0  # room tone is seldom so far below what was recorded in the room
_PAUSE_SECONDS = 0.5  # shorter ones belong to a rhythm, or to speech

_LSB = 1 / 32768
_FLAT_RUN = 3  # samples
_FLAT = 1.5 * _LSB  # dither moves a flat top by that much
# The top of a smooth wave is a parabola: where 3 samples lie within `_FLAT`, the next falls by less than 4 times that.
_SHOULDER = 6 * _FLAT
_CLIPPED_PEAK = 0.05  # quieter tops are too few steps of 16 bit high to have a shape

_DC_PARTS = 8

_SAME_DB = 50.0  # what differs less between two channels is not heard
_INVERTED_CORRELATION = -0.9

_SPECTRUM_SECONDS = 0.085  # 4096 samples at 48 kHz
_SPECTRA = 100  # spread over the sound, however long
_LOUDER_DB = 40.0  # pauses say nothing of the spectrum
_BAND_HERTZ = 250.0
_LOWEST_CUT_HERTZ = 3000.0
_CUT_DB = 30.0
_CLIFF = 0.06  # of the frequency: how wide the slopes of resamplers and codecs are
_HEARD_DB = 80.0  # below the strongest band: a cut in what is fainter changes nothing

# BS.1770-4, tables 1 and 2: (b0, b1, b2), (a0, a1, a2) of the two stages at 48 kHz.
_K_RATE = 48_000
_K_STAGES = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
_K_OFFSET = -0.691
_K_WEIGHTS = {"LFE": 0.0, "SL": 1.41, "SR": 1.41, "BL": 1.41, "BR": 1.41}
_K_BLOCK, _K_TAIL = 1 << 15, 1 << 13  # samples of a transform; of them those in which the filters die away
_GATE_LUFS, _GATE_LU = -70.0, -10.0
_STEP_SECONDS, _STEPS_PER_BLOCK = 0.1, 4


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures about a sound; levels are -inf for digital silence.

    `lufs`: integrated loudness, ITU-R BS.1770-4. `clipped`: share of its samples that lie in flat tops.
    `silent`: share of its length that is in pauses; `leading_silence`, `trailing_silence`: seconds.
    `dc`: constant offset of the worst channel, full scale is 1.
    `bandwidth_hertz`: where its spectrum is cut off, see `bandwidth`; half the sample rate if nowhere.
    `digest`: of the samples, equal for equal ones. `fingerprint`: see `compare`.
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
    dc: float
    bandwidth_hertz: float
    digest: str
    fingerprint: Fingerprint


def measure(waveform: Waveform) -> Measured:
    """All figures of a sound with at least one sample: some 40 ms for 10 s of stereo."""
    samples = np.ascontiguousarray(waveform.samples)
    silent, leading, trailing = silence(waveform)
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
        dc=dc_offset(waveform),
        bandwidth_hertz=bandwidth(waveform),
        digest=hashlib.sha256(samples.data).hexdigest(),
        fingerprint=fingerprint(waveform),
    )


def clipped_share(waveform: Waveform) -> float:
    """The share of samples that lie in flat tops: runs of 3 or more at the extreme of their channel.

    A run counts when the wave does not lead up to it gently, as it would to the top of a low tone. Found
    whatever was done to the level afterwards; not found once a resampler or a lossy codec has rounded the tops.
    A square wave, which has flat tops by nature, looks the same.
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
            before = wave[np.maximum(starts - 1, 0)]
            after = wave[np.minimum(ends, len(wave) - 1)]
            steep = np.minimum(before, after) < top - _SHOULDER
            clipped += int(lengths[steep & (lengths >= _FLAT_RUN)].sum())
    return clipped / waveform.samples.size


def silence(waveform: Waveform) -> tuple[float, float, float]:
    """Share of the length that is silent, and seconds of silence at the beginning and at the end.

    Silent is what is 50 dB below the loudest 10 ms or below -80 dBFS, so a quiet recording is not. Pauses of less
    than half a second do not count.
    """
    length = max(1, round(_FRAME_SECONDS * waveform.sample_rate))
    starts = np.arange(0, waveform.samples.shape[1], length)
    energy = np.add.reduceat(np.square(waveform.samples), starts, axis=1).mean(axis=0)
    power = energy / np.diff(starts, append=waveform.samples.shape[1])
    threshold = max(10 ** (SILENCE_DBFS / 10), power.max() * 10 ** (-_SILENCE_RANGE_DB / 10))
    sounding = np.flatnonzero(power > threshold)
    if not len(sounding):
        return 1.0, waveform.seconds, waveform.seconds
    pauses = (np.diff(sounding, prepend=-1, append=len(power)) - 1) * _FRAME_SECONDS  # between any two that sound
    silent = float(pauses[pauses >= _PAUSE_SECONDS].sum())
    return min(1.0, silent / waveform.seconds), float(pauses[0]), float(pauses[-1])


def dc_offset(waveform: Waveform) -> float:
    """The offset of the channel that has most, with its sign.

    It is what at least three quarters of its parts have: the swing of a very low sound is no offset.
    """
    worst = 0.0
    for channel in waveform.samples:
        means = [part.mean() for part in np.array_split(channel, _DC_PARTS) if len(part)]
        low, high = np.quantile(means, (0.25, 0.75))
        if low * high > 0:
            worst = max(worst, float(min(low, high, key=abs)), key=abs)
    return worst


def stereo_image(waveform: Waveform) -> StereoImage:
    """What the channels are to each other; see the constants for the limits."""
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
    """Hertz above which the spectrum is empty because something cut it off; half the sample rate otherwise.

    A resampler or a lossy codec leaves a cliff: within some 6 % of its frequency the level falls by 30 dB and
    stays down. No natural sound does that, however dark: even 12 dB from one octave to the next is 1 dB there.
    Not found where nothing reaches up to the cut (a dark sound in a narrow band), where all is pure tones, and
    where a poor resampler has filled the top with mirror images.
    """
    levels, step = _long_term_spectrum(waveform)
    width = max(1, round(_BAND_HERTZ / step))
    bands = levels[: len(levels) // width * width].reshape(-1, width)
    # Tones stand out of a band as single lines: a quantile of its bins is not moved by them.
    low, middle = np.quantile(bands, (0.2, 0.5), axis=1)
    above = np.maximum.accumulate(middle[::-1])[::-1]  # the highest from this band on
    fall, cut = _CUT_DB, waveform.sample_rate / 2
    for band in range(round(_LOWEST_CUT_HERTZ / (width * step)), len(bands)):
        below, beyond = min(low[band - 2], low[band - 1]), band + max(2, round(_CLIFF * band))
        if beyond < len(bands) and below > levels.max() - _HEARD_DB and below - above[beyond] > fall:
            fall, cut = below - above[beyond], band * width * step
    return cut


def loudness(waveform: Waveform) -> float:
    """Integrated loudness in LUFS after ITU-R BS.1770-4, -inf for silence.

    The filters are those that the standard gives for 48 kHz, applied as their response at each frequency, so
    they are the same at every rate. A sound of less than 400 ms, for which the standard has no block, is one
    block.
    """
    rate, count = waveform.sample_rate, waveform.samples.shape[1]
    filtered = _k_weighted(waveform)
    step, steps_per_block = round(rate * _STEP_SECONDS), _STEPS_PER_BLOCK
    if count < step * steps_per_block:
        step, steps_per_block = count, 1
    steps = filtered[:, : count // step * step].reshape(waveform.channels, -1, step)
    weights = [_K_WEIGHTS.get(speaker, 1.0) for speaker in waveform.speakers or ("",) * waveform.channels]
    powers = np.square(steps).mean(axis=2, dtype=np.float64).T @ weights  # (steps,)
    blocks = np.convolve(powers, np.full(steps_per_block, 1 / steps_per_block), "valid")
    loud = blocks[blocks > 10 ** ((_GATE_LUFS - _K_OFFSET) / 10)]
    if not len(loud):
        return float("-inf")
    return _K_OFFSET + _decibels(loud[loud > loud.mean() * 10 ** (_GATE_LU / 10)].mean())


def _k_weighted(waveform: Waveform) -> Floats:
    """(channels, samples) through both stages of the filter, by overlap-save."""
    count = waveform.samples.shape[1]
    padded = np.pad(waveform.samples, ((0, 0), (_K_TAIL, _K_BLOCK)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _K_BLOCK, axis=1)
    spectra = np.fft.rfft(windows[:, : count : _K_BLOCK - _K_TAIL])  # (channels, blocks, bins)
    filtered = np.fft.irfft(spectra * _k_response(waveform.sample_rate))[..., _K_TAIL:]
    return filtered.reshape(waveform.channels, -1)[:, :count]


@cache
def _k_response(rate: int) -> NDArray[np.complex64]:
    hertz = np.minimum(np.fft.rfftfreq(_K_BLOCK, 1 / rate), _K_RATE / 2)  # above, the response stays as it is there
    z = np.exp(-2j * np.pi * hertz / _K_RATE)
    response = np.ones_like(z)
    for (b0, b1, b2), (a0, a1, a2) in _K_STAGES:
        response *= (b0 + (b1 + b2 * z) * z) / (a0 + (a1 + a2 * z) * z)
    return np.asarray(response, np.complex64)


def _long_term_spectrum(waveform: Waveform) -> tuple[Floats, float]:
    """Levels in dB (bins,) and the hertz between bins: what the louder frames reach a fifth of the time."""
    rate = waveform.sample_rate
    size = 1 << round(np.log2(rate * _SPECTRUM_SECONDS))
    padded = np.pad(waveform.samples, ((0, 0), (0, max(0, size - waveform.samples.shape[1]))))
    count = min(_SPECTRA, 1 + 2 * (padded.shape[1] // size))
    starts = np.linspace(0, padded.shape[1] - size, count).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[:, starts]  # (channels, frames, size)
    window = np.hanning(size).astype(np.float32)
    spectra = np.fft.rfft(frames * window)
    power = (spectra.real**2 + spectra.imag**2).sum(axis=0)  # (frames, bins)
    energy = power.sum(axis=1)
    louder = power[energy >= energy.max() * 10 ** (-_LOUDER_DB / 10)]
    place = len(louder) * 4 // 5
    return 10 * np.log10(np.partition(louder, place, axis=0)[place] + 1e-20), rate / size


def _decibels(power: float) -> float:
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")
