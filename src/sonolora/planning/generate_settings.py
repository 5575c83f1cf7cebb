"""How `generate` works on this machine: everything that is not part of its request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sonolora.core.frames import REFERENCE_POSITIONS
from sonolora.core.setting_field import check_values, same_setting, setting
from sonolora.planning.lora_option import MAX_STRENGTH
from sonolora.planning.run_settings import V2A_VIDEO, RunSettings

SAMPLERS = "euler", "ab2"  # of sonolora.sampling.sampler, which imports torch


@dataclass(frozen=True)
class GenerateSettings:
    """Checked when made; raises `InputError`. Without a LoRA the base alone generates."""

    lora: Path | None = None
    scale: float = setting(
        1.0, "Strength of LoRAs without one of their own", metavar="X", minimum=-MAX_STRENGTH, maximum=MAX_STRENGTH
    )
    more_loras: tuple[tuple[Path, float], ...] = ()  # used beside `lora`, whose metadata counts
    distill_lora: tuple[Path, float] | None = None
    steps: int | None = setting(
        None, "Sampling steps; by default 30, for a distilled base or with --distill-lora 8", minimum=1, maximum=200
    )
    sampler: str = setting(
        "euler", "Sampler; ab2, of second order, needs half the steps of euler, the published one", choices=SAMPLERS
    )
    cfg_scale: float | None = setting(
        None, "Classifier-free guidance; by default as the base recommends", minimum=1, maximum=30
    )
    stg_scale: float | None = setting(
        None, "Spatio-temporal guidance, 0 is off; by default as the base recommends", minimum=0, maximum=3
    )
    seed: int = same_setting(RunSettings, "seed")
    base: str = same_setting(RunSettings, "base")
    device: str = same_setting(RunSettings, "device")
    weights: str = same_setting(RunSettings, "weights")
    block_offload: bool = same_setting(RunSettings, "block_offload")
    deterministic: bool = same_setting(RunSettings, "deterministic")
    v2a_video: str | None = setting(
        None,
        "Attention from video to audio; by default as the LoRA was trained, or joint",
        choices=V2A_VIDEO,
    )
    reference_positions: str | None = setting(
        None,
        "Times of the reference in a2a; by default as the LoRA was trained, or overlap",
        choices=REFERENCE_POSITIONS,
    )
    codec_level: bool = setting(
        False, "Inpainting and extension: leave the new sound at the level that the codec gives it"
    )
    output_48k: bool = setting(
        False, "Inpainting and extension: write 48 kHz, stereo, 16 bits in place of the source's format"
    )

    def __post_init__(self) -> None:
        check_values(self)
