"""Several takes of one request, and the base beside the LoRA: each is what `generate` makes of its seed.

In: as `generate`, with the number of takes. Out: the files that were written, by what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonolora.analysis.levels import amplified, matching_gain_db
from sonolora.analysis.pictures import Row, draw_sounds
from sonolora.core.devices import resolve_device
from sonolora.core.progress import Progress
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import decode_audio
from sonolora.media.write_audio import write_audio
from sonolora.modes.mode import Mode
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.runs.generation.generate import generate
from sonolora.runs.loaded_networks import Networks
from sonolora.sampling.preview import joined


def generate_takes(
    mode: Mode,
    body: Mapping[str, Any],
    settings: GenerateSettings,
    out: Path,
    progress: Progress,
    *,
    takes: int = 1,
    compare: bool = False,
) -> list[tuple[str, Path]]:
    """Write take n with the seed of the settings plus n. `compare`: also what the base makes of the first seed, a sound
    with one after the other, equally loud, and a picture of both."""
    networks = Networks(find_base(settings.base), resolve_device(settings.device))
    written: list[tuple[str, Path]] = []
    for take in range(takes):
        path = out if takes == 1 else out.with_name(f"{out.stem}-{take + 1}{out.suffix}")
        generate(mode, body, replace(settings, seed=settings.seed + take), path, progress, networks=networks)
        written += [("audio" if takes == 1 else f"take {take + 1}", path), ("picture", path.with_suffix(".png"))]
        if mode.video:
            written.append(("film", path.with_suffix(".mp4")))
    if compare:
        written += _compare(mode, body, settings, out, written[0][1], progress, networks)
    return written


def _compare(
    mode: Mode,
    body: Mapping[str, Any],
    settings: GenerateSettings,
    out: Path,
    made: Path,
    progress: Progress,
    networks: Networks,
) -> list[tuple[str, Path]]:
    base = out.with_name(f"{out.stem}-base{out.suffix}")
    alone = replace(settings, lora=None, scale=1.0, more_loras=())
    generate(mode, body, alone, base, progress, networks=networks)
    before, after = (decode_audio(path).waveform for path in (base, made))
    together = out.with_name(f"{out.stem}-compare{out.suffix}")
    write_audio(together, joined([amplified(before, matching_gain_db(before, after)), after]))
    picture = together.with_suffix(".png")
    prompt = str(body.get("prompt", ""))
    draw_sounds(picture, [Row("the base alone", before), Row("with the LoRA", after)], prompt)
    return [("base", base), ("compared", together), ("picture", picture)]
