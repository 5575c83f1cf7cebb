"""The endpoints that generate sounds: text to audio as published, and our own for what nobody hosts.

In: validated requests. Out: jobs for the workers, which generate as the command `generate` does. Fields that were not
sent are not passed on: the LoRA, the base and the defaults of previews decide. The published defaults of
`num_inference_steps` and `guidance_scale` suit a distilled model, and make poor sounds with any other.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sonolora.server.api.schemas import SoundOutput, TextToAudioOutput
from sonolora.server.endpoints.endpoint import Endpoint, Job
from sonolora.server.endpoints.inference_requests import (
    AudioToAudioRequest,
    InpaintingRequest,
    LoraWeights,
    OutpaintingRequest,
    OwnRequest,
    TextToAudioLoraRequest,
    TextToAudioRequest,
    VideoToAudioRequest,
)
from sonolora.server.jobs.records import INTERACTIVE, Kind

AnyRequest = TextToAudioRequest | OwnRequest

APP = "fal-ai/ltx-2.3-quality"
# Fields of a request that are settings of `generate`, by their names there.
_SETTINGS = {"num_inference_steps": "steps", "guidance_scale": "cfg_scale", "stg_scale": "stg_scale"}
_SEEDS = 1 << 31


def _text_to_audio(request: TextToAudioRequest) -> Job:
    seconds = request.seconds
    body = {} if seconds is None else {"seconds": seconds}
    return _job(request, [_pass("t2a", body, seconds="num_frames")])


def _audio_to_audio(request: AudioToAudioRequest) -> Job:
    return _job(request, [_pass("a2a", {"reference": request.audio_url}, reference="audio_url")])


def _inpainting(request: InpaintingRequest) -> Job:
    body = {"audio": request.audio_url, "time_ranges": request.ranges}
    own = "mask_start_seconds" if request.time_ranges is None else "time_ranges"
    return _job(request, [_pass("audio-inpaint", body, audio="audio_url", time_ranges=own)])


def _outpainting(request: OutpaintingRequest) -> Job:
    """What follows, then what leads up to it, each by the LoRAs of that direction."""
    directions = (
        ("audio-extend-prefix", request.extend_seconds_after, "extend_seconds_after"),
        ("audio-extend-suffix", request.extend_seconds_before, "extend_seconds_before"),
    )
    given = request.conditioning_seconds
    context = {} if given is None else {"conditioning_seconds": given}
    passes = [
        _pass(
            mode,
            {"audio": request.audio_url, "extend_seconds": seconds, **context},
            audio="audio_url",
            extend_seconds=field,
        )
        for mode, seconds, field in directions
        if seconds
    ]
    return _job(request, passes)


def _video_to_audio(request: VideoToAudioRequest) -> Job:
    body = {"video": request.video_url, **({} if request.duration is None else {"seconds": request.duration})}
    return _job(request, [_pass("v2a", body, video="video_url", seconds="duration")], with_video=request.with_video)


def _pass(mode: str, body: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """One call of `generate`; `names` are the request's own names of fields of the body."""
    return {"mode": mode, "body": dict(body), "names": names}


def _job(request: AnyRequest, passes: Sequence[dict[str, Any]], **options: Any) -> Job:
    sent = {name for name in request.model_fields_set if getattr(request, name) is not None}
    for one in passes:
        one["body"] |= {name: getattr(request, name) for name in ("prompt", "negative_prompt") if name in sent}
    loras: Sequence[LoraWeights] = getattr(request, "loras", ())
    first = secrets.randbelow(_SEEDS) if request.seed is None else request.seed
    scale = loras[0].scale if loras else 1.0
    takes = request.num_samples if isinstance(request, OwnRequest) else 1
    return Job(
        mode=passes[0]["mode"],
        kind=Kind.GENERATE,
        priority=INTERACTIVE,
        options={
            "title": request.prompt[:60],
            "samples": [{"prompt": request.prompt, "scale": scale, "seed": first + take} for take in range(takes)],
            "loras": [lora.model_dump(exclude={"transformer"}) for lora in loras],
            "passes": list(passes),
            "settings": {ours: getattr(request, name) for name, ours in _SETTINGS.items() if name in sent},
            "format": request.output_format if isinstance(request, OwnRequest) else "wav",
            "sync_mode": request.sync_mode,
            **options,
        },
        notes=_notes(request, loras),
    )


def _notes(request: AnyRequest, loras: Sequence[LoraWeights]) -> list[str]:
    """What of the request has no effect here."""
    notes = []
    if isinstance(request, TextToAudioRequest):
        if request.enable_prompt_expansion:
            notes.append("enable_prompt_expansion has no effect: prompts are used as they are")
        if request.enable_safety_checker and "enable_safety_checker" in request.model_fields_set:
            notes.append("enable_safety_checker has no effect: this server has no safety checker")
    notes += [
        f"loras.{index}.transformer {lora.transformer!r} means both: LTX-2.3 has one transformer"
        for index, lora in enumerate(loras)
        if lora.transformer != "both"
    ]
    return notes


def _published(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    (sample,) = samples
    return {name: sample[name] for name in ("audio", "prompt", "seed")}


def _own(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first sample, and all of them."""
    first = samples[0]
    return {
        **{name: first.get(name) for name in ("audio", "video", "prompt", "seed")},
        "samples": [{name: sample.get(name) for name in ("audio", "video", "seed")} for sample in samples],
    }


def _endpoint(path: str, request: type[TextToAudioRequest] | type[OwnRequest], job: Any, summary: str) -> Endpoint:
    own = issubclass(request, OwnRequest)
    return Endpoint(
        app=APP,
        path=path,
        request=request,
        output=SoundOutput if own else TextToAudioOutput,
        job=job,
        summary=summary,
        category=path.partition("/")[0],
        noun="sound",
        outputs="The sound.",
        invalid="A file or a LoRA that cannot be used.",
        answer=_own if own else _published,
        schema_prefix="Ltx23Quality",
    )


INFERENCE = (
    _endpoint("text-to-audio", TextToAudioRequest, _text_to_audio, "a sound from words"),
    _endpoint("text-to-audio/lora", TextToAudioLoraRequest, _text_to_audio, "a sound from words, with LoRAs"),
    _endpoint("audio-to-audio/lora", AudioToAudioRequest, _audio_to_audio, "a sound transformed, with LoRAs"),
    _endpoint("audio-inpainting/lora", InpaintingRequest, _inpainting, "spans of a sound made anew, with LoRAs"),
    _endpoint("audio-outpainting/lora", OutpaintingRequest, _outpainting, "a sound extended, with LoRAs"),
    _endpoint("video-to-audio/lora", VideoToAudioRequest, _video_to_audio, "the sound for a video, with LoRAs"),
)
