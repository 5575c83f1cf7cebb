"""From a request to the data that training needs: fetch, unpack, pair, fit, encode, and report on every file.

In: a run, its networks, where data may come from. Out: `Prepared`; among the run's artifacts the report with its page,
and the debug archive if the request wants one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from sonolora.conditioning import with_text
from sonolora.core.cancellation import CancelToken
from sonolora.core.download import Progress as DownloadProgress
from sonolora.core.progress import Progress
from sonolora.data.cache_folder import default_cache_folder
from sonolora.data.clips import Clip, load_clips
from sonolora.data.conditioning_inputs import ConditioningInput, load_conditioning_input
from sonolora.data.dataset import fetch_preview_inputs, open_dataset
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import Cache
from sonolora.data.fetch import Sources
from sonolora.data.foreign_captions import FOREIGN_CAPTIONS
from sonolora.data.held_out import Split, split_clips
from sonolora.data.prepared import Prepared
from sonolora.data.report import Report
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.stored_tensor import stored_precision
from sonolora.modes.negative_prompts import resolve_negative_prompt
from sonolora.modes.request import TrainRequest
from sonolora.runs.artifacts import DEBUG_ARCHIVE, REPORT
from sonolora.runs.debug_archive import write_debug_archive
from sonolora.runs.evaluation.copies import put_patterns
from sonolora.runs.loaded_networks import Networks
from sonolora.runs.report.preview_sources import PreviewSource, own_previews, put_request_sources, put_sources
from sonolora.runs.report.report_page import clips_for_page, write_report
from sonolora.runs.report.shown import ShownClip
from sonolora.runs.run import Run
from sonolora.runs.run_folder import scratch

_MAX_LINES = 20  # about single files; the report has all


def prepare(run: Run, networks: Networks, sources: Sources, progress: Progress, cancel: CancelToken) -> Prepared:
    """Raises `InputError` for data that cannot be used, `StopRequestedError` between files and texts."""
    with scratch(run.folder) as folder:
        prepared, clips, split = _read_and_encode(run, networks, sources, folder, progress, cancel)
    if run.request.debug_dataset:
        progress.phase("writing the debug archive", len(clips))
        cancel.check()
        clip_done = cancel.after(progress.advance)
        run.artifacts.put(
            DEBUG_ARCHIVE,
            partial(
                write_debug_archive,
                clips=clips,
                prepared=prepared,
                codec=networks.codec,
                artifacts=run.artifacts,
                clip_done=clip_done,
            ),
        )
    return prepared.split(split)


def _add_own_previews(
    run: Run, prepared: Prepared, clips: list[Clip], split: Split, encoder: Encoder, negative: str
) -> tuple[Prepared, list[PreviewSource]]:
    """The same data with previews of the run's clips, where the request has none and the settings want some."""
    contexts = encoder.encode_texts([negative], lambda note: None)  # noqa: ARG005 - it is in the cache
    items, sources = own_previews(
        prepared,
        clips,
        split,
        contexts[negative].audio,
        count=run.settings.own_previews,
        max_seconds=run.request.preview_seconds,
        output_sample_rate=encoder.codec.output_sample_rate,
    )
    return replace(prepared, previews=tuple(items)), sources


def _add_leak(
    prepared: Prepared, sources: list[PreviewSource], prompt: str, encoder: Encoder
) -> tuple[Prepared, list[PreviewSource]]:
    """The same data with one more preview: the first one with a prompt that has nothing to do with the data."""
    context = encoder.encode_texts([prompt], lambda note: None)[prompt]  # noqa: ARG005 - it is in the cache
    first, number = prepared.previews[0], len(prepared.previews) + 1
    item = replace(first, prompt=prompt, example=with_text(first.example, context.audio, context.video))
    source = replace(sources[0], number=number, clip=None, held_out=False, real=None, leak=True)
    return replace(prepared, previews=(*prepared.previews, item)), [*sources, source]


def describe_clips(clips: int, request: TrainRequest) -> str:
    """What is trained on, such as `4 clips of 5 s`."""
    return f"{clips} clip{'' if clips == 1 else 's'} of {request.clip_seconds:g} s"


def _read_and_encode(
    run: Run, networks: Networks, sources: Sources, folder: Path, progress: Progress, cancel: CancelToken
) -> tuple[Prepared, list[Clip], Split]:
    """All clips, and which of them are held out. The report is written whatever happens."""
    report, shown = Report(), list[ShownClip]()
    report.base = {
        "name": run.base.name,
        "fingerprint": run.base.fingerprint,
        "precision": stored_precision(run.base.checkpoint.tensors),
    }
    step_done = cancel.after(progress.advance)

    def fetched(done: int, total: int | None) -> None:
        of = "" if total is None else f" of {total / 1e6:,.1f}"
        step_done(f"{done / 1e6:,.1f}{of} MB", to=0)

    progress.phase("fetching the data", None)
    cancel.check()
    inputs = _preview_inputs(run, networks, sources, folder, fetched)
    files = open_dataset(run.request.training_data_url, folder, sources, fetched, progress.warning)
    progress.phase("reading and encoding the clips", len(files.names))
    cancel.check()
    encoder = Encoder(
        run.base,
        networks.codec,
        Cache(default_cache_folder(), warn=progress.warning),
        networks.device,
        networks.dtype,
        run.mode.video,
        partial(networks.text_encoder, video=run.mode.video),
    )
    try:
        tokenizer = load_tokenizer(run.base.checkpoint, run.base.text_encoder)
        sources_of_previews = fetch_preview_inputs(run.mode.previews(run.request), folder, sources)
        sample_rate = networks.codec.sample_rate
        loaded = load_clips(
            run.mode, run.request, files, sample_rate, tokenizer, report, step_done, sources_of_previews
        )
        texts = partial(step_done, to=len(files.names))  # they come after the clips
        negative = resolve_negative_prompt(run.request.validation_negative_prompt)
        own = bool(run.settings.own_previews) and not inputs
        foreign = FOREIGN_CAPTIONS if run.settings.preserve else ()
        leak = run.settings.preview_leak
        others = [*([negative] if own else []), *foreign, *([leak] if leak else [])]
        prepared, clips = encoder.prepare(clips_for_page(run.artifacts, loaded, shown), inputs, texts, others)
        if foreign:
            contexts = encoder.encode_texts(foreign, lambda note: None)  # noqa: ARG005 - they are in the cache
            prepared = replace(prepared, foreign=tuple(contexts.values()))
        split = split_clips(clips, run.settings.held_out)
        previews: list[PreviewSource] = []
        if own:
            prepared, previews = _add_own_previews(run, prepared, clips, split, encoder, negative)
        elif inputs:
            previews = put_request_sources(run.artifacts, [given for given, _ in inputs])
        if leak and previews:
            prepared, previews = _add_leak(prepared, previews, leak, encoder)
        elif leak:
            progress.warning("--preview-leak has no effect: the run has no previews")
        if previews:
            put_sources(run.artifacts, previews)
        put_patterns(run.artifacts, clips, split)
        report.held_out, report.held_out_note = tuple(clips[index].name for index in split.held_out), split.note
    finally:
        write_report(run.artifacts, report, shown, run.mode)
        _tell(report, progress)
    progress.message(f"training on {describe_clips(len(split.trained), run.request)}; {split.note}")
    return prepared, clips, split


def _preview_inputs(
    run: Run, networks: Networks, sources: Sources, folder: Path, fetched: DownloadProgress
) -> list[tuple[ConditioningInput, str]]:
    """What the previews are conditioned on, with their negative prompts; before the data, since it fails sooner."""
    rates = networks.codec.sample_rate, networks.codec.output_sample_rate
    return [
        (load_conditioning_input(spec, *rates, folder, sources, fetched), spec.negative_prompt)
        for spec in run.mode.previews(run.request)
    ]


def _tell(report: Report, progress: Progress) -> None:
    """What is not simply used."""
    lines = [(progress.warning, text) for text in report.as_json()["warnings"]]
    for entry in report.as_json()["files"]:
        if entry["status"] in ("skipped", "ignored"):
            tell = progress.warning if entry["status"] == "skipped" else progress.message
            lines.append((tell, f"{entry['status']}: {entry['file']}: {entry['detail']}"))
        lines += [(progress.warning, f"{entry['file']}: {text}") for text in entry["warnings"]]
    for tell, line in lines[:_MAX_LINES]:
        tell(line)
    if len(lines) > _MAX_LINES:
        progress.message(f"and {len(lines) - _MAX_LINES} more, see {REPORT}")
