"""The command `sonolora`. Thin: it reads options, calls a room, and says what happened.

Exit codes: 0 done; 1 something failed; 2 a bad request or dataset, with the field or file on standard error;
130 stopped by Ctrl-C, with the state saved.
"""

from __future__ import annotations

import inspect
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from sonolora import __version__
from sonolora.cli.base import base_app
from sonolora.cli.bench import add_bench_commands
from sonolora.cli.estimate import add_estimate_commands
from sonolora.cli.lora import add_lora_commands
from sonolora.cli.options import give_options, prompt_option, read_json_fields, request_body
from sonolora.cli.server import add_server_commands
from sonolora.cli.settings import (
    BASE_HELP,
    DEVICE_HELP,
    SEED_HELP,
    STREAM_HELP,
    V2A_VIDEO_HELP,
    WEIGHTS_HELP,
    setting_options,
    settings_from,
)
from sonolora.cli.terminal import TerminalProgress
from sonolora.core.atomic_files import make_folder
from sonolora.core.errors import OUT_OF_MEMORY, InputError, SonoloraError
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest, parse, unknown_fields

app = typer.Typer(
    help="Teach LTX-2.3 new sounds: train audio LoRAs on your own hardware.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
train_app = typer.Typer(rich_markup_mode=None, help="Train a LoRA.", invoke_without_command=True, no_args_is_help=True)
generate_app = typer.Typer(rich_markup_mode=None, help="Generate sound with a trained LoRA.", no_args_is_help=True)
check_app = typer.Typer(rich_markup_mode=None, help="Look at data before training: what becomes of every file.")
app.add_typer(train_app, name="train")
app.add_typer(generate_app, name="generate")
app.add_typer(check_app, name="check")
app.add_typer(base_app, name="base")
add_server_commands(app)
add_estimate_commands(app)
add_bench_commands(app)
add_lora_commands(app)

Base = Annotated[str, typer.Option(help=BASE_HELP)]
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Seed = Annotated[int, typer.Option(help=SEED_HELP)]


def _show_version(value: bool) -> None:
    if value:
        print(f"sonolora {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None: ...


class StopSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop, once someone asks for it; before, it interrupts."""

    def __init__(self) -> None:
        self._asked = False
        self._stop = False

    def __call__(self) -> bool:
        self._asked = True
        return self._stop

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the system's signature
        if self._stop or not self._asked:
            raise KeyboardInterrupt
        self._stop = True
        print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr)

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Within it the signals come here."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@train_app.callback()
def train(
    context: typer.Context,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder; nothing else need be said.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Where the run's base is now.")] = None,
    device: Annotated[str | None, typer.Option(help=f"Go on there: {DEVICE_HELP}")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Go on with less memory; same result.")
    ] = False,
    stream_blocks: Annotated[
        bool, typer.Option("--stream-blocks", help="Go on with far less memory; same result.")
    ] = False,
) -> None:
    """Train a LoRA: sonolora train MODE DATA --out DIR, or: sonolora train --resume DIR."""
    held = {"gradient_checkpointing": gradient_checkpointing, "stream_blocks": stream_blocks}
    given: dict[str, Any] = {name: value for name, value in {"base": base, "device": device, **held}.items() if value}
    if context.invoked_subcommand is not None:
        if given:
            raise InputError.of(next(iter(given)), f"goes behind the mode: sonolora train {context.invoked_subcommand}")
        return
    if resume is None:
        raise InputError.of("mode", f"say a mode ({', '.join(MODES)}) or --resume DIR")
    from sonolora.runs.artifacts import RunArtifacts

    if RunArtifacts(resume).is_finished():
        print("this run is already finished")
        _say_where(resume)
        return
    from sonolora.runs.resume import resume as resume_run

    with StopSignal().installed() as stop, TerminalProgress() as progress:
        resume_run(resume, progress, stop, **given)
    _say_where(resume)


def _refuse_resume(folder: Path | None) -> None:
    if folder is not None:
        raise InputError.of("resume", f"a run knows its mode: sonolora train --resume {folder}")


def _add_training_command(mode: Mode) -> None:
    own = {
        "data": (Annotated[str | None, typer.Argument(help="A zip, a folder or a URL.")], None),
        "out": (
            Annotated[Path, typer.Option("--out", help="Folder for the results.")],
            inspect.Parameter.empty,
        ),
        "prompt": (Annotated[list[str] | None, prompt_option(mode.request)], None),
        "request": (
            Annotated[Path | None, typer.Option("--request", help="A JSON file with a whole request.")],
            None,
        ),
        **setting_options(mode),
        "resume": (
            Annotated[Path | None, typer.Option(hidden=True, is_eager=True, callback=_refuse_resume)],
            None,
        ),
    }

    def command(**options: Any) -> None:
        own_options = {name: options.pop(name) for name in own}
        request = _read_request(
            mode, request_body(options, own_options["data"], own_options["prompt"] or [], own_options["request"])
        )
        # What is heavy to import comes after what can be refused at once.
        from sonolora.runs.run_folder import refuse_taken

        refuse_taken(own_options["out"])
        from sonolora.runs.start import start

        with StopSignal().installed() as stop, TerminalProgress() as progress:
            start(mode, request, settings_from(own_options), own_options["out"], progress, stop)
        _say_where(own_options["out"])

    give_options(command, own, mode.request)
    train_app.command(mode.name, help=f"Train a LoRA for {mode.summary}.")(command)


def _read_request(mode: Mode, body: Mapping[str, Any]) -> TrainRequest:
    for line in unknown_fields(mode.request, body):
        print(f"warning: {line}", file=sys.stderr)
    return parse(mode.request, body)


def _add_check_command(mode: Mode) -> None:
    own = {
        "data": (Annotated[str | None, typer.Argument(help="A zip, a folder or a URL.")], None),
        "out": (Annotated[Path, typer.Option("--out", help="Folder for the report.")], Path("check")),
        "request": (Annotated[Path | None, typer.Option("--request", help="A JSON file with a whole request.")], None),
        "base": (Base, "tiny"),
    }

    def command(**options: Any) -> None:
        own_options = {name: options.pop(name) for name in own}
        request = _read_request(mode, request_body(options, own_options["data"], [], own_options["request"]))
        from sonolora.ltx.weights.base import find_base
        from sonolora.runs.artifacts import REPORT, REPORT_PAGE, RunArtifacts
        from sonolora.runs.check_data import check
        from sonolora.runs.prepare import describe_clips
        from sonolora.runs.report_table import show_report

        with TerminalProgress() as progress:
            checked = check(mode, request, find_base(own_options["base"]), own_options["out"], progress)
        show_report(checked.report)
        if checked.report["files"]:
            artifacts = RunArtifacts(own_options["out"])
            print(f"report: {artifacts.path(REPORT)}\npage:   {artifacts.path(REPORT_PAGE)}")
        if checked.error is not None:
            raise checked.error
        print(f"{describe_clips(len(checked.clips), request)} would be trained on.")

    give_options(command, own, mode.request)
    check_app.command(mode.name, help=f"Check data for {mode.summary}.")(command)


for _mode in MODES.values():
    _add_training_command(_mode)
    _add_check_command(_mode)


def _say_where(folder: Path) -> None:
    from sonolora.runs.artifacts import LORA, PREVIEW, PREVIEWS, REPORT, RunArtifacts

    artifacts = RunArtifacts(folder)
    print(f"LoRA:     {artifacts.path(LORA)}")
    if PREVIEW in artifacts:
        print(f"preview:  {artifacts.path(PREVIEW)}")
        print(f"pictures: {artifacts.path(PREVIEWS)}")
    print(f"report:   {artifacts.path(REPORT)}")


def _add_generate_command(mode: Mode) -> None:
    own = {
        "out": (Annotated[Path, typer.Option(help="The .wav to write; a picture is put beside it.")], ...),
        "lora": (
            Annotated[str | None, typer.Option(help="The LoRA, a file or URL; without it the base alone is heard.")],
            None,
        ),
        "scale": (Annotated[float, typer.Option(help="Strength of the LoRA.")], 1.0),
        "steps": (Annotated[int, typer.Option(min=1, max=200, help="Sampling steps.")], 30),
        "cfg_scale": (
            Annotated[float | None, typer.Option(min=1, max=30, help="Guidance by words; none: as the base wants it.")],
            None,
        ),
        "stg_scale": (
            Annotated[
                float | None, typer.Option(min=0, max=3, help="Spatio-temporal guidance; none: as the base wants it.")
            ],
            None,
        ),
        "seed": (Seed, 42),
        "base": (Base, "tiny"),
        "device": (Device, "auto"),
        "weights": (Annotated[str, typer.Option(help=WEIGHTS_HELP)], "full"),
        "stream_blocks": (Annotated[bool, typer.Option("--stream-blocks", help=STREAM_HELP)], False),
    }
    if mode.video:
        help_text = f"Whether the film hears the sound; none: as the LoRA was trained, or joint. {V2A_VIDEO_HELP}"
        own["v2a_video"] = (Annotated[str | None, typer.Option(help=help_text)], None)

    def command(**options: Any) -> None:
        own_options = {name: options.pop(name) for name in own}
        body = {name: value for name, value in options.items() if value is not None}
        read_json_fields(body)
        from sonolora.data.fetch import fetch

        out, lora = own_options.pop("out"), own_options.pop("lora")
        if out.is_dir():
            raise InputError.of("out", f"{out} is a folder: give the name of a .wav")
        if out.suffix.lower() != ".wav":
            raise InputError.of("out", f"a .wav is written, and {out.name} is none: give --out {out.stem}.wav")
        make_folder(out.parent)
        with tempfile.TemporaryDirectory() as scratch, TerminalProgress() as progress:
            path = fetch(lora, Path(scratch), field="lora") if lora else None
            from sonolora.runs.generate import GenerateSettings, generate

            generate(mode, body, GenerateSettings(path, **own_options), out, progress)
        print(f"sound:   {out}")
        print(f"picture: {out.with_suffix('.png')}")

    give_options(command, own, mode.generation)
    generate_app.command(mode.name, help=f"Generate: {mode.summary}.")(command)


for _mode in MODES.values():
    _add_generate_command(_mode)


@app.command()
def selftest(
    checkpoint: Annotated[Path, typer.Option(help="A model file in the published format.")],
    cases: Annotated[Path, typer.Option(help="Inputs and expected outputs for it.")],
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Hold the networks to the publisher's own numbers, on this machine; exit code 1 when one differs."""
    import torch

    from sonolora.planning.run_settings import resolve_device
    from sonolora.runs.selftest import run_checks

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise InputError.of("dtype", f"{dtype!r} is not one of {', '.join(dtypes)}")
    where = resolve_device(device)
    print(f"{'case':<50} {'error':>9} {'allowed':>9}    ({where}, {dtype}, torch {torch.__version__})")
    failed = 0
    for check in run_checks(checkpoint, cases, where, dtypes[dtype]):
        failed += not check.passed
        print(f"{check.name:<50} {check.error:9.1e} {check.tolerance:9.1e} {'' if check.passed else '  FAILED'}")
    print(f"{failed} cases FAILED" if failed else "all cases agree")
    raise typer.Exit(1 if failed else 0)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where to put it.")] = Path("demo"),
) -> None:
    """From nothing to a LoRA that can be heard, in about a minute."""
    import time

    from sonolora.runs.demo import TRIGGER, run_demo

    began = time.monotonic()
    with StopSignal().installed() as stop, TerminalProgress() as progress:
        made = run_demo(out, progress, stop)
    print(f"\nDone in {time.monotonic() - began:.0f} seconds.")
    _say_where(made.run)
    print(f"\nlisten:   {out / 'before.wav'}, {out / 'after.wav'}, {out / 'real.wav'}\nlook:     {made.picture}")
    print(f"\nThe LoRA moved the base's sounds {made.moved:.0%} of the way to the real thing. Next:")
    # As it was called, so that the lines can be pasted.
    me = sys.argv[0] if Path(sys.argv[0]).name == "sonolora" else "sonolora"
    prompt = f"{TRIGGER} a shrill plasma gun fires two shots"
    print(f'  {me} generate t2a --lora {made.lora} --prompt "{prompt}" --out plasma.wav')
    print(f"  {me} train t2a YOUR_CLIPS.zip --out my-run --prompt 'what you want to hear'")


def main() -> None:
    """Entry point: errors that explain themselves become a message and an exit code."""
    try:
        app()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except SonoloraError as error:
        print(error, file=sys.stderr)
        sys.exit(130 if type(error).__name__ == "InterruptedRunError" else 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for every command
            raise
        print(f"{OUT_OF_MEMORY}, or give --stream-blocks ({error})", file=sys.stderr)
        sys.exit(1)
