"""The videos of an archive: fitted frames with their sound.

In: a video file and a request. Out: one `Film`, or one for each scene when scenes are split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonolora.core.errors import InputError, MediaError
from sonolora.data.checks import video_warnings
from sonolora.data.dataset_files import Files
from sonolora.data.report import Report
from sonolora.media.audio import SILENCE_DBFS, Waveform, peak
from sonolora.media.fit_video import TooShort, fit_video
from sonolora.media.scenes import scene_spans
from sonolora.media.video import frame_size, probe_video
from sonolora.modes.mode import SampleFiles
from sonolora.modes.request import TrainRequest


@dataclass(frozen=True, eq=False)
class Film:
    """A fitted video, or one scene of it."""

    name: str
    frames: NDArray[np.uint8]  # (frames, height, width, 3)
    audio: Waveform


def refuse_silent_films(names: Sequence[str], files: Files, report: Report) -> None:
    """Raise one `InputError` that names every video without an audio track; note what the others hold."""
    silent = []
    for name in names:
        try:
            info = probe_video(files.path(name))
        except MediaError:
            continue  # its verdict comes when it is read
        report.measured(
            name,
            seconds=round(info.seconds, 3),
            frames=info.frames,
            frame_rate=round(info.fps, 3),
            width=info.width,
            height=info.height,
        )
        report.warn(name, *video_warnings(info))
        if not info.has_audio:
            silent.append(name)
    if silent:
        raise InputError.in_dataset(
            f"every training video must have an audio track, and {len(silent)} have none: {', '.join(silent)}. "
            "Add their sound, or remove them."
        )


def load_films(
    sample: SampleFiles, request: TrainRequest, files: Files, sample_rate: int, report: Report
) -> Iterator[Film]:
    """Fit a video, or its scenes, and give the file its verdict.

    Raises `InputError` for a scene without sound: the page warns that splitting can cut silent ends.
    """
    path, name = files.path(sample.target), sample.target
    width, height = frame_size(request.resolution, request.aspect_ratio)
    details, short, changed, damaged = [], [], False, False
    try:
        spans: list[tuple[float, float | None]] = [(0.0, None)]
        if request.split_input_into_scenes and probe_video(path).seconds > request.split_input_duration_threshold:
            spans = [(start, end) for start, end in scene_spans(path)]
        for number, (start, end) in enumerate(spans, start=1):
            scene = "" if len(spans) == 1 else f"scene {number} from {start:.2f} s: "
            fitted = fit_video(
                path,
                number_of_frames=request.number_of_frames,
                frame_rate=request.frame_rate,
                width=width,
                height=height,
                sample_rate=sample_rate,
                auto_scale=request.auto_scale_input,
                start=start,
                end=end,
            )
            if isinstance(fitted, TooShort):
                short.append(f"{scene}{fitted.detail}")
                continue
            _check_sound(name, scene, fitted.waveform, report)
            for warning in fitted.warnings:
                report.warn(name, f"{scene}{warning}")
            details.append(f"{scene}{fitted.detail}")
            changed = changed or bool(scene) or fitted.how != "exact"
            yield Film(
                sample.name if len(spans) == 1 else f"{sample.name}_scene{number}", fitted.frames, fitted.waveform
            )
    except MediaError as error:
        if not details:
            report.skipped(name, error.reason)
            return
        short.append(error.reason)
        damaged = True
    if not details:
        report.skipped(name, "; ".join(short), too_short=not damaged)
    elif short or changed:
        report.fitted(name, "; ".join([*details, *(f"left out: {why}" for why in short)]))
    else:
        report.used(name, details[0])


def _check_sound(name: str, scene: str, sound: Waveform, report: Report) -> None:
    if peak(sound) >= 10 ** (SILENCE_DBFS / 20):
        return
    if scene:
        raise InputError.in_dataset(
            f"{name}, {scene}it has no sound, and every training clip must. Turn split_input_into_scenes off, or give "
            "clips that are cut already."
        )
    report.warn(name, f"silent: nothing in its sound is louder than {SILENCE_DBFS:.0f} dBFS")
