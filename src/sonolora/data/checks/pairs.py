"""Faults of a pair of a reference and its target. In: both as they are trained. Out: warnings."""

from __future__ import annotations

import math

from sonolora.analysis.compare import lag_seconds
from sonolora.analysis.measure import loudness
from sonolora.analysis.pair_structure import shared_structure
from sonolora.core.frames import FRAME_SECONDS
from sonolora.media.audio import SILENCE_DBFS, Waveform, peak

LAG_SECONDS = FRAME_SECONDS  # the model's own resolution in time
LAG_CONFIDENCE = 0.2  # see `lag_seconds`
LEVEL_LU = 6.0  # beyond what is perceived as the same loudness

# Of 240 pairs of unrelated sounds 74 % were below all three, and 3 of 480 that one of eight effects relates.
SHARED_LEVEL, SHARED_BANDS, SHARED_FINGERPRINT = 0.4, 0.2, 0.25


def pair_warnings(reference: Waveform, target: Waveform) -> list[str]:
    """How a target fits its reference."""
    if reference.samples.shape == target.samples.shape and (reference.samples == target.samples).all():
        return ["reference and target are the same sound, so the LoRA learns to change nothing. Check the pair."]
    if min(peak(reference), peak(target)) < 10 ** (SILENCE_DBFS / 20):
        return []  # of which there is a warning already
    shared = shared_structure(reference, target)
    if shared.level < SHARED_LEVEL and shared.bands < SHARED_BANDS and shared.fingerprint < SHARED_FINGERPRINT:
        return [
            "the target has nothing in common with its reference: neither its level nor its spectrum follows it. Check "
            "that the two belong together; a LoRA learns from pairs that differ only by the transformation."
        ]
    warnings = []
    lag, confidence = lag_seconds(reference, target)
    if abs(lag) > LAG_SECONDS and confidence >= LAG_CONFIDENCE:
        warnings.append(
            f"the target comes {abs(lag) * 1000:.0f} ms {'after' if lag > 0 else 'before'} its reference, and the LoRA "
            "learns that shift. Align the two."
        )
    difference = loudness(target) - loudness(reference)
    if math.isfinite(difference) and abs(difference) > LEVEL_LU:
        warnings.append(
            f"the target is {abs(difference):.0f} LU {'louder' if difference > 0 else 'softer'} than its reference, "
            "and the LoRA learns that change of level. Match the levels, unless you want it."
        )
    return warnings
