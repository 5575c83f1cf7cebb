"""The text files beside the clips: captions, tables of captions, masks.

In: the files of the samples. Out: captions and masks by the name of the sample. Whatever cannot be read is named in one
error, before any clip is decoded, so that it can be fixed in one go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sonolora.core.errors import ErrorItem, InputError, first_few
from sonolora.core.frames import Span
from sonolora.data.caption_tables import CaptionTable, file_key, read_caption_table
from sonolora.data.captions import MAX_BYTES, read_caption
from sonolora.data.dataset_files import Files
from sonolora.data.report import Report
from sonolora.modes.audio_inpaint import parse_mask, usable_ranges
from sonolora.modes.mode import Pairing, SampleFiles

_MAX_SHOWN = 5


def read_captions(pairing: Pairing, files: Files, report: Report) -> dict[str, str]:
    """Captions by sample name, '' for none: from its own `.txt`, else from a table.

    Raises one `InputError` with every caption file that cannot be read.
    """
    captions, faults = {}, []
    for sample in pairing.samples:
        if sample.caption is None:
            continue
        try:
            caption = read_caption(files.path(sample.caption))
        except ValueError as error:
            faults.append(f"{sample.caption}: {error}")
        else:
            captions[sample.name] = caption.text
            report.warn(sample.caption, *caption.warnings)
    _refuse(faults)
    for name in pairing.caption_tables:
        try:
            table = read_caption_table(files.path(name))
        except ValueError as error:
            report.skipped(name, str(error))
        else:
            _take_captions(name, table, pairing.samples, captions, report)
    return {sample.name: captions.get(sample.name, "") for sample in pairing.samples}


def _take_captions(
    name: str, table: CaptionTable, samples: Sequence[SampleFiles], captions: dict[str, str], report: Report
) -> None:
    """Add the captions of the table `name` for samples that have none yet, and give the table its status."""
    rest = dict(table.captions)
    taken, overruled = 0, []
    for sample in samples:
        texts = [rest.pop(file_key(file), None) for file in (sample.target, sample.reference) if file]
        text = next((text for text in texts if text is not None), None)
        if text is None:
            continue
        if sample.name in captions:
            overruled.append(sample.target)
        else:
            captions[sample.name] = text
            taken += 1
    if not taken:
        named = first_few(list(table.captions), _MAX_SHOWN) or "no files"
        report.skipped(name, f"no clip takes its caption from it: it names {named}; names need their extension")
        return
    report.used(name, f"captions of {taken} clip{'' if taken == 1 else 's'}")
    if table.warnings:
        report.warn(name, first_few(table.warnings, _MAX_SHOWN, "; "))
    if overruled:
        report.warn(name, f"not used for {first_few(overruled, _MAX_SHOWN)}, which have a caption already")
    if rest:
        report.warn(name, f"names files that are not clips here: {first_few(list(rest), _MAX_SHOWN)}")


def read_masks(
    samples: Sequence[SampleFiles], files: Files, seconds: float, report: Report
) -> Mapping[str, list[Span]]:
    """Ranges by sample name, in the clip's own seconds; ranges that are cut or ignored in `seconds` become warnings.

    Raises one `InputError` with every mask that is malformed or marks nothing.
    """
    masks, faults = {}, []
    for sample in samples:
        if sample.mask is None:
            continue
        try:
            ranges = parse_mask(_text(files.path(sample.mask)))
            spans, notes = usable_ranges(ranges, seconds)
            if not spans:
                raise ValueError(f"no range lies inside the clip: {first_few(notes, _MAX_SHOWN, '; ')}")
        except ValueError as error:
            faults.append(f"{sample.mask}: {error}")
        else:
            masks[sample.name] = ranges
            if notes:
                report.warn(sample.mask, first_few(notes, _MAX_SHOWN, "; "))
    _refuse(faults)
    return masks


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{size:,} bytes are too many for a mask (limit {MAX_BYTES:,})")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise InputError([ErrorItem(("body", "training_data_url"), fault) for fault in faults])
