"""The videos of an archive: fitted frames with their sound.

In: a video file and a request. Out: one fitted video, or one for each scene when scenes are split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sonolora.analysis.background import background
from sonolora.analysis.measure import Measured, measure
from sonolora.core.errors import InputError, MediaError
from sonolora.data.checks.sounds import facts, sound_warnings
from sonolora.data.checks.videos import scene_warnings, video_warnings
from sonolora.data.dataset_files import Files
from sonolora.data.report import Report
from sonolora.media.audio import SILENCE_DBFS, Decoded, peak
from sonolora.media.fit_video import FittedVideo, TooShort, fit_video
from sonolora.media.scenes import scene_spans
from sonolora.media.soundtrack import decode_soundtrack
from sonolora.media.video import frame_size, probe_video
from sonolora.modes.mode import SampleFiles
from sonolora.modes.request import TrainRequest


@dataclass(frozen=True, eq=False)
class VideoClip:
    """A fitted video, or one scene of it, and the measurements of its sound as it is in the file."""

    name: str
    fitted: FittedVideo
    measured: Measured


def refuse_silent_videos(names: Sequence[str], request: TrainRequest, files: Files, report: Report) -> None:
    """Raise one `InputError` that names every video without sound in the part that is trained; report what each holds.

    A track that is silent counts as none. Scenes are checked when they are known.
    """
    silent = []
    for name in names:
        path = files.path(name)
        try:
            info = probe_video(path)
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
                silent.append(f"{name} (no audio track)")
            elif not _splits(request, info.seconds):
                seconds = info.seconds if request.auto_scale_input else min(info.seconds, request.clip_seconds)
                if _is_silent(decode_soundtrack(path, 0.0, seconds)):
                    silent.append(f"{name} (silent in the {seconds:.2f} s that are trained)")
        except MediaError:
            continue  # its status comes when it is read
    if silent:
        raise InputError.in_dataset(
            f"every training video must have an audio track with sound, and {len(silent)} have none: "
            f"{', '.join(silent)}. Add their sound, or remove them."
        )


def load_videos(
    sample: SampleFiles, request: TrainRequest, files: Files, sample_rate: int, report: Report
) -> Iterator[VideoClip]:
    """Fit a video, or its scenes, and give the file its status.

    Raises `InputError` for a scene without sound: the page warns that splitting can leave silent ends.
    """
    path, name = files.path(sample.target), sample.target
    width, height = frame_size(request.resolution, request.aspect_ratio)
    details: list[str] = []
    short: list[str] = []
    changed = damaged = False
    try:
        spans: list[tuple[float, float | None]] = [(0.0, None)]
        length = probe_video(path).seconds
        if _splits(request, length):
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
            available = (length if end is None else end) - start
            seconds = available if fitted.how == "retimed" else min(available, request.clip_seconds)
            native = decode_soundtrack(path, start, seconds)
            if scene and _is_silent(native):
                raise InputError.in_dataset(
                    f"{name}, {scene}it has no sound, and every training clip must. Turn split_input_into_scenes off, "
                    "or provide clips that are cut already."
                )
            measured = measure(native.waveform)
            warnings = [*fitted.warnings, *sound_warnings(measured, background(native.waveform), sample_rate)]
            if scene:
                warnings += scene_warnings(measured)
            if not details:
                report.measured(name, **facts(measured))
            report.warn(name, *(f"{scene}{warning}" for warning in warnings))
            details.append(f"{scene}{fitted.detail}")
            changed = changed or bool(scene) or fitted.how != "exact"
            clip_name = sample.name if len(spans) == 1 else f"{sample.name}_scene{number}"
            yield VideoClip(clip_name, fitted, measured)
    except MediaError as error:
        if not details:
            report.skipped(name, error.reason)
            return
        short.append(error.reason)
        damaged = True
    if not details:
        report.skipped(name, "; ".join(short), too_short=not damaged)
    elif short or changed:
        report.fitted(name, "; ".join([*details, *(f"skipped: {reason}" for reason in short)]))
    else:
        report.used(name, details[0])


def _splits(request: TrainRequest, seconds: float) -> bool:
    return request.split_input_into_scenes and seconds > request.split_input_duration_threshold


def _is_silent(decoded: Decoded) -> bool:
    return peak(decoded.waveform) < 10 ** (SILENCE_DBFS / 20)
