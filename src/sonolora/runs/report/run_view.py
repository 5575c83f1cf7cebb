"""What the page of a run shows of the run itself: verdict, previews, curves, settings, time and memory.

In: the artifacts of a run, at any moment of it. Out: a `RunView`; and among the artifacts the sounds of its players,
which are as loud as one another. The files of the previews stay as the network made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from sonolora.analysis.levels import amplified, gain_words, matching_gain_db
from sonolora.analysis.spectrogram_file import write_spectrogram
from sonolora.core.errors import MediaError, SonoloraError
from sonolora.core.frames import Span
from sonolora.media.audio import Waveform, decode_audio, resample
from sonolora.media.write_audio import write_wav
from sonolora.runs.artifacts import LORA, PREVIEWS, REPORT_MEDIA, Preview, RunArtifacts
from sonolora.runs.report.curves import Series, draw_curves, smoothed
from sonolora.runs.report.preview_sources import PreviewSource, sources_of
from sonolora.runs.report.shown import ShownSound
from sonolora.runs.report.verdict import Finish, Verdict, evaluation_of, train_losses, verdict
from sonolora.runs.run_record import RunRecord

_SETTINGS = ("rank", "number_of_steps", "learning_rate", "trigger_phrase", "audio_duration_seconds", "number_of_frames")


@dataclass(frozen=True)
class ShownPreview:
    """One prompt with its sounds, in the order of listening; `film` with the newest sound, if there is one."""

    prompt: str
    note: str
    sounds: tuple[ShownSound, ...]
    regenerate: tuple[Span, ...] | None
    film: str | None
    picture: str | None


@dataclass(frozen=True)
class RunView:
    """`state`: such as `finished` or `step 200 of 400`; `facts`: pairs of a name and a value with its yardstick."""

    name: str
    mode: str
    state: str
    growing: bool
    lora: str | None
    verdict: Verdict
    previews: tuple[ShownPreview, ...]
    curves: Markup
    legend: tuple[tuple[str, str], ...]  # kind and name of each curve
    facts: tuple[tuple[str, str], ...]


def run_view(artifacts: RunArtifacts) -> RunView | None:
    """None for a folder that holds no run yet, such as that of a check."""
    try:
        record = artifacts.record()
    except SonoloraError:
        return None
    metrics = artifacts.metrics()
    step, steps = metrics[-1]["step"] if metrics else 0, int(record.request["number_of_steps"])
    finish = Finish.of(artifacts)
    has_lora = LORA in artifacts
    curves, legend = _curves(artifacts, metrics)
    return RunView(
        name=artifacts.folder.resolve().name,
        mode=record.mode,
        state="finished" if finish is not None else f"step {step:,} of {steps:,}",
        growing=finish is None,
        lora=str(artifacts.path(LORA).resolve()) if has_lora else None,
        verdict=verdict(artifacts),
        previews=tuple(_previews(artifacts)),
        curves=curves,
        legend=legend,
        facts=tuple(_facts(artifacts, record, metrics, finish)),
    )


def _previews(artifacts: RunArtifacts) -> list[ShownPreview]:
    previews, sources = artifacts.previews(), sources_of(artifacts)
    shown = []
    for number in sorted({one.number for one in previews}):
        mine = [one for one in previews if one.number == number]
        source = sources.get(number, PreviewSource(number))
        try:
            shown.append(_shown(artifacts, mine, source))
        except MediaError:  # a damaged preview: the others are shown
            continue
    return shown


def _shown(artifacts: RunArtifacts, previews: Sequence[Preview], source: PreviewSource) -> ShownPreview:
    distilled = [one for one in previews if one.distilled]
    previews = [one for one in previews if not one.distilled]
    newest = previews[-1]
    files: list[tuple[str, str, bool]] = []  # what, artifact, whether it is generated
    if source.given is not None:
        files.append(("original" if source.regenerate else "reference", source.given, False))
    if newest.step:
        files += [("before: the base", one.sound, True) for one in previews if one.kind == "base"][:1]
    files.append((f"after {newest.step:,} steps" if newest.step else "the base", newest.sound, True))
    if distilled:
        files.append(("the same with the distilled schedule", distilled[-1].sound, True))
    files += [(f"the LoRA at strength {strength}", name, True) for strength, name in _strengths(artifacts, newest)]
    if source.real is not None and source.real != source.given and source.film is None:
        files.append((f"real: {source.clip}", source.real, False))
    sounds = {name: decode_audio(artifacts.path(name)).waveform for _, name, _ in files if name in artifacts}
    lowest = min(sound.sample_rate for sound in sounds.values())  # one axis of frequency for all
    others = [name for _, name, generated in files if not generated and name in sounds]
    wanted = sounds[others[-1]] if others else None
    players = [
        _player(artifacts, what, name, sounds[name], wanted if generated else sounds[name], lowest)
        for what, name, generated in files
        if name in sounds
    ]
    note = "a prompt that has nothing to do with the data: it should sound like the base" if source.leak else ""
    if source.clip is not None:
        held_out = "held out of training" if source.held_out else "which is trained on"
        note = f"of the clip {source.clip}, {held_out}"
    return ShownPreview(
        newest.prompt,
        note,
        tuple(players),
        source.regenerate,
        newest.film if newest.film in artifacts else None,
        newest.picture if newest.picture in artifacts else None,
    )


def _strengths(artifacts: RunArtifacts, newest: Preview) -> list[tuple[str, str]]:
    """Other strengths that a preview was rendered with, and the sounds."""
    begin, end = newest.at_strength("").removesuffix(".wav"), ".wav"
    names = [name for name in artifacts.names(PREVIEWS) if name.startswith(begin) and name.endswith(end)]
    return sorted(((name.removeprefix(begin).removesuffix(end), name) for name in names), key=lambda one: float(one[0]))


def _player(
    artifacts: RunArtifacts, what: str, name: str, sound: Waveform, wanted: Waveform | None, shown_rate: int
) -> ShownSound:
    """The sound at the loudness of `wanted`, and its spectrogram, put among the artifacts once."""
    gain_db = 0.0 if wanted is sound else matching_gain_db(sound, wanted)
    stem = f"{REPORT_MEDIA}/as-loud-{name.replace('/', '-').removesuffix('.wav')}"
    media, picture = f"{stem}.wav", f"{stem}.png"
    if picture not in artifacts:
        louder = amplified(sound, gain_db)
        artifacts.put(media, partial(write_wav, waveform=louder))
        artifacts.put(picture, partial(write_spectrogram, waveform=resample(louder, shown_rate)))
    words = gain_words(gain_db)
    return ShownSound(
        f"{what} ({words} than its file)" if words else what, media, picture, sound.seconds, shown_rate / 2
    )


def _curves(
    artifacts: RunArtifacts, metrics: Sequence[Mapping[str, Any]]
) -> tuple[Markup, tuple[tuple[str, str], ...]]:
    training = smoothed([(line["step"], line["loss"]) for line in metrics if "loss" in line])
    series = [Series("loss of training steps, smoothed", "steps", training)]
    series.append(Series("training clips, fixed noise", "training", train_losses(artifacts)))
    evaluations = [one for one in (evaluation_of(artifacts) or {}).get("evaluations", []) if one.get("held_out")]
    if evaluations:
        held_out = [(one["step"], one["held_out"]) for one in evaluations]
        band = []
        for step, of in held_out:
            low, high = of["difference"].get("low"), of["difference"].get("high")
            if low is not None and high is not None:
                band.append((step, of["base"] + low, of["base"] + high))
        losses = [(step, of["loss"]) for step, of in held_out]
        series.append(Series("held-out clips, with the 95 % interval of the difference", "held-out", losses, band))
        series.append(Series("the base on held-out clips", "base", [(step, of["base"]) for step, of in held_out]))
    series = [one for one in series if len(one.points) > 1]
    curves = draw_curves(series, "Losses of the run by step")
    return curves, tuple((one.kind, one.name) for one in series) if curves else ()


def _facts(
    artifacts: RunArtifacts, record: RunRecord, metrics: Sequence[Mapping[str, Any]], finish: Finish | None
) -> list[tuple[str, str]]:
    request, settings = record.request, record.settings
    facts = [
        (name.replace("_", " "), f"{request[name]}" + (" s" if name.endswith("seconds") else ""))
        for name in _SETTINGS
        if request.get(name) not in (None, "") and not (name == "number_of_frames" and record.mode != "v2a")
    ]
    facts += [("base", str(settings.get("base", "")))] if settings.get("base") else []
    facts += [("seed", str(settings["seed"]))] if "seed" in settings else []
    losses = train_losses(artifacts)
    if len(losses) > 1:
        first, last = losses[0][1], losses[-1][1]
        facts.append(
            ("loss on training clips", f"{last:.3f}; the base has {first:.3f} ({100 * (last / first - 1):+.1f} %)")
        )
    speeds = [line["steps_per_second"] for line in metrics if "steps_per_second" in line]
    if speeds:
        facts.append(("speed", f"{sorted(speeds)[len(speeds) // 2]:.3g} steps a second"))
    if finish is not None:
        facts += [
            (
                f"distance of previews to {one['clips']}, {one['title']}",
                f"{_distance(one['lora'])}; the base has {_distance(one['base'])} ({_interval(one['difference'])})",
            )
            for one in finish.distances
            if "base" in one
        ]
        facts.append(("time", f"{finish.seconds / 60:.1f} min of training and previews"))
    memory = [line["peak_memory_gb"] for line in metrics if line.get("peak_memory_gb") is not None]
    if memory:
        facts.append(("peak memory", f"{max(memory):.2f} GB on the device"))
    if LORA in artifacts:
        facts.append(("LoRA file", f"{artifacts.path(LORA).stat().st_size / 1e6:.1f} MB"))
    return facts


def _distance(value: float) -> str:
    return f"{value:.3g}" if value > 0 else "0 (as near as your clips are to one another)"  # the estimate is unbiased


def _interval(difference: Mapping[str, Any]) -> str:
    if difference["low"] is None:
        return f"{difference['mean']:+.3g}"
    return f"{difference['mean']:+.3g} [{difference['low']:+.3g}, {difference['high']:+.3g}]"
