"""`sonolora generate MODE --out FILE.wav`: audio from a LoRA, or from a base model alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from sonolora.cli.help_pages import ModeGroup, make_group
from sonolora.cli.mode_commands import add_mode_command, idle_settings
from sonolora.cli.request_options import read_json_fields
from sonolora.cli.setting_options import RUN_SECTION, Options, setting_options, settings_in
from sonolora.cli.terminal import TerminalProgress
from sonolora.core.atomic_files import make_folder
from sonolora.core.errors import InputError
from sonolora.media.audio import AUDIO_EXTENSIONS
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.planning.generate_settings import GenerateSettings
from sonolora.planning.lora_option import parse_lora

_OUT: Options = {
    "out": (
        Annotated[
            Path, typer.Option(metavar="FILE", help="The audio file to write; a spectrogram (.png) goes beside it.")
        ],
        ...,
    ),
    "lora": (
        Annotated[
            list[str] | None,
            typer.Option(
                metavar="FILE[:X]",
                help="The LoRA, a file or URL, and its strength, by default --scale; without it the base alone. Repeat "
                "it for several: fields that are not given follow the first.",
            ),
        ],
        None,
    ),
    "distill_lora": (
        Annotated[
            str | None,
            typer.Option(
                metavar="FILE[:X]", help="The publisher's distill LoRA: sample in its 8 steps without guidance."
            ),
        ],
        None,
    ),
}


_TAKES: Options = {
    "takes": (
        Annotated[
            int,
            typer.Option(min=1, max=100, metavar="N", help="How many, each with the next seed: FILE-1, FILE-2, ..."),
        ],
        1,
    ),
    "compare": (
        Annotated[
            bool,
            typer.Option(
                "--compare",
                help="Also what the base makes of the same seed, in one file and one picture with the LoRA's.",
            ),
        ],
        False,
    ),
}


def _add(mode: Mode) -> None:
    def run(own: dict[str, Any], body: dict[str, Any]) -> None:
        _generate(mode, body, own)

    options = {
        **_OUT,
        **_TAKES,
        **setting_options(GenerateSettings, without=idle_settings(mode), section=RUN_SECTION),
    }
    add_mode_command(generate_app, mode, "Generate audio.", options, run)


def _generate(mode: Mode, body: dict[str, Any], own: dict[str, Any]) -> None:
    read_json_fields(body)
    out = own["out"]
    if out.is_dir():
        raise InputError.of("out", f"{out} is a folder: give the name of an audio file in it")
    if out.suffix.lower() not in AUDIO_EXTENSIONS:
        known = ", ".join(AUDIO_EXTENSIONS)
        raise InputError.of(
            "out", f"must be an audio file ({known}), not {out.name}: use --out {out.with_suffix('.wav')}"
        )
    if own["compare"] and not own["lora"]:
        raise InputError.of("compare", "there is no LoRA to compare with the base: add --lora FILE")
    settings = settings_in(GenerateSettings, own)
    GenerateSettings(**settings)  # before anything is fetched
    named = [parse_lora(text, "lora", settings["scale"]) for text in own["lora"] or ()]
    make_folder(out.parent)
    from sonolora.data.fetch import fetch

    with tempfile.TemporaryDirectory() as scratch, TerminalProgress() as progress:
        folder = Path(scratch)
        loras = [
            (fetch(file, folder / str(number), field="lora"), strength) for number, (file, strength) in enumerate(named)
        ]
        if own["distill_lora"]:
            file, strength = parse_lora(own["distill_lora"], "distill_lora")
            settings["distill_lora"] = fetch(file, folder / "distill", field="distill_lora"), strength
        if loras:
            settings |= {"lora": loras[0][0], "scale": loras[0][1], "more_loras": tuple(loras[1:])}
        from sonolora.runs.generation.takes import generate_takes

        made = GenerateSettings(**settings)
        written = generate_takes(mode, body, made, out, progress, takes=own["takes"], compare=own["compare"])
    for what, path in written:
        print(f"{what + ':':<10}{path}")


generate_app = make_group("Generate audio with a LoRA.", ModeGroup)
for _mode in MODES.values():
    _add(_mode)
