"""Faults of a single sound. In: its measurements. Out: warnings, and the figures for the report."""

from __future__ import annotations

import math

from sonolora.analysis.background import Background
from sonolora.analysis.measure import Measured
from sonolora.data.report import Fact
from sonolora.media.audio import SILENCE_DBFS

CLIPPED_SHARE = 5e-4  # about fifty clipped peaks in 10 s: fewer may be single clicks, or square waves
PAUSES_SHARE = 0.5  # before and between sounds
PAUSE_SECONDS = 1.5  # the longest of them: drips, footsteps and calls have shorter ones
# A short effect in a longer clip ends in silence by nature.
TAIL_SHARE, TAIL_SECONDS = 0.9, 3.0
LEADING_SECONDS = 0.25  # perceived as a pause; attacks and fades are shorter
LOST_SECONDS = 0.15  # of sound cut off: less is the end of a decay
DC_SHARE = 0.02  # of the peak: a working sound card stays far below
DULL = 0.9  # of what the codec covers: a cut below takes part of it away
NEAR_CODEC = 1.05  # a cut above is out of the codec's range

# Louder backgrounds are the sound itself, fainter ones are masked by it; tests/data/checks/test_good_data.py has sets
# that draw no warning.
NOISE_DB = (-30.0, -12.0)  # below the louder moments: quieter noise is masked, louder noise is the sound itself
NOISE_DBFS = -75.0
HUM_DB = (-35.0, -12.0)


def facts(measured: Measured) -> dict[str, Fact]:
    """The figures of a sound in the report, besides its length, rate and channels."""
    figures: dict[str, float] = {
        "peak_dbfs": round(measured.peak_dbfs, 1),
        "lufs": round(measured.lufs, 1),
        "silence": round(measured.silent, 3),
        "bandwidth_hertz": round(measured.bandwidth_hertz),
    }
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {**finite, "image": measured.image}


def sound_warnings(measured: Measured, background: Background, codec_rate: int) -> list[str]:
    """Faults of a sound at its native rate. `codec_rate`: the rate of the base's codec, Hz."""
    if measured.peak_dbfs < SILENCE_DBFS:
        return [
            f"silent: nothing in it is louder than {SILENCE_DBFS:.0f} dBFS, so the LoRA learns silence. Remove it, "
            "or record it again."
        ]
    warnings = []
    if measured.clipped > CLIPPED_SHARE:
        warnings.append(
            f"clipped: {measured.clipped:.2%} of its samples are in flat tops, and the LoRA learns the distortion. "
            "Record it at a lower level; turning it down fixes nothing."
        )
    pauses = measured.silent - measured.trailing_silence / measured.seconds
    tail = measured.trailing_silence
    if (pauses > PAUSES_SHARE and measured.longest_pause > PAUSE_SECONDS) or (
        tail > TAIL_SECONDS and tail > TAIL_SHARE * measured.seconds
    ):
        warnings.append(
            f"{measured.silent:.0%} of it is silent, and the LoRA learns the pauses as part of the sound. Cut them, "
            "or train on shorter clips."
        )
    if measured.leading_silence > LEADING_SECONDS:
        warnings.append(
            f"starts with {measured.leading_silence:.2f} s of silence, and so will the output of the LoRA. Trim it, "
            "unless you want that."
        )
    if abs(measured.dc) > DC_SHARE * 10 ** (measured.peak_dbfs / 20):
        warnings.append(
            f"DC offset of {measured.dc:+.1%} of full scale, which takes headroom and clicks where the clip is cut. "
            "Apply a high-pass filter at 20 Hz."
        )
    warnings += _background_warnings(background, measured.peak_dbfs)
    return [*warnings, *_bandwidth_warnings(measured, codec_rate), *_channel_warnings(measured)]


def trimming_warnings(lost_seconds: float, seconds: float) -> list[str]:
    """Of a recording of `seconds`, of which trimming takes away `lost_seconds` with sound."""
    if lost_seconds < LOST_SECONDS:
        return []
    return [
        f"loses {lost_seconds:.1f} s that is not silent to trimming, while its caption describes all {seconds:.1f} s. "
        "Train on longer clips, or cut it yourself and describe what is left."
    ]


def _background_warnings(background: Background, peak_dbfs: float) -> list[str]:
    lowest, highest = HUM_DB
    if background.hum_db is not None and lowest < background.hum_db < highest:
        return [
            f"mains hum at {background.hum_hertz} Hz and its multiples, {-background.hum_db:.0f} dB below the sound: "
            "the LoRA learns it. Remove it with notch filters, unless it belongs to the sound."
        ]
    lowest, highest = NOISE_DB
    noise = background.noise_db
    if noise is not None and lowest < noise < highest and peak_dbfs + noise > NOISE_DBFS:
        return [
            f"steady background noise {-noise:.0f} dB below the sound: the LoRA learns it. Denoise it or record it in "
            "a quieter place, unless the noise belongs to the sound."
        ]
    return []


def _bandwidth_warnings(measured: Measured, codec_rate: int) -> list[str]:
    covered, possible = codec_rate / 2, measured.sample_rate / 2
    if possible < DULL * covered:
        return [
            f"a sample rate of {measured.sample_rate} Hz holds nothing above {_khz(possible)}, and the codec covers up "
            f"to {_khz(covered)}: the LoRA learns a dull sound. Use a recording at {codec_rate} Hz or more."
        ]
    cut = measured.bandwidth_hertz
    if cut >= min(possible, NEAR_CODEC * covered):
        return []
    loss = (
        f"The codec covers up to {_khz(covered)}, so the LoRA learns a dull sound."
        if cut < DULL * covered
        else f"The codec covers no more than {_khz(covered)}, so little is lost, but it is not the original."
    )
    return [
        f"its spectrum is cut off at {_khz(cut)}, while its rate of {measured.sample_rate} Hz allows up to "
        f"{_khz(possible)}: it was converted from a lower rate or strongly compressed. {loss} Use the original, if "
        "there is one."
    ]


def _channel_warnings(measured: Measured) -> list[str]:
    if measured.image == "inverted":
        return [
            "one of its channels is inverted: in mono the two cancel out, and the LoRA learns that. Invert one channel."
        ]
    if measured.image == "one channel silent":
        return ["only one of its two channels has sound, and the LoRA learns to leave a side empty. Make it mono."]
    return []


def _khz(hertz: float) -> str:
    return f"{hertz / 1000:.3g} kHz"
