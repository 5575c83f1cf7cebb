"""From the files of an archive to clips that are ready to be encoded, one at a time.

In: a mode, a request, the discovered files. Out: fitted clips with captions, in archive order, and a report in which
every file has its status. One unreadable or short clip is skipped and reported; only when none is left is that an
error. Whatever makes the archive as a whole ambiguous or wrong is an error at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonolora.analysis.background import background
from sonolora.analysis.compare import Fingerprint, fingerprint
from sonolora.analysis.measure import Measured, measure
from sonolora.analysis.trimming import lost_seconds
from sonolora.core.errors import InputError, MediaError, first_few
from sonolora.core.frames import Span
from sonolora.data.checks.captions import caption_warnings
from sonolora.data.checks.pairs import pair_warnings
from sonolora.data.checks.previews import prompt_warnings, trained_input_warnings
from sonolora.data.checks.sets import count_warnings, set_warnings, short_warnings
from sonolora.data.checks.sounds import facts, sound_warnings, trimming_warnings
from sonolora.data.checks.spans import conditioning_warnings, mask_warnings
from sonolora.data.dataset_files import Files
from sonolora.data.report import Report
from sonolora.data.sidecars import read_captions, read_masks
from sonolora.data.videos import load_videos, refuse_silent_videos
from sonolora.ltx.text.text_encoder import Tokenizer
from sonolora.media.audio import (
    AUDIO_EXTENSIONS,
    Waveform,
    decode_audio,
    peak_normalized,
    resample,
    to_stereo,
)
from sonolora.media.fit_audio import Fitted, cut_or_padded, fit_audio, seconds_used
from sonolora.media.video import VIDEO_EXTENSIONS
from sonolora.modes.audio_inpaint import usable_ranges
from sonolora.modes.mode import Mode, SampleFiles
from sonolora.modes.pairing import extension
from sonolora.modes.request import AudioRequest, TrainRequest

_MAX_SHOWN = 5
_COMPARED_SECONDS = 30.0  # of the input of a preview, with the clips: what a fingerprint covers


@dataclass(frozen=True, eq=False)
class Clip:
    """One sample, fitted. Sounds are stereo, all of the same length, at the codec's sample rate."""

    name: str
    caption: str  # with the trigger phrase
    audio: Waveform
    reference: Waveform | None = None
    regenerate: tuple[Span, ...] | None = None  # seconds to regenerate; None: all
    frames: NDArray[np.uint8] | None = None  # of the video: (frames, height, width, 3)
    frame_rate: float = 0.0  # of the video
    source: str = ""  # a hash of the file that it is from, which scenes and copies share
    reference_source: str = ""  # of the reference's file


def load_clips(
    mode: Mode,
    request: TrainRequest,
    files: Files,
    sample_rate: int,
    tokenizer: Tokenizer,
    report: Report,
    advance: Callable[[str], None],
    preview_inputs: Mapping[str, Path] | None = None,
    *,
    judged: bool = True,
) -> Iterator[Clip]:
    """Pair, read and fit; warn of what is odd. Raises `InputError` when the archive cannot be used, naming the files.

    `sample_rate` and `tokenizer` are the base's. `preview_inputs`: the files that previews are generated from, by the
    request field of their address. Unless `judged`, sounds are not measured, and nothing is warned of them.
    """
    extensions = VIDEO_EXTENSIONS if mode.video else AUDIO_EXTENSIONS
    for name, reason in files.ignored.items():
        report.ignored(name, reason)
    pairing = mode.pair(files.names)
    for name, reason in pairing.skipped.items():
        report.skipped(name, reason)
    if not pairing.samples:
        raise _nothing_found(files, extensions, pairing.skipped)
    captions = read_captions(pairing, files, report)
    masks = read_masks(pairing.samples, files, request.clip_seconds, report)
    if mode.video:
        refuse_silent_videos([sample.target for sample in pairing.samples], request, files, report)
    loader = _Loader(mode, request, files, sample_rate, report, judged)
    count = 0
    trained: list[tuple[str, str]] = []  # files and captions
    for sample in pairing.samples:
        caption = with_trigger(request.trigger_phrase, captions[sample.name])
        clips_before = count
        for clip in loader.load(sample, caption, masks.get(sample.name)):
            count += 1
            yield loader.with_sources(clip, sample)
        if is_used := count > clips_before:
            trained.append((sample.caption or sample.target, caption))
        for companion in (sample.caption, sample.mask):
            if companion is not None and is_used:
                report.used(companion)
            elif companion is not None:
                report.skipped(companion, "its clip is skipped")
        advance(sample.target)
    for file, warning in (
        *set_warnings(loader.targets, peak_normalized=isinstance(request, AudioRequest) and request.audio_normalize),
        *caption_warnings(
            trained, request.trigger_phrase, lambda text: len(tokenizer.tokens(text)), tokenizer.max_tokens
        ),
    ):
        report.warn(file, warning)
    report.warn_of_dataset(
        *count_warnings(len(trained)),
        *_short_warnings(report, request, [sample.target for sample in pairing.samples]),
        *_conditioning_warnings(mode, request),
        *prompt_warnings([spec.prompt for spec in mode.previews(request)], request.trigger_phrase),
        *loader.trained_input_warnings(preview_inputs or {}),
    )
    report.check_complete(files)
    if not count:
        raise _none_left(report, request, extensions)


@dataclass
class _Loader:
    """Reads and fits samples; remembers the measurements of what is trained."""

    mode: Mode
    request: TrainRequest
    files: Files
    sample_rate: int
    report: Report
    judged: bool
    targets: list[tuple[str, Measured]] = field(default_factory=list)
    references: list[tuple[str, Measured]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)  # of files, by name

    def load(self, sample: SampleFiles, caption: str, mask: Sequence[Span] | None) -> Iterator[Clip]:
        """The clips of a sample: one, or one for each scene of a video, or none. `mask` overrides the mode's rule."""
        if isinstance(self.request, AudioRequest):
            yield from self._load_sound(sample, caption, mask, self.request)
            return
        for video in load_videos(sample, self.request, self.files, self.sample_rate, self.report):
            self.targets.append((sample.target, video.measured))
            fitted = video.fitted
            yield Clip(video.name, caption, fitted.waveform, frames=fitted.frames, frame_rate=self.request.frame_rate)

    def with_sources(self, clip: Clip, sample: SampleFiles) -> Clip:
        """The clip with the hashes of its files."""
        reference = "" if sample.reference is None else self._hash(sample.reference)
        return replace(clip, source=self._hash(sample.target), reference_source=reference)

    def _hash(self, name: str) -> str:
        if name not in self.hashes:
            with self.files.path(name).open("rb") as file:
                self.hashes[name] = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        return self.hashes[name]

    def trained_input_warnings(self, inputs: Mapping[str, Path]) -> list[str]:
        """Inputs of previews that are trained on, too. In a2a these are references, else targets."""
        trained = self.references if self.mode.reference else self.targets
        sounds = {}
        for name, path in inputs.items():
            try:
                sounds[name] = path, None if self.mode.video else self._fingerprint(path)
            except MediaError:
                continue  # which is reported where it is used
        return trained_input_warnings(
            sounds,
            {
                name: (self.files.path(name), None if self.mode.video else measured.fingerprint)
                for name, measured in trained
            },
        )

    def _fingerprint(self, path: Path) -> Fingerprint:
        decoded = decode_audio(path, seconds=_COMPARED_SECONDS, at_end=self.mode.trim_beginning)
        return fingerprint(decoded.waveform)

    def _load_sound(
        self, sample: SampleFiles, caption: str, mask: Sequence[Span] | None, request: AudioRequest
    ) -> Iterator[Clip]:
        report = self.report
        target, measured = self._fit(sample.target, request)
        regenerate = self.mode.regenerated(request)
        if mask is not None and sample.mask is not None and target is not None:
            moved = [(start * target.stretch, end * target.stretch) for start, end in mask]
            regenerate, _ = usable_ranges(moved, request.clip_seconds)
            if not regenerate:
                report.skipped(sample.target, "no range of its mask lies inside it")
                return
            report.warn(sample.mask, *mask_warnings(regenerate, request.clip_seconds))
        reference, reference_measured = None, None
        if sample.reference is not None:
            reference, reference_measured = self._fit(sample.reference, request)
        for name, fitted, partner_name, partner in (
            (sample.target, target, sample.reference, reference),
            (sample.reference, reference, sample.target, target),
        ):
            if name is None or fitted is None:
                continue
            if partner_name is not None and partner is None:
                report.skipped(name, f"its partner {partner_name} is skipped")
            elif fitted.how == "exact":
                report.used(name, fitted.detail)
            else:
                report.fitted(name, fitted.detail)
        if target is None or (sample.reference is not None and reference is None):
            return
        if measured is not None:
            self.targets.append((sample.target, measured))
        if sample.reference is not None and reference_measured is not None:
            self.references.append((sample.reference, reference_measured))
        sound = _level(target, request)
        given = None if reference is None else _level(reference, request)
        if given is not None:
            report.warn(sample.target, *pair_warnings(given, sound))
        yield Clip(sample.name, caption, sound, given, regenerate)

    def _fit(self, name: str, request: AudioRequest) -> tuple[Fitted | None, Measured | None]:
        """The fitted sound and the measurements of the part that is used; None, and a status, if it cannot be used."""
        report, keep_end = self.report, self.mode.trim_beginning
        try:
            decoded = decode_audio(self.files.path(name), seconds=seconds_used(request.clip_seconds), at_end=keep_end)
        except MediaError as error:
            report.skipped(name, error.reason)
            return None, None
        native = decoded.waveform
        used = min(native.seconds, request.clip_seconds)
        window = cut_or_padded(native, round(used * native.sample_rate), keep_end=keep_end)
        measured = measure(window) if self.judged else None
        report.measured(
            name,
            seconds=round(decoded.seconds, 3),
            sample_rate=native.sample_rate,
            channels=native.channels,
            **({} if measured is None else facts(measured)),
        )
        if decoded.warning:
            report.warn(name, decoded.warning)
        if measured is not None:
            report.warn(name, *sound_warnings(measured, background(window), self.sample_rate))
        fitted = fit_audio(
            resample(to_stereo(native), self.sample_rate),
            request.clip_seconds,
            preserve_pitch=request.audio_preserve_pitch,
            keep_end=keep_end,
            recording_seconds=decoded.seconds,
        )
        if fitted.waveform is None:
            report.skipped(name, fitted.detail, too_short=True)
            return None, None
        if fitted.how == "trimmed" and self.judged:
            report.warn(name, *trimming_warnings(self._lost_seconds(name, window, decoded.seconds), decoded.seconds))
        return fitted, measured

    def _lost_seconds(self, name: str, kept: Waveform, seconds: float) -> float:
        """Of sound, that trimming a recording of `seconds` takes away; of long ones what is next to the kept part."""
        rest, path = min(seconds - kept.seconds, _COMPARED_SECONDS), self.files.path(name)
        try:
            if self.mode.trim_beginning:
                end = decode_audio(path, seconds=kept.seconds + rest, at_end=True).waveform
                lost = replace(end, samples=end.samples[:, : -kept.samples.shape[1]])
            else:
                lost = decode_audio(path, start=kept.seconds, seconds=rest).waveform
        except MediaError:  # damaged beyond the part that is used
            return 0.0
        return lost_seconds(kept, lost)


def _level(fitted: Fitted, request: AudioRequest) -> Waveform:
    assert fitted.waveform is not None
    return peak_normalized(fitted.waveform) if request.audio_normalize else fitted.waveform


def with_trigger(trigger_phrase: str, caption: str) -> str:
    """The caption as it is trained: with the trigger phrase in front, unless it begins with it already."""
    trigger = " ".join(trigger_phrase.split())
    if caption == trigger or caption.startswith(f"{trigger} "):
        return caption
    return f"{trigger} {caption}".strip()


def _conditioning_warnings(mode: Mode, request: TrainRequest) -> list[str]:
    spans = mode.regenerated(request)
    return [] if spans is None else conditioning_warnings(spans, request.clip_seconds)


def _short_warnings(report: Report, request: TrainRequest, targets: Sequence[str]) -> list[str]:
    """Most clips are too short: the length that would keep them."""
    entries = {entry["file"]: entry["facts"] for entry in report.as_json()["files"]}
    skipped = sum(name in report.too_short for name in targets)
    if isinstance(request, AudioRequest):
        lengths = [entries[name]["seconds"] for name in targets if "seconds" in entries[name]]
        return short_warnings(lengths, skipped, "audio_duration_seconds", request.audio_duration_seconds)
    lengths = [entries[name]["frames"] for name in targets if "frames" in entries[name]]
    return short_warnings(lengths, skipped, "number_of_frames", request.number_of_frames)


def _nothing_found(files: Files, extensions: Sequence[str], skipped: Mapping[str, str]) -> InputError:
    unpaired = [f"{name}: {reason}" for name, reason in skipped.items() if extension(name) in extensions]
    if unpaired:
        return InputError.in_dataset(f"no pairs found: {first_few(unpaired, _MAX_SHOWN, '; ')}")
    kind = "videos" if extensions == VIDEO_EXTENSIONS else "audio clips"
    present = first_few(files.names, _MAX_SHOWN) or "no files"
    return InputError.in_dataset(
        f"no {kind} found (found {present}). Supported formats are {', '.join(extensions)}.",
        "unsupported_video_format" if kind == "videos" else "unsupported_audio_format",
        supported_formats=list(extensions),
    )


def _none_left(report: Report, request: TrainRequest, extensions: Sequence[str]) -> InputError:
    entries = [
        entry
        for entry in report.as_json()["files"]
        if entry["status"] == "skipped" and extension(entry["file"]) in extensions
    ]
    reasons = first_few([f"{entry['file']}: {entry['detail']}" for entry in entries], _MAX_SHOWN, "; ")
    short = [entry["facts"] for entry in entries if entry["file"] in report.too_short]
    if not short:
        return InputError.in_dataset(f"none of the {len(entries)} clips can be used: {reasons}")
    if isinstance(request, AudioRequest):
        longest = max(one["seconds"] for one in short)
        return InputError.in_dataset(
            f"no clip can be used: the longest lasts {longest:.2f} s, so lower audio_duration_seconds (now "
            f"{request.clip_seconds:g}) or provide longer clips. {reasons}",
            "audio_duration_too_short",
            min_duration=request.clip_seconds,
            provided_duration=longest,
        )
    most = max(one["frames"] for one in short)
    return InputError.in_dataset(
        f"All training videos are too short to be trainable: {reasons}. Lower number_of_frames (now "
        f"{request.number_of_frames}), or turn auto_scale_input on.",
        "video_duration_too_short",
        min_duration=request.clip_seconds,
        provided_duration=most / request.frame_rate,
    )
