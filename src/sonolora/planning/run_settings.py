"""How a run is carried out on this machine: everything that is not part of the published request.

`RunSettings` is the one source of these settings. The options of the command, `server.toml` and the docs are made from
its fields; nothing here imports torch before a device is needed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.frames import OVERLAP, REFERENCE_POSITIONS
from sonolora.core.setting_field import check_values, setting
from sonolora.ltx.memory.weight_forms import FULL, WEIGHTS
from sonolora.modes.mode import Mode
from sonolora.planning.lora_option import absolute_lora
from sonolora.training.sigma_densities import SIGMA_DENSITIES

if TYPE_CHECKING:
    import torch

    from sonolora.ltx.memory.weight_policy import WeightPolicy

KEEP = KEEP_LAST, KEEP_BEST = "last", "best"
LOG_TO = "tensorboard", "wandb", "trackio"  # each needs the extra of its name
PREVIEW_STEPS = 500
_MAX_STRENGTH = 4.0
V2A_VIDEO = JOINT, FROZEN_CACHED = "joint", "frozen-cached"
RENAMED = {"stream_blocks": "block_offload"}  # settings of earlier versions, by the name that they have now
_STEP_OPTIONS = (
    "weights",
    "gradient_checkpointing",
    "checkpointed_blocks",
    "block_offload",
    "v2a_video",
    "deterministic",
    "cuda_graph",
    "compile",
)
COMPILERS = (os.environ.get("CXX", "g++"), "clang++", "cl")


class UnknownSettingError(SonoloraError):
    """Saved settings with a name that this version does not have."""


@dataclass(frozen=True)
class RunSettings:
    """Checked when made; raises `InputError` or `SonoloraError`."""

    base: str = setting("tiny", "Base model: a name (see `sonolora base list`), a folder or a Hugging Face id")
    device: str = setting("auto", "Device: auto, cpu, cuda, cuda:1, ..., or mps (untested)")
    seed: int = setting(42, "Random seed")
    batch_size: int = setting(1, "Clips per step", minimum=1)
    sigma_density: str | None = setting(
        None, "Noise level density; by default the one that suits the mode", choices=SIGMA_DENSITIES
    )
    weights: str = setting(FULL, "Precision of the frozen base; quantised weights save memory", choices=WEIGHTS)
    gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, same result"
    )
    checkpointed_blocks: int = setting(
        0, "Recompute the first N blocks only, for a card that lacks some memory; 0 is none", minimum=0, maximum=1000
    )
    block_offload: bool = setting(
        False, "Keep the base in host memory, two blocks at a time on the device: far less memory, same result"
    )
    v2a_video: str = setting(
        JOINT,
        "Attention from video to audio: joint, as published, or frozen-cached, which computes the video stream once",
        choices=V2A_VIDEO,
    )
    reference_positions: str = setting(
        OVERLAP,
        "Times of the reference in a2a: overlap with the target, as the publisher trains, or negative, as in ComfyUI",
        choices=REFERENCE_POSITIONS,
    )
    distill_lora: str | None = setting(
        None,
        "Render each preview a second time with this distill LoRA, in its 8 steps without guidance",
        metavar="FILE[:X]",
    )
    preview_lora: tuple[str, ...] = setting(
        (), "Another LoRA that previews are rendered with, at strength X; may be repeated", metavar="FILE[:X]"
    )
    preview_strengths: str = setting(
        "1",
        "Strengths of the LoRA that the last previews are rendered with, such as 0.5,1,1.25",
        metavar="X,X,...",
    )
    preview_leak: str | None = setting(
        None, "A prompt that has nothing to do with the data, to hear whether the LoRA changes it, too", metavar="TEXT"
    )
    held_out: float | None = setting(
        None,
        "Clips, or a share such as 0.2, kept out of training to measure what is learnt; by default one in ten "
        "(2 to 16) of 12 or more",
        minimum=0,
        metavar="N|SHARE",
    )
    evaluate_every: int | None = setting(
        None,
        "Steps between evaluations on held-out clips; by default as many as take little time",
        minimum=1,
    )
    from_lora: str | None = setting(
        None, "Go on from this LoRA, of the same or a lower rank, instead of from the base", metavar="FILE"
    )
    preserve: float = setting(
        0.0,
        "Share of the steps, below 1, that keep the base as it is for prompts that are not of the data",
        minimum=0,
        metavar="SHARE",
    )
    keep: str = setting(
        KEEP_LAST, "What lora.safetensors holds: the last step, or the one with the lowest held-out loss", choices=KEEP
    )
    stop_early: bool = setting(False, "End the run when the loss of held-out clips no longer falls")
    patience: int = setting(3, "Evaluations without a lower held-out loss before --stop-early ends the run", minimum=1)
    checkpoint_seconds: float = setting(30.0, "Seconds of training between checkpoints", minimum=0)
    checkpoint_every: int | None = setting(None, "Steps between checkpoints, instead of seconds", minimum=1)
    preview_every: int | None = setting(
        None,
        f"Steps between previews; by default {PREVIEW_STEPS}, or more where previews would take over 5 % of the time",
        minimum=1,
    )
    own_previews: int = setting(
        0, "Previews of the run's own clips where the request has none, held-out ones first", minimum=0, maximum=2
    )
    keep_checkpoints: int = setting(2, "Checkpoints to keep", minimum=1)
    deterministic: bool = setting(
        False, "On a GPU: bit-identical results from equal seeds, also of resumed runs; some operations get slower"
    )
    log_to: str = setting(
        "", f"Programs that also get the metrics, separated by commas: {', '.join(LOG_TO)}", metavar="NAMES"
    )
    cuda_graph: bool = setting(False, "Capture a step as a CUDA graph and replay it (experimental)")
    compile: bool = setting(False, "Compile the transformer blocks: slow first minute, faster steps (experimental)")

    def __post_init__(self) -> None:
        check_values(self)
        if unknown := [name for name in self.log_to.split(",") if name and name not in LOG_TO]:
            raise InputError.of("log_to", f"{unknown[0]!r} is not one of {', '.join(LOG_TO)}")
        if any(not 0 < strength <= _MAX_STRENGTH for strength in self.other_strengths):
            raise InputError.of(
                "preview_strengths", f"must be above 0 and at most {_MAX_STRENGTH:g}, not {self.preview_strengths}"
            )
        # Absolute, so that a run is resumed from any folder.
        if self.distill_lora is not None:
            object.__setattr__(self, "distill_lora", absolute_lora(self.distill_lora, "distill_lora"))
        own = tuple(absolute_lora(text, "preview_lora") for text in self.preview_lora)
        object.__setattr__(self, "preview_lora", own)
        if self.held_out is not None and self.held_out > 1 and self.held_out != int(self.held_out):
            raise InputError.of("held_out", f"must be a number of clips or a share below 1, not {self.held_out:g}")
        if self.preserve >= 1:
            raise InputError.of("preserve", f"must be below 1, or nothing is learnt, not {self.preserve:g}")
        for name in ("cuda_graph", "compile"):
            if getattr(self, name) and self.block_offload:
                raise SonoloraError(f"{option(name)} and --block-offload exclude each other: drop one of the two")

    @property
    def other_strengths(self) -> tuple[float, ...]:
        """Those of `preview_strengths` but 1, which all previews have. Raises `InputError`."""
        try:
            strengths = [float(text) for text in self.preview_strengths.split(",") if text.strip()]
        except ValueError:
            raise InputError.of(
                "preview_strengths", f"must be numbers separated by commas, not {self.preview_strengths!r}"
            ) from None
        return tuple(sorted({one for one in strengths if one != 1}))

    @property
    def preview_steps(self) -> int:
        """Steps between previews, at least."""
        return self.preview_every or PREVIEW_STEPS

    @property
    def policy(self) -> WeightPolicy:
        """How the frozen base is stored and run."""
        from sonolora.ltx.memory.weight_policy import WeightPolicy

        return WeightPolicy(
            self.weights, self.gradient_checkpointing, self.checkpointed_blocks, self.block_offload, self.compile
        )

    @property
    def one_way_video(self) -> bool:
        """Whether the video stream ignores the audio, so that it is computed once and absent from training steps."""
        return self.v2a_video == FROZEN_CACHED

    def check_mode(self, mode: Mode) -> None:
        """Raise `InputError` for a setting that the mode has no use for."""
        if self.v2a_video != JOINT and not mode.video:
            raise InputError.of("v2a_video", f"{self.v2a_video} is for v2a only; {mode.name} has no video")
        if self.reference_positions != OVERLAP and not mode.reference:
            raise InputError.of(
                "reference_positions", f"{self.reference_positions} is for a2a only; {mode.name} has no reference"
            )

    def given(self) -> tuple[str, ...]:
        """The options that change how a step is computed, where they are not at their default."""
        result = []
        for name in _STEP_OPTIONS:
            value = getattr(self, name)
            if value != getattr(RunSettings, name):
                result.append(option(name) + ("" if value is True else f" {value}"))
        return tuple(result)

    def place(self) -> torch.device:
        """The device. Raises `SonoloraError` when it is not present or cannot do what is set."""
        from sonolora.core.devices import resolve_device

        device = resolve_device(self.device)
        if self.cuda_graph and device.type != "cuda":
            raise SonoloraError(f"--cuda-graph needs a CUDA device, and this run is on {device}: drop the option")
        if self.compile and not any(map(shutil.which, COMPILERS)):
            raise SonoloraError(
                f"--compile: torch.compile needs a C++ compiler, and none of {', '.join(COMPILERS)} is installed: "
                "install one (Debian: apt install g++), or drop the option"
            )
        return device


def option(name: str) -> str:
    """The command's option for a setting."""
    return "--" + name.replace("_", "-")


def read_settings(saved: Mapping[str, Any], **changed: Any) -> RunSettings:
    """Settings as `run.json` has them, of this version or an earlier one, with some `changed`.

    Settings that did not exist yet get their defaults. Raises `UnknownSettingError` for one that does not exist here,
    which a later version has written.
    """
    values = {RENAMED.get(name, name): value for name, value in saved.items()} | changed
    if unknown := values.keys() - {item.name for item in fields(RunSettings)}:
        raise UnknownSettingError(f"unknown settings: {', '.join(sorted(unknown))}")
    return RunSettings(**values)
