"""The command `sonolora`. Thin: it reads options, calls a room, and says what happened.

Exit codes: 0 done; 1 something failed; 2 a bad request or dataset, with the field or file on standard error;
130 stopped by Ctrl-C, with the state saved.
"""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from sonolora import __version__
from sonolora.cli_base import base_app
from sonolora.cli_server import add_server_commands
from sonolora.errors import InputError, SonoloraError
from sonolora.modes import MODES
from sonolora.modes.mode import Mode
from sonolora.modes.request import parse
from sonolora.options import option_parameters, read_json_fields, request_body
from sonolora.terminal import TerminalProgress

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
bench_app = typer.Typer(rich_markup_mode=None, help="Measure speed.", no_args_is_help=True)
app.add_typer(train_app, name="train")
app.add_typer(generate_app, name="generate")
app.add_typer(check_app, name="check")
app.add_typer(bench_app, name="bench")
app.add_typer(base_app, name="base")
add_server_commands(app)

Base = Annotated[
    str, typer.Option(help="The base model: a name (`sonolora base list`), a folder, or a Hugging Face id.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Seed = Annotated[int, typer.Option(help="All randomness follows from it.")]


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
) -> None:
    """Train a LoRA: sonolora train MODE DATA --out DIR, or: sonolora train --resume DIR."""
    if context.invoked_subcommand is not None:
        return
    if resume is None:
        raise InputError.of("mode", f"say a mode ({', '.join(MODES)}) or --resume DIR")
    from sonolora.runs.run import resume as resume_run

    with StopSignal().installed() as stop, TerminalProgress() as progress:
        lora = resume_run(resume, progress, stop)
    _say_where(lora)


def _add_training_command(mode: Mode) -> None:
    own = {
        "data": (Annotated[str | None, typer.Argument(help="A zip, a folder or a URL.")], None),
        "out": (
            Annotated[Path, typer.Option("--out", help="Folder for the results.")],
            inspect.Parameter.empty,
        ),
        "prompt": (
            Annotated[list[str] | None, typer.Option("--prompt", help="A preview of this prompt; at most two.")],
            None,
        ),
        "request": (
            Annotated[Path | None, typer.Option("--request", help="A JSON file with a whole request.")],
            None,
        ),
        "base": (Base, "tiny"),
        "device": (Device, "auto"),
        "seed": (Seed, 42),
        "sigma_density": (
            Annotated[str, typer.Option(help="Density of training noise: published, clamped, matched, uniform.")],
            "published",
        ),
        "checkpoint_every": (Annotated[int, typer.Option(help="Steps between saved states.")], 250),
        "preview_every": (Annotated[int, typer.Option(help="Steps between previews.")], 500),
    }

    def command(**options: Any) -> None:
        mine = {name: options.pop(name) for name in own}
        request = parse(mode.request, request_body(options, mine["data"], mine["prompt"] or [], mine["request"]))
        # What is heavy to import comes after what can be refused at once.
        from sonolora.runs.run import start
        from sonolora.runs.settings import RunSettings

        names = ("base", "device", "seed", "sigma_density", "checkpoint_every", "preview_every")
        settings = RunSettings(**{name: mine[name] for name in names})
        with StopSignal().installed() as stop, TerminalProgress() as progress:
            lora = start(mode, request, settings, mine["out"], progress, stop)
        _say_where(lora)

    parameters = _parameters(own) + option_parameters(mode.request)
    _give_signature(command, parameters)
    train_app.command(mode.name, help=f"Train a LoRA for {mode.summary}.")(command)


def _parameters(own: Mapping[str, tuple[Any, Any]]) -> list[inspect.Parameter]:
    """Keyword parameters from annotation and default; `...` means that it must be given."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is ... else default,
            annotation=annotation,
        )
        for name, (annotation, default) in own.items()
    ]


def _give_signature(command: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Typer reads a command's options off its signature."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _add_check_command(mode: Mode) -> None:
    own = {
        "data": (Annotated[str | None, typer.Argument(help="A zip, a folder or a URL.")], None),
        "out": (Annotated[Path, typer.Option("--out", help="Folder for the report.")], Path("check")),
        "request": (Annotated[Path | None, typer.Option("--request", help="A JSON file with a whole request.")], None),
        "base": (Base, "tiny"),
    }

    def command(**options: Any) -> None:
        mine = {name: options.pop(name) for name in own}
        request = parse(mode.request, request_body(options, mine["data"], [], mine["request"]))
        from sonolora.ltx.base import find_base
        from sonolora.runs.check import check
        from sonolora.runs.table import show_report

        with TerminalProgress() as progress:
            checked = check(mode, request, find_base(mine["base"]), mine["out"], progress)
        show_report(checked.report)
        print(f"report: {mine['out'] / 'report.json'}\npage:   {mine['out'] / 'report.html'}")
        if checked.error is not None:
            raise checked.error
        print(f"{len(checked.clips)} clips of {request.clip_seconds:g} s would be trained on.")

    parameters = _parameters(own) + option_parameters(mode.request)
    _give_signature(command, parameters)
    check_app.command(mode.name, help=f"Check data for {mode.summary}.")(command)


for _mode in MODES.values():
    _add_training_command(_mode)
    _add_check_command(_mode)


def _say_where(lora: Path) -> None:
    print(f"LoRA:     {lora}")
    preview = lora.with_name("preview.wav")
    if preview.exists():
        print(f"preview:  {preview}")
        print(f"pictures: {lora.with_name('previews')}")
    print(f"report:   {lora.with_name('report.json')}")


def _add_generate_command(mode: Mode) -> None:
    own = {
        "out": (Annotated[Path, typer.Option(help="The .wav to write; a picture is put beside it.")], ...),
        "lora": (Annotated[Path | None, typer.Option(help="The LoRA; without it the base alone is heard.")], None),
        "scale": (Annotated[float, typer.Option(help="Strength of the LoRA.")], 1.0),
        "steps": (Annotated[int, typer.Option(min=1, max=200, help="Sampling steps.")], 30),
        "stg_scale": (Annotated[float, typer.Option(min=0, max=3, help="Spatio-temporal guidance.")], 1.0),
        "seed": (Seed, 42),
        "base": (Base, "tiny"),
        "device": (Device, "auto"),
    }

    def command(**options: Any) -> None:
        mine = {name: options.pop(name) for name in own}
        body = {name: value for name, value in options.items() if value is not None}
        read_json_fields(body)
        from sonolora.runs.generate import GenerateSettings, generate
        from sonolora.sampling.guidance import Guidance
        from sonolora.sampling.sampler import SamplingSettings

        sampling = SamplingSettings(mine["steps"], Guidance(stg=mine["stg_scale"]))
        same = {name: mine[name] for name in ("lora", "scale", "seed", "base", "device")}
        with TerminalProgress() as progress:
            generate(mode, body, GenerateSettings(**same, sampling=sampling), mine["out"], progress)
        print(f"sound:   {mine['out']}")
        print(f"picture: {mine['out'].with_suffix('.png')}")

    parameters = _parameters(own) + option_parameters(mode.generation)
    _give_signature(command, parameters)
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

    from sonolora.runs.settings import resolve_device
    from sonolora.selftest import run_checks

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
    """From nothing to a LoRA that can be heard, in about two minutes."""
    import time

    from sonolora.demo import PROMPTS, TRIGGER, run_demo
    from sonolora.training.metrics import read_metrics

    began = time.monotonic()
    with StopSignal().installed() as stop, TerminalProgress() as progress:
        lora = run_demo(out, progress, stop)
    grid = [line["grid_loss"] for line in read_metrics(lora.with_name("metrics.jsonl")) if "grid_loss" in line]
    print(f"\nDone in {time.monotonic() - began:.0f} seconds.")
    _say_where(lora)
    print(f"learned:  loss on the fixed grid {grid[0]:.3f} -> {grid[-1]:.3f}")
    print("\nCompare previews/step-000000-1.wav (the base) with the last step's. Next:")
    # As it was called, so that the lines can be pasted.
    me = sys.argv[0] if Path(sys.argv[0]).name == "sonolora" else "sonolora"
    print(f'  {me} generate t2a --lora {lora} --prompt "{TRIGGER} {PROMPTS[0]}" --out bell.wav')
    print(f"  {me} train t2a YOUR_CLIPS.zip --out my-run --prompt 'what you want to hear'")


@bench_app.command("step")
def bench_step(
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="Length of a training clip.")] = 5.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips a step.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 20,
    record: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this file.")] = None,
    base: Base = "tiny",
    device: Device = "auto",
) -> None:
    """How long a training step takes here, and how near that is to what this machine can do."""
    from dataclasses import asdict

    from sonolora.bench import measure_step, table
    from sonolora.files import write_json

    measured = measure_step(base, device, rank=rank, seconds=seconds, batch_size=batch_size, steps=steps)
    print(table(measured))
    if record is not None:
        write_json(record, asdict(measured))


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
    except KeyboardInterrupt:
        print("stopped before anything was trained", file=sys.stderr)
        sys.exit(130)
