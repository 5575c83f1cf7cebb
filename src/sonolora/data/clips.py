"""From the files of an archive to clips that are ready to be encoded.

In: a mode's pairing rule, a request, the discovered files. Out: fitted stereo clips with captions, in archive order,
and a report in which every file has its verdict. One unreadable clip is left out and reported; only when none is
left is that an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sonolora.data.captions import read_caption
from sonolora.data.files import Files, check_unique_names
from sonolora.data.report import Report
from sonolora.errors import InputError, MediaError
from sonolora.media.audio import (
    AUDIO_EXTENSIONS,
    SILENCE_DBFS,
    Waveform,
    decode_audio,
    peak,
    peak_normalized,
    resample,
    to_stereo,
)
from sonolora.media.fit import Fitted, fit_audio
from sonolora.modes.mode import Mode, SampleFiles
from sonolora.modes.request import AudioRequest

_SHOWN = 5


@dataclass(frozen=True)
class Clip:
    """One sample, fitted: stereo sound of exactly the wanted length at the codec's rate, and the full caption."""

    name: str
    audio: Waveform
    caption: str


def load_clips(
    mode: Mode,
    request: AudioRequest,
    files: Files,
    sample_rate: int,
    report: Report,
    advance: Callable[[str], None],
) -> list[Clip]:
    """Pair, read, fit. Raises `InputError` when the archive cannot be used, naming the files."""
    check_unique_names(files)
    for name, why in files.ignored.items():
        report.ignored(name, why)
    pairing = mode.pair(files.names)
    for name, why in pairing.left_out.items():
        report.left_out(name, why)
    if not pairing.samples:
        raise _no_audio(files)
    clips = []
    for sample in pairing.samples:
        clip = _load(sample, request, files, sample_rate, report)
        if clip is not None:
            clips.append(clip)
        advance(sample.audio)
    report.check_complete(files)
    if not clips:
        raise _none_left(report, request.audio_duration_seconds)
    return clips


def _load(sample: SampleFiles, request: AudioRequest, files: Files, sample_rate: int, report: Report) -> Clip | None:
    caption = ""
    if sample.caption is not None:
        caption, warning = read_caption(files.path(sample.caption))
        if warning:
            report.warn(sample.caption, warning)
    else:
        report.warn(sample.audio, "no caption; the clip is trained with the trigger phrase alone")
    fitted = _fitted_audio(sample.audio, request, files, sample_rate, report)
    if sample.caption is not None:
        if fitted is None:
            report.left_out(sample.caption, f"its clip {sample.audio} is left out")
        else:
            report.used(sample.caption)
    if fitted is None:
        return None
    return Clip(sample.name, fitted, with_trigger(request.trigger_phrase, caption))


def with_trigger(trigger_phrase: str, caption: str) -> str:
    """The caption as it is trained: the trigger phrase in front, unless the caption begins with it already."""
    trigger = " ".join(trigger_phrase.split())
    if caption == trigger or caption.startswith(f"{trigger} "):
        return caption
    return f"{trigger} {caption}".strip()


def _fitted_audio(name: str, request: AudioRequest, files: Files, sample_rate: int, report: Report) -> Waveform | None:
    try:
        decoded = decode_audio(files.path(name))
    except MediaError as error:
        report.left_out(name, error.reason)
        return None
    native = decoded.waveform
    facts = {
        "seconds": round(native.seconds, 3),
        "sample_rate": native.sample_rate,
        "channels": native.channels,
        "peak": round(peak(native), 4),
    }
    if decoded.warning:
        report.warn(name, decoded.warning)
    if peak(native) < 10 ** (SILENCE_DBFS / 20):
        report.warn(name, f"silent: nothing in it is louder than {SILENCE_DBFS:.0f} dBFS")
    audio = resample(to_stereo(native), sample_rate)
    fitted = fit_audio(audio, request.audio_duration_seconds, preserve_pitch=request.audio_preserve_pitch)
    _report_fit(name, fitted, report, **facts)
    if fitted.waveform is None:
        return None
    return peak_normalized(fitted.waveform) if request.audio_normalize else fitted.waveform


def _report_fit(name: str, fitted: Fitted, report: Report, **facts: float) -> None:
    if fitted.waveform is None:
        report.left_out(name, fitted.detail, **facts)
    elif fitted.how == "exact":
        report.used(name, fitted.detail, **facts)
    else:
        report.fitted(name, fitted.detail, **facts)


def _no_audio(files: Files) -> InputError:
    found = ", ".join(files.names[:_SHOWN]) or "no files"
    more = f" and {len(files.names) - _SHOWN} more" if len(files.names) > _SHOWN else ""
    return InputError.in_dataset(
        f"no audio clips found (found {found}{more}). Supported formats are {', '.join(AUDIO_EXTENSIONS)}.",
        "unsupported_audio_format",
        supported_formats=list(AUDIO_EXTENSIONS),
    )


def _none_left(report: Report, seconds: float) -> InputError:
    verdicts = [
        entry
        for entry in report.as_json()["files"]
        if entry["status"] == "left out" and entry["file"].lower().endswith(AUDIO_EXTENSIONS)
    ]
    reasons = "; ".join(f"{entry['file']}: {entry['detail']}" for entry in verdicts[:_SHOWN])
    more = f"; and {len(verdicts) - _SHOWN} more" if len(verdicts) > _SHOWN else ""
    lengths = [entry["facts"]["seconds"] for entry in verdicts if "seconds" in entry["facts"]]
    if not lengths:
        return InputError.in_dataset(f"none of the {len(verdicts)} clips can be read: {reasons}{more}")
    return InputError.in_dataset(
        f"no clip can be used: {reasons}{more}. The longest has {max(lengths):.2f} s: lower "
        f"audio_duration_seconds (now {seconds:g}) or give longer clips.",
        "audio_duration_too_short",
        min_duration=seconds,
        provided_duration=max(lengths),
    )
