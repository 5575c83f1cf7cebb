"""What the previews of a run are made from: the request's own inputs, or clips of the run where it has none.

In: prepared data and its split, or a request's inputs. Out: preview items, and artifacts that lie beside the previews:
the sound, reference or film that each is compared with, and an index of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sonolora.core.frames import Span, frame_count
from sonolora.data.clips import Clip
from sonolora.data.conditioning_inputs import ConditioningInput
from sonolora.data.held_out import Split
from sonolora.data.prepared import Prepared, PreviewItem
from sonolora.media.audio import Waveform, resample
from sonolora.media.fit_audio import cut_or_padded
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.runs.artifacts import PREVIEW_SOURCES, PREVIEWS, REPORT_MEDIA, RunArtifacts, video_of

_SMALLER = 2  # films of previews are kept at half size


@dataclass(frozen=True)
class PreviewSource:
    """What preview `number`, from 1, is to be compared with; addresses are artifacts, None where there is none.

    `clip`: the clip of the run that it is made from; `regenerate`: seconds, None: all of it; `leak`: whether the prompt
    has nothing to do with the data.
    """

    number: int
    clip: str | None = None
    held_out: bool = False
    regenerate: tuple[Span, ...] | None = None
    real: str | None = None  # the sound as it is in the data
    given: str | None = None  # the sound that is kept in part, or transformed
    film: str | None = None
    leak: bool = False

    @classmethod
    def parse(cls, saved: dict[str, Any]) -> PreviewSource:
        """From the index."""
        spans = saved.get("regenerate")
        known = {name: saved[name] for name in cls.__match_args__ if name in saved}
        return cls(**{**known, "regenerate": None if spans is None else tuple((a, b) for a, b in spans)})


def put_sources(artifacts: RunArtifacts, sources: Sequence[PreviewSource]) -> None:
    """Put the index."""
    artifacts.put_json(PREVIEW_SOURCES, [vars(source) for source in sources])


def sources_of(artifacts: RunArtifacts) -> dict[int, PreviewSource]:
    """By number; none for a run of an earlier version."""
    try:
        saved = json.loads(artifacts.path(PREVIEW_SOURCES).read_bytes())
        return {source.number: source for source in map(PreviewSource.parse, saved)}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def put_request_sources(artifacts: RunArtifacts, inputs: Sequence[ConditioningInput]) -> list[PreviewSource]:
    """Keep what a request's previews are made from: the request's files are gone after the preparation."""
    sources = []
    for number, given in enumerate(inputs, start=1):
        sound, film = given.kept or given.clip.reference, None
        name = f"{PREVIEWS}/input-{number}.wav" if sound is not None else None
        if sound is not None and name is not None:
            artifacts.put(name, partial(write_wav, waveform=sound))
        if given.clip.frames is not None:
            film = f"{PREVIEWS}/input-{number}.mp4"
            small = np.ascontiguousarray(given.clip.frames[:, ::_SMALLER, ::_SMALLER])
            rate = given.clip.frame_rate
            artifacts.put(film, partial(write_video, frames=small, frame_rate=rate, waveform=None))
        sources.append(PreviewSource(number, regenerate=given.clip.regenerate, given=name, film=film))
    return sources


def own_previews(
    prepared: Prepared,
    clips: Sequence[Clip],
    split: Split,
    negative_context: Tensor,
    *,
    count: int,
    max_seconds: float,
    output_sample_rate: int,
) -> tuple[list[PreviewItem], list[PreviewSource]]:
    """Previews of clips of the run, of held-out ones if there are any. `prepared` and `clips` hold all clips in order.

    `max_seconds`: of previews from words alone.
    """
    chosen = _chosen(clips, split.held_out or split.trained, count)
    items, sources = [], []
    for number, index in enumerate(chosen, start=1):
        clip, example = clips[index], prepared.examples[index]
        seconds = clip.audio.seconds
        from_words = clip.reference is None and clip.regenerate is None and example.video is None
        if from_words:
            seconds = min(seconds, max_seconds)
        # Nothing of the target may be left where it is to be generated.
        latents = example.latents_BTC[:, : frame_count(seconds)]
        blank = torch.zeros_like(latents)
        if example.keep_BT is not None:
            blank = torch.where(example.keep_BT[..., None], latents, blank)
        kept = None if clip.regenerate is None else _at_rate(clip.audio, output_sample_rate)
        items.append(
            PreviewItem(
                clip.caption,
                seconds,
                replace(example, latents_BTC=blank),
                negative_context,
                clip.regenerate or (),
                kept_CN=None if kept is None else torch.from_numpy(kept.samples),
            )
        )
        sources.append(_source(number, index + 1, clip, held_out=index in split.held_out, video=example.video))
    return items, sources


def _source(number: int, clip_number: int, clip: Clip, *, held_out: bool, video: object) -> PreviewSource:
    real = f"{REPORT_MEDIA}/{clip_number:04d}.wav" if video is None else None
    given = real if clip.regenerate is not None else None
    if clip.reference is not None:
        given = f"{REPORT_MEDIA}/{clip_number:04d}-reference.wav"
    film = None if video is None else video_of(clip_number)
    return PreviewSource(number, clip.name, held_out, clip.regenerate, real or film, given, film)


def _chosen(clips: Sequence[Clip], indices: Sequence[int], count: int) -> list[int]:
    """Clips with different captions, spread over the set."""
    if not indices:
        return []
    spread = [indices[round(position)] for position in np.linspace(0, len(indices) - 1, min(count, len(indices)))]
    captions = {clips[index].caption for index in spread}
    others = [index for index in indices if clips[index].caption not in captions]
    if len(captions) < len(spread) and others:
        spread[-1] = others[0]
    return sorted(spread)


def _at_rate(sound: Waveform, sample_rate: int) -> Waveform:
    return cut_or_padded(resample(sound, sample_rate), round(sound.seconds * sample_rate))
