"""The options of `train` and `estimate` that are not part of the published request, but of `RunSettings`.

In: what the command line gave. Out: `RunSettings`, which checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sonolora.runs.settings import RunSettings

BASE_HELP = "The base model: a name (`sonolora base list`), a folder, or a Hugging Face id."
DEVICE_HELP = "auto, cpu, cuda or cuda:1."
SEED_HELP = "All randomness follows from it."
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
    "checkpoint_every": (Annotated[int, typer.Option(help="Steps between saved states.")], 250),
    "preview_every": (Annotated[int, typer.Option(help="Steps between previews.")], 500),
}


def settings_from(options: Mapping[str, Any]) -> RunSettings:
    """Raises `SonoloraError` for a value that cannot be."""
    from sonolora.runs.settings import RunSettings

    return RunSettings(**{name: options[name] for name in SETTING_OPTIONS})
