"""Our networks against the numbers of the publisher's own code, on any device and dtype.

In: a checkpoint in the published format, and a file of cases: inputs, and the outputs that the publisher's code gave
for them with these weights. Out: for each case the largest difference, as a share of the largest expected value.
The tests call this with the golden files of the repository; `sonolora selftest` lets a user check a card or a build
of torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sonolora.ltx.codec.audio_codec import load_audio_codec
from sonolora.ltx.codec.video_encoder import load_video_encoder
from sonolora.ltx.model.transformer import NO_BLOCKS, Stream, load_transformer
from sonolora.ltx.text.text_projector import load_projector
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.sampling.guidance import Guidance, guide
from sonolora.sampling.noise_schedule import sampling_sigmas

TRANSFORMER_CASES = (
    "audio_only",
    "audio_keep",
    "audio_stg_block1",
    "joint_equal_sigma",
    "joint_unequal_sigma",
    "v2a_frozen_video",
    "v2a_frozen_video_keep",
)
# Of the largest output. bfloat16 keeps 8 bits: about 1 % after three blocks.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.03}
# The codec is float32 in every run. Its decoder and vocoder are some hundred layers in a row.
CODEC_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Check:
    """One comparison; `error` is relative to the largest expected value."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


def run_checks(checkpoint_path: Path, cases_path: Path, device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    """Run every case. Raises `CheckpointError` when the files do not fit each other."""
    checkpoint = Checkpoint.open(checkpoint_path)
    cases = {name: tensor.to(device) for name, tensor in load_file(cases_path).items()}
    with torch.no_grad():
        yield from _text(checkpoint, cases, device, dtype)
        yield from _codec(checkpoint, cases, device)
        yield from _video(checkpoint, cases, device, dtype)
        yield from _sampling(cases)
    yield from _transformer(checkpoint, cases, device, dtype)


def _check(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    error = (found.float() - expected).abs().max() / expected.abs().max()
    return Check(name, error.item(), tolerance)


def _transformer(
    checkpoint: Checkpoint, cases: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[Check]:
    tolerance = TOLERANCES[dtype]
    for with_video in (False, True):
        model = load_transformer(checkpoint, video=with_video, device=device, dtype=dtype)
        network = "both streams" if with_video else "audio stream"
        for case in TRANSFORMER_CASES:
            joint = f"{case}.video_sigma" in cases
            if joint and not with_video:
                continue
            audio = Stream(
                cases["audio_latents"].clone().requires_grad_(),
                cases["audio_positions_seconds"].mean(-1),
                cases[f"{case}.audio_sigma"],
                cases["audio_context"],
                cases["keep"].bool() if case.endswith("keep") else None,
            )
            video = None
            if joint:
                video = Stream(
                    cases["video_latents"],
                    cases["video_positions"].mean(-1),
                    cases[f"{case}.video_sigma"],
                    cases["video_context"],
                )
            blocks = frozenset({1}) if case == "audio_stg_block1" else NO_BLOCKS
            velocity, video_velocity = model(audio, video, values_only_blocks=blocks)
            name = f"{network}: {case}"
            yield _check(name, velocity, cases[f"{case}.audio_velocity"], tolerance)
            if video_velocity is not None:
                yield _check(f"{name}, video", video_velocity, cases[f"{case}.video_velocity"], tolerance)
            expected_gradient = cases.get(f"{case}.audio_latents_grad")
            if expected_gradient is not None:
                (gradient,) = torch.autograd.grad((velocity * cases["grad_weight"]).sum(), audio.latents_BTC)
                yield _check(f"{name}, gradient", gradient, expected_gradient, tolerance)


def _text(
    checkpoint: Checkpoint, cases: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[Check]:
    audio = load_projector(checkpoint, "audio", device=device, dtype=dtype)
    video = load_projector(checkpoint, "video", device=device, dtype=dtype)
    states, mask = cases["text.hidden_states"], cases["text.mask"].bool()
    yield _check("text: audio context", audio(states, mask), cases["text.audio_context"], TOLERANCES[dtype])
    yield _check("text: video context", video(states, mask), cases["text.video_context"], TOLERANCES[dtype])


def _codec(checkpoint: Checkpoint, cases: Mapping[str, Tensor], device: torch.device) -> Iterator[Check]:
    codec = load_audio_codec(checkpoint, device=device)
    waveform, latents = cases["codec.waveform_16k"], cases["codec.latents_btc"]
    decoded, output = cases["codec.decoded_log_mel"], cases["codec.vocoder_output_48k"]
    yield _check("codec: mel", codec.log_mel(waveform), cases["codec.log_mel"], CODEC_TOLERANCE)
    yield _check("codec: encoder", codec.encode(waveform), latents, CODEC_TOLERANCE)
    yield _check("codec: decoder", codec.decode_mel(latents), decoded, CODEC_TOLERANCE)
    yield _check("codec: vocoder", codec.vocode(cases["codec.vocoder_input"]), output, CODEC_TOLERANCE)


def _video(
    checkpoint: Checkpoint, cases: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[Check]:
    encoder = load_video_encoder(checkpoint, device=device, dtype=dtype)
    found = encoder.encode(cases["video.frames_pm1"])
    yield _check("video: encoder", found, cases["video.latents_bcfhw"], TOLERANCES[dtype])


def _sampling(cases: Mapping[str, Tensor]) -> Iterator[Check]:
    for steps in (8, 30):
        expected = cases[f"schedule.sigmas_{steps}"]
        yield _check(
            f"schedule of {steps} steps", sampling_sigmas(steps).to(expected), expected, TOLERANCES[torch.float32]
        )
    guided = guide(
        cases["guidance.cond_x0"],
        Guidance(cfg=7, stg=1, rescale=0.7),
        unconditional=cases["guidance.uncond_x0"],
        perturbed=cases["guidance.perturbed_x0"],
    )
    yield _check("guidance", guided, cases["guidance.cfg7_stg1_rescale0.7"], TOLERANCES[torch.float32])
