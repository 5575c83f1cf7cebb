"""The sample rates of a base's audio codec, from the checkpoint's header: no network is built or imported."""

from __future__ import annotations

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.checkpoint import Checkpoint


def codec_rates(checkpoint: Checkpoint) -> tuple[int, int]:
    """(sample rate of the input, of the output), Hz. Raises `CheckpointError` when the header does not have them."""
    try:
        return (
            checkpoint.section("audio_vae")["model"]["params"]["sampling_rate"],
            checkpoint.section("vocoder")["bwe"]["output_sampling_rate"],
        )
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.path}: the header's codec config lacks {error}") from error
