"""From the files of an archive to clips that are ready to be encoded, one at a time.

In: a mode, a request, the discovered files. Out: fitted clips with captions, in archive order, and a report in which
every file has its verdict. One unreadable or short clip is left out and reported; only when none is left is that an
error. What makes the archive as a whole ambiguous or wrong is an error at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonolora.analysis.measure import Measured, measure
from sonolora.core.errors import ErrorItem, InputError, MediaError, first_few
from sonolora.core.frames import Span
from sonolora.data.captions import MAX_BYTES, read_caption
from sonolora.data.checks import (
    caption_warnings,
    clip_warnings,
    facts,
    mask_warnings,
    pair_warnings,
    set_warnings,
)
from sonolora.data.dataset_files import Files, check_unique_names
from sonolora.data.report import Report
from sonolora.data.videos import load_films, refuse_silent_films
from sonolora.ltx.text.text_encoder import Tokenizer
from sonolora.media.audio import (
    AUDIO_EXTENSIONS,
    Waveform,
    decode_audio,
    peak_normalized,
    resample,
    to_stereo,
)
from sonolora.media.fit_audio import Fitted, fit_audio, seconds_used
from sonolora.media.video import VIDEO_EXTENSIONS
from sonolora.modes.audio_inpaint import parse_mask
from sonolora.modes.mode import Mode, SampleFiles
from sonolora.modes.pairing import extension
from sonolora.modes.request import AudioRequest, TrainRequest

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Clip:
    """One sample, fitted. Sounds are stereo, of exactly the wanted length, at the codec's rate."""

    name: str
    caption: str  # with the trigger phrase
    audio: Waveform
    reference: Waveform | None = None
    regenerate: tuple[Span, ...] | None = None  # seconds that are made anew; None: all
    frames: NDArray[np.uint8] | None = None  # (frames, height, width, 3)
    frame_rate: float = 0.0  # of the film


def load_clips(
    mode: Mode,
    request: TrainRequest,
    files: Files,
    sample_rate: int,
    tokenizer: Tokenizer,
    report: Report,
    advance: Callable[[str], None],
) -> Iterator[Clip]:
    """Pair, read and fit; warn of what is odd. Raises `InputError` when the archive cannot be used, naming the files.

    `sample_rate` and `tokenizer` are the base's.
    """
    extensions = VIDEO_EXTENSIONS if mode.video else AUDIO_EXTENSIONS
    check_unique_names(files, extensions)
    for name, why in files.ignored.items():
        report.ignored(name, why)
    pairing = mode.pair(files.names)
    for name, why in pairing.skipped.items():
        report.skipped(name, why)
    if not pairing.samples:
        raise _nothing_found(files, extensions, pairing.skipped)
    masks = _read_masks(pairing.samples, files, request.clip_seconds)
    if mode.video:
        refuse_silent_films([sample.target for sample in pairing.samples], files, report)
    count = 0
    captions: list[tuple[str, str]] = []
    heard: list[tuple[str, Measured]] = []
    for sample in pairing.samples:
        caption = _read_caption(sample, files, request, report)
        regenerate = masks.get(sample.name, mode.regenerated(request))
        if sample.mask is not None and regenerate is not None:
            report.warn(sample.mask, *mask_warnings(_placed(regenerate, 1.0, request), request.clip_seconds))
        used = 0
        for clip in _load(sample, caption, regenerate, request, files, sample_rate, report, heard):
            used += 1
            yield clip
        if used:
            captions.append((sample.caption or sample.target, caption))
        for companion in (sample.caption, sample.mask):
            if companion is not None and used:
                report.used(companion)
            elif companion is not None:
                report.skipped(companion, f"its clip {sample.target} is left out")
        count += used
        advance(sample.target)
    normalized = isinstance(request, AudioRequest) and request.audio_normalize
    for file, warning in (
        *set_warnings(heard, peak_normalized=normalized),
        *caption_warnings(
            captions, request.trigger_phrase, lambda text: len(tokenizer.tokens(text)), tokenizer.max_tokens
        ),
    ):
        report.warn(file, warning)
    report.check_complete(files)
    if not count:
        raise _none_left(report, request, extensions)


def _load(
    sample: SampleFiles,
    caption: str,
    regenerate: tuple[Span, ...] | None,
    request: TrainRequest,
    files: Files,
    sample_rate: int,
    report: Report,
    heard: list[tuple[str, Measured]],
) -> Iterator[Clip]:
    if not isinstance(request, AudioRequest):
        for film in load_films(sample, request, files, sample_rate, report):
            yield Clip(film.name, caption, film.audio, frames=film.frames, frame_rate=request.frame_rate)
        return
    measured: list[tuple[str, Measured]] = []
    target = _fit(sample.target, request, files, sample_rate, report, measured)
    if target is not None and sample.mask is not None and regenerate is not None:
        regenerate = _placed(regenerate, target.stretch, request)
        if not regenerate:
            report.skipped(sample.target, "no range of its mask lies inside it")
            return
    reference = None
    if sample.reference is not None:
        # References are measured too, but not compared with the targets: they are meant to be like them.
        reference = _fit(sample.reference, request, files, sample_rate, report, [])
    for name, fitted, partner_name, partner in (
        (sample.target, target, sample.reference, reference),
        (sample.reference, reference, sample.target, target),
    ):
        if name is None or fitted is None:
            continue
        if partner_name is not None and partner is None:
            report.skipped(name, f"its partner {partner_name} is left out")
        elif fitted.how == "exact":
            report.used(name, fitted.detail)
        else:
            report.fitted(name, fitted.detail)
    if target is None or (sample.reference is not None and reference is None):
        return
    heard += measured
    sound = _level(target, request)
    given = None if reference is None else _level(reference, request)
    if given is not None:
        report.warn(sample.target, *pair_warnings(given, sound))
    yield Clip(sample.name, caption, sound, given, regenerate)


def _placed(spans: tuple[Span, ...], stretch: float, request: TrainRequest) -> tuple[Span, ...]:
    """Where the spans of a clip are after it was fitted."""
    seconds = request.clip_seconds
    return tuple((start * stretch, min(end * stretch, seconds)) for start, end in spans if start * stretch < seconds)


def _level(fitted: Fitted, request: AudioRequest) -> Waveform:
    assert fitted.waveform is not None
    return peak_normalized(fitted.waveform) if request.audio_normalize else fitted.waveform


def _fit(
    name: str,
    request: AudioRequest,
    files: Files,
    sample_rate: int,
    report: Report,
    heard: list[tuple[str, Measured]],
) -> Fitted | None:
    """The fitted sound; None, and a verdict in the report, when it cannot be used."""
    try:
        decoded = decode_audio(files.path(name), seconds=seconds_used(request.clip_seconds))
    except MediaError as error:
        report.skipped(name, error.reason)
        return None
    native = decoded.waveform
    measured = measure(native)
    report.measured(
        name,
        seconds=round(decoded.seconds, 3),
        sample_rate=native.sample_rate,
        channels=native.channels,
        **facts(measured),
    )
    report.warn(name, *([decoded.warning] if decoded.warning else []), *clip_warnings(measured, sample_rate))
    heard.append((name, measured))
    audio = resample(to_stereo(native), sample_rate)
    fitted = fit_audio(
        audio,
        request.clip_seconds,
        preserve_pitch=request.audio_preserve_pitch,
        recording_seconds=decoded.seconds,
    )
    if fitted.waveform is None:
        report.skipped(name, fitted.detail, too_short=True)
        return None
    return fitted


def _read_caption(sample: SampleFiles, files: Files, request: TrainRequest, report: Report) -> str:
    caption = ""
    if sample.caption is not None:
        caption, warning = read_caption(files.path(sample.caption))
        if warning:
            report.warn(sample.caption, warning)
    return with_trigger(request.trigger_phrase, caption)


def with_trigger(trigger_phrase: str, caption: str) -> str:
    """The caption as it is trained: the trigger phrase in front, unless the caption begins with it already."""
    trigger = " ".join(trigger_phrase.split())
    if caption == trigger or caption.startswith(f"{trigger} "):
        return caption
    return f"{trigger} {caption}".strip()


def _read_masks(samples: Sequence[SampleFiles], files: Files, seconds: float) -> dict[str, tuple[Span, ...]]:
    """Spans by sample name, in the clip's own seconds. Raises one `InputError` with every mask that is wrong."""
    masks, faults = {}, []
    for sample in samples:
        if sample.mask is None:
            continue
        try:
            path = files.path(sample.mask)
            if (size := path.stat().st_size) > MAX_BYTES:
                raise ValueError(f"{size:,} bytes are too many for a mask (limit {MAX_BYTES:,})")
            text = path.read_text(encoding="utf-8-sig")
            parse_mask(text, seconds)  # for its faults: it is cut when it is known how its clip is fitted
            masks[sample.name] = parse_mask(text, math.inf)
        except UnicodeDecodeError:
            faults.append(f"{sample.mask}: not text in UTF-8")
        except ValueError as error:
            faults.append(f"{sample.mask}: {error}")
    if faults:
        raise InputError([ErrorItem(("body", "training_data_url"), fault) for fault in faults])
    return masks


def _nothing_found(files: Files, extensions: Sequence[str], skipped: Mapping[str, str]) -> InputError:
    unpaired = [f"{name}: {why}" for name, why in skipped.items() if extension(name) in extensions]
    if unpaired:
        return InputError.in_dataset(f"no pairs found: {first_few(unpaired, _SHOWN, '; ')}")
    found = first_few(files.names, _SHOWN) or "no files"
    kind = "videos" if extensions == VIDEO_EXTENSIONS else "audio clips"
    return InputError.in_dataset(
        f"no {kind} found (found {found}). Supported formats are {', '.join(extensions)}.",
        "unsupported_video_format" if kind == "videos" else "unsupported_audio_format",
        supported_formats=list(extensions),
    )


def _none_left(report: Report, request: TrainRequest, extensions: Sequence[str]) -> InputError:
    verdicts = [
        entry
        for entry in report.as_json()["files"]
        if entry["status"] == "skipped" and extension(entry["file"]) in extensions
    ]
    reasons = first_few([f"{entry['file']}: {entry['detail']}" for entry in verdicts], _SHOWN, "; ")
    lengths = [entry["facts"]["seconds"] for entry in verdicts if entry["file"] in report.too_short]
    if not lengths:
        return InputError.in_dataset(f"none of the {len(verdicts)} clips can be used: {reasons}")
    context = {"min_duration": request.clip_seconds, "provided_duration": max(lengths)}
    if extensions == VIDEO_EXTENSIONS:
        return InputError.in_dataset(
            f"All training videos are too short to be trainable: {reasons}. Lower number_of_frames (now "
            f"{request.number_of_frames}), or turn auto_scale_input on.",
            "video_duration_too_short",
            **context,
        )
    return InputError.in_dataset(
        f"no clip can be used: the longest has {max(lengths):.2f} s, so lower audio_duration_seconds (now "
        f"{request.clip_seconds:g}) or give longer clips. {reasons}",
        "audio_duration_too_short",
        **context,
    )
