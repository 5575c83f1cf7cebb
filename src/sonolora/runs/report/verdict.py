"""What a run has come to, in one paragraph, and two commands: to use it, and to try next.

In: the artifacts of a run. Out: a `Verdict`. It claims no more than was measured: the held-out difference to the base
with its interval where there is one, else the loss on training clips, and says so. Light to import.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sonolora.modes import find_mode
from sonolora.planning.run_settings import RunSettings, option
from sonolora.runs.artifacts import LORA, SWEEP, RunArtifacts
from sonolora.runs.run_record import RunRecord

EVALUATION = "evaluation.json"
FINISH = "finish.json"  # figures that are measured once, at the end: see `Finish`
_EARLIER = {"title": "by timbre and rhythm", "clips": "your clips"}
_SMALL, _LARGE = 0.005, 0.02  # differences of the loss, relative to the base's: inaudible, clearly audible
_DEFAULTS = {"training_data_url": "DATA", "rank": 32, "number_of_steps": 2000, "learning_rate": 2e-4}
_LESS, _MORE = 0.5, 2  # times the learning rate, or the steps
_MAX_STEPS = 20_000
# Of the run's own; without them the next run would be another experiment, or not fit.
_KEPT_SETTINGS = (
    "seed", "batch_size", "sigma_density", "held_out", "preserve", "keep", "weights", "gradient_checkpointing",
    "checkpointed_blocks", "block_offload", "v2a_video", "reference_positions", "preview_leak",
)  # fmt: skip
_SHOWN_FIELDS = ("rank", "number_of_steps", "learning_rate", "audio_duration_seconds", "number_of_frames")


@dataclass(frozen=True)
class Finish:
    """`seconds`: of training and previews. `distances` of the previews, and `leak_distances` of a prompt that has
    nothing to do with the data, are by space: see `distances.preview_distances`."""

    seconds: float
    distances: Sequence[Mapping[str, Any]] = ()
    leak_distances: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, artifacts: RunArtifacts) -> Finish | None:
        """None for a run that is not finished."""
        values = _json(artifacts, FINISH)
        if values is None:
            return None
        # Earlier versions kept one figure.
        figures = (
            values.get(name) or ([{**_EARLIER, "moved": values[key]}] if values.get(key) is not None else ())
            for name, key in (("distances", "moved"), ("leak_distances", "leak"))
        )
        return cls(values["seconds"], *figures)


@dataclass(frozen=True)
class Verdict:
    """`commands`: what to call them, and what to paste."""

    text: str
    commands: tuple[tuple[str, str], ...]


def evaluation_of(artifacts: RunArtifacts) -> dict[str, Any] | None:
    """What held-out clips say, if anything was held out and measured."""
    return _json(artifacts, EVALUATION)


def verdict(artifacts: RunArtifacts) -> Verdict:
    """Of a run that has begun to train. Raises as `RunArtifacts.record` does."""
    record = artifacts.record()
    step, steps = _steps(artifacts, record)
    if record.sweep is not None:
        standings = _json(artifacts, SWEEP) or {"summary": "Nothing has been measured yet to compare the LoRAs by."}
        return Verdict(standings["summary"], tuple(_commands(artifacts, record, None, step < steps)[:1]))
    evaluation = evaluation_of(artifacts)
    parts = [_better(artifacts, evaluation), _previews(Finish.of(artifacts)), _state(artifacts, evaluation)]
    if step < steps:
        parts.insert(0, f"Step {step:,} of {steps:,}.")
    text = " ".join(part for part in parts if part)
    return Verdict(text, tuple(_commands(artifacts, record, evaluation, step < steps)))


def _steps(artifacts: RunArtifacts, record: RunRecord) -> tuple[int, int]:
    lines = artifacts.metrics()
    return (lines[-1]["step"] if lines else 0), int(record.request["number_of_steps"])


def _better(artifacts: RunArtifacts, evaluation: Mapping[str, Any] | None) -> str:
    newest = evaluation["evaluations"][-1] if evaluation and evaluation["evaluations"] else None
    if newest and newest.get("held_out") and newest["step"]:
        held_out, clips = newest["held_out"], len(evaluation["held_out"]["clips"]) if evaluation else 0
        base, change = held_out["base"], held_out["change"]
        share, low, high = (
            None if change.get(end) is None else 100 * math.expm1(change[end]) for end in ("mean", "low", "high")
        )
        sure = "" if low is None or high is None else f" (95 % interval {low:+.1f} to {high:+.1f} %)"
        certain = newest.get("status") != "open"  # which allows for having looked several times
        if certain and high is not None and high < 0:
            what = f"The LoRA is better than the base on {_clips(clips)} it was not trained on"
        elif certain and low is not None and low > 0:
            what = f"The LoRA is worse than the base on {_clips(clips)} it was not trained on"
        else:
            what = f"On {_clips(clips)} it was not trained on, no difference to the base is certain yet"
        return f"{what}: loss {held_out['loss']:.3f} against {base:.3f}, {share:+.1f} %{sure}."
    losses = train_losses(artifacts)
    if len(losses) < 2:
        return "Not enough has been measured yet to compare it with the base."
    first, last = losses[0][1], losses[-1][1]
    change = last / first - 1
    word = "lower than" if change < -_SMALL else "higher than" if change > _SMALL else "about"
    return (
        f"The loss is {word} the base's: {last:.3f} against {first:.3f}, {100 * change:+.1f} %. "
        "On training clips this does not tell learning from memorising."
    )


def _previews(finish: Finish | None) -> str:
    if finish is None:
        return ""
    figures = (("its previews are", finish.distances), ("the unrelated prompt is", finish.leak_distances))
    return " ".join(filter(None, (_moved(who, distances) for who, distances in figures)))


def _moved(who: str, distances: Sequence[Mapping[str, Any]]) -> str:
    words = ", ".join(
        f"{_nearer(one['moved'])} {one['title']}{'' if _clear(one) else ' (not certain)'}"
        for one in distances
        if one["moved"] is not None
    )
    return f"Measured against {distances[0]['clips']}, {who} {words}, compared with the base's." if words else ""


def _nearer(moved: float) -> str:
    # An unbiased estimate may be below 0: then the previews are no farther than the clips are from one another.
    return f"{min(100, abs(round(100 * moved)))} % {'nearer' if moved >= 0 else 'farther'}"


def _clear(one: Mapping[str, Any]) -> bool:
    """Whether the interval of the difference excludes 0; earlier versions had none."""
    low, high = (one.get("difference", {}).get(end) for end in ("low", "high"))
    return low is None or high is None or low > 0 or high < 0


def _state(artifacts: RunArtifacts, evaluation: Mapping[str, Any] | None) -> str:
    effect = ((evaluation or {}).get("effect") or {}).get("verdict", "")
    sentences = [
        {
            "learning": "It was still learning at the end.",
            "plateau": "It had stopped learning before the end.",
            "memorising": "It is memorising: the loss falls on training clips alone.",
            "open": "Hold out more clips, or train longer, to tell.",
        }.get(status_of(artifacts, evaluation), ""),
        {
            "none": "Its effect on what the network predicts is nil.",
            "weak": "Its effect is weak: a higher strength, learning rate or more steps may bring out more.",
            "trained too far": "It changes the base by so much that it may have gone too far: try a lower strength.",
        }.get(effect, ""),
        *(
            f"Preview {one['number']} is a copy of a part of {one['training']['clip']}."
            for one in (evaluation or {}).get("copies", ())
            if one.get("copy")
        ),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def status_of(artifacts: RunArtifacts, evaluation: Mapping[str, Any] | None) -> str:
    """As the evaluation has it; without one, by the losses on training clips."""
    if evaluation and evaluation.get("status"):
        return str(evaluation["status"])
    losses = [loss for _, loss in train_losses(artifacts)]
    if len(losses) < 2:
        return ""
    if losses[-1] > (1 + _SMALL) * losses[0]:
        return "worse"
    return "learning" if len(losses) < 3 or losses[-1] < (1 - _LARGE) * losses[-2] else "plateau"


def train_losses(artifacts: RunArtifacts) -> list[tuple[int, float]]:
    """Steps, and the losses on training clips with fixed noise."""
    return [(line["step"], line["train_eval_loss"]) for line in artifacts.metrics() if "train_eval_loss" in line]


def _commands(
    artifacts: RunArtifacts, record: RunRecord, evaluation: Mapping[str, Any] | None, unfinished: bool
) -> Sequence[tuple[str, str]]:
    folder = str(artifacts.folder)
    if unfinished:
        return [("continue", _line("train" if record.sweep is None else "sweep", "--resume", folder))]
    request, settings = record.request, record.settings
    base = [] if settings.get("base", "tiny") == "tiny" else ["--base", str(settings["base"])]
    lora = artifacts.path(LORA)
    best = (evaluation or {}).get("best") or {}
    if best.get("file") and best["file"] in artifacts:
        lora = artifacts.path(best["file"])
    previews = artifacts.previews()
    prompt = previews[0].prompt if previews else f"{request.get('trigger_phrase', '')} a prompt of yours".strip()
    given = {"t2a": [], "v2a": ["--input", "FILM.mp4"]}.get(record.mode, ["--input", "SOUND.wav"])
    if record.mode == "audio-inpaint":
        given += ["--time-ranges", "[[0.8, 1.4]]"]
    use = _line("generate", record.mode, "--lora", str(lora), *base, "--prompt", prompt, *given, "--out", "new.wav")
    return [("use it", use), _next(artifacts, record, evaluation, base)]


def _next(
    artifacts: RunArtifacts, record: RunRecord, evaluation: Mapping[str, Any] | None, base: list[str]
) -> tuple[str, str]:
    request = {**_DEFAULTS, **record.request}
    effect = ((evaluation or {}).get("effect") or {}).get("verdict")
    status = status_of(artifacts, evaluation)
    steps, rate = int(request["number_of_steps"]), float(request["learning_rate"])
    if status == "worse":
        why, request["learning_rate"] = "try a lower learning rate", _LESS**2 * rate
    elif status == "memorising":
        why, request["number_of_steps"] = "try fewer steps, or add clips", max(100, round(_LESS * steps))
    elif effect == "trained too far":
        why, request["learning_rate"] = "try half the learning rate", _LESS * rate
    elif effect in ("none", "weak"):
        why, request["learning_rate"] = "try twice the learning rate", min(1.0, _MORE * rate)
    elif status in ("learning", "open"):
        why, request["number_of_steps"] = "try twice the steps", min(_MAX_STEPS, _MORE * steps)
    else:
        why, request["rank"] = "try a higher rank", min(128, 2 * int(request["rank"]))
    fields = [
        part
        for name in _SHOWN_FIELDS
        if name in request
        and (name != "number_of_frames") == (record.mode != "v2a" or name != "audio_duration_seconds")
        for part in (f"--{name.replace('_', '-')}", f"{request[name]:g}")
    ]
    trigger = ["--trigger-phrase", request["trigger_phrase"]] if request.get("trigger_phrase") else []
    kept = [
        part
        for name in _KEPT_SETTINGS
        if (value := record.settings.get(name, getattr(RunSettings, name))) != getattr(RunSettings, name)
        and (name != "sigma_density" or value != find_mode(record.mode).sigma_density)  # which a run records
        for part in (option(name), *([] if value is True else [str(value)]))
    ]
    out = f"{artifacts.folder}-2"
    data = str(request["training_data_url"])
    return why, _line("train", record.mode, data, *base, *fields, *trigger, *kept, "--out", out)


def _line(*words: str) -> str:
    return shlex.join(["sonolora", *words])


def _clips(count: int) -> str:
    return "the one clip" if count == 1 else f"{count} clips"


def _json(artifacts: RunArtifacts, name: str) -> dict[str, Any] | None:
    try:
        values = json.loads(artifacts.path(name).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None
