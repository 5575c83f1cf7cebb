"""The options of `train` and `estimate` that are not part of the published request, but of `RunSettings`.

In: what the command line gave. Out: `RunSettings`, which checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sonolora.modes.mode import Mode
    from sonolora.planning.run_settings import RunSettings

BASE_HELP = "The base model: a name (`sonolora base list`), a folder, or a Hugging Face id."
DEVICE_HELP = "auto, cpu, cuda or cuda:1."
SEED_HELP = "All randomness follows from it."
V2A_VIDEO_HELP = "joint, as published; or frozen-cached: watched once, and a step costs little more than sound alone."
WEIGHTS_HELP = "The base's weights: full, or to save memory int8, fp8 or nf4, from the least error to the largest."
STREAM_HELP = "Keep the base in the host's memory, two blocks on the device."
# Annotation and default by name; the defaults are those of `RunSettings`, which is too heavy to import for --help.
SETTING_OPTIONS: dict[str, tuple[Any, Any]] = {
    "base": (Annotated[str, typer.Option(help=BASE_HELP)], "tiny"),
    "device": (Annotated[str, typer.Option(help=DEVICE_HELP)], "auto"),
    "seed": (Annotated[int, typer.Option(help=SEED_HELP)], 42),
    "batch_size": (Annotated[int, typer.Option(min=1, help="Clips a step; the published trainer takes 1.")], 1),
    "sigma_density": (
        Annotated[
            str | None,
            typer.Option(help="Noise density: published, clamped, matched or uniform; none: what suits the mode."),
        ],
        None,
    ),
    "weights": (Annotated[str, typer.Option(help=WEIGHTS_HELP)], "full"),
    "gradient_checkpointing": (
        Annotated[
            bool,
            typer.Option(
                "--gradient-checkpointing", help="Compute each block again in the backward pass; same result."
            ),
        ],
        False,
    ),
    "stream_blocks": (
        Annotated[
            bool, typer.Option("--stream-blocks", help=f"{STREAM_HELP} Computes blocks again, too; same result.")
        ],
        False,
    ),
    "checkpoint_every": (Annotated[int, typer.Option(help="Steps between saved states.")], 250),
    "preview_every": (Annotated[int, typer.Option(help="Steps between previews.")], 500),
    "cuda_graph": (
        Annotated[
            bool,
            typer.Option("--cuda-graph", help="Replay one captured step. Experimental: no GPU has run it yet."),
        ],
        False,
    ),
    "compile": (
        Annotated[
            bool,
            typer.Option(
                "--compile",
                help="Compile the blocks in the first minute; later steps are faster. Experimental: no GPU has run it.",
            ),
        ],
        False,
    ),
}
# Of modes with a film alone.
FILM_OPTIONS: dict[str, tuple[Any, Any]] = {
    "v2a_video": (Annotated[str, typer.Option(help=f"Whether the film hears the sound: {V2A_VIDEO_HELP}")], "joint"),
}


def setting_options(mode: Mode) -> dict[str, tuple[Any, Any]]:
    """Those that a mode has."""
    return SETTING_OPTIONS | (FILM_OPTIONS if mode.video else {})


def settings_from(options: Mapping[str, Any]) -> RunSettings:
    """Raises `SonoloraError` for a value that cannot be."""
    from sonolora.planning.run_settings import RunSettings

    return RunSettings(**{name: options[name] for name in SETTING_OPTIONS | FILM_OPTIONS if name in options})
