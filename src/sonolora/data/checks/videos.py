"""Faults of a video's timing, and of the sound of a scene. In: what a video holds. Out: warnings."""

from __future__ import annotations

from sonolora.analysis.measure import Measured
from sonolora.media.video import VideoInfo

PICTURE_SECONDS = 0.2  # five latent frames; containers and codecs round by less
NEARLY_SILENT_DBFS = -50.0  # of the peak
NEARLY_SILENT_SHARE = 0.9  # of the length in pauses


def video_warnings(info: VideoInfo) -> list[str]:
    """What in a video's timing can move its sound against its picture."""
    warnings = []
    if info.audio_seconds is not None and abs(missing := info.seconds - info.audio_seconds) > PICTURE_SECONDS:
        what = "the rest is trained as silence" if missing > 0 else "the rest of the sound is not used"
        warnings.append(
            f"its picture lasts {info.seconds:.2f} s and its sound {info.audio_seconds:.2f} s: {what}. If one of them "
            "was cut or stretched, check that they are still in sync."
        )
    if info.variable_frame_rate:
        warnings.append(
            f"variable frame rate ({info.fps:.2f} on average): frames are repeated and dropped to even it out, so the "
            "picture may be off its sound by up to a frame. Export it at a constant rate, if you can."
        )
    return warnings


def scene_warnings(measured: Measured) -> list[str]:
    """A scene whose sound is nearly silence, as splitting can leave at the end of a video."""
    if measured.peak_dbfs >= NEARLY_SILENT_DBFS and measured.silent <= NEARLY_SILENT_SHARE:
        return []
    return [
        f"nearly no sound: its peak is {measured.peak_dbfs:.0f} dBFS and {measured.silent:.0%} of it is silent. Turn "
        "split_input_into_scenes off, or provide clips that are cut already."
    ]
