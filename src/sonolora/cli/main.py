"""The command `sonolora`: assembles the commands, and maps errors to exit codes.

Exit codes: 0 success; 1 failure; 2 a bad request or dataset, with the field or file on standard error; 130 stopped by
Ctrl-C or another signal, with the run saved; 141 nobody reads standard output any more.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from sonolora import __version__
from sonolora.cli.backup import backup, restore
from sonolora.cli.base import base_app
from sonolora.cli.bench import bench_app
from sonolora.cli.cache import cache_app
from sonolora.cli.check import check_app
from sonolora.cli.completion import completion, enable_completion
from sonolora.cli.convert import convert
from sonolora.cli.demo import demo
from sonolora.cli.env import env
from sonolora.cli.estimate import estimate_app
from sonolora.cli.generate import generate_app
from sonolora.cli.help_pages import add_command, make_group, ordered
from sonolora.cli.lora import inspect, merge
from sonolora.cli.selftest import selftest
from sonolora.cli.serve import SERVE_HELP, serve
from sonolora.cli.server import keys_app, ledger, nodes_app, requests_app
from sonolora.cli.streams import OutputFailedError, ReaderLeftError, guarded_streams
from sonolora.cli.sweep import sweep_app
from sonolora.cli.train import train_app
from sonolora.cli.verify_comfyui import verify_comfyui
from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.cuda_environment import configure_cuda
from sonolora.core.errors import OUT_OF_MEMORY, InputError, SonoloraError
from sonolora.core.threads import configure_threads
from sonolora.planning.run_settings import RENAMED, option

READER_LEFT = 141  # as a shell reports a program that SIGPIPE has ended
_ORDER = (
    *("demo", "base", "check", "estimate", "train", "sweep", "generate", "inspect", "merge"),
    *("serve", "keys", "requests", "nodes", "ledger", "backup", "restore"),
    *("cache", "env", "selftest", "bench", "completion"),
)


def _current_name(name: str) -> str:
    """Of an option, which may have had another one in an earlier version."""
    new = RENAMED.get(name.replace("-", "_"))
    return name if new is None else option(new).removeprefix("--")


app = make_group(
    "Train LTX-2.3 audio LoRAs on your own hardware.",
    ordered(*_ORDER),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": _current_name},
)
app.add_typer(check_app, name="check")
app.add_typer(estimate_app, name="estimate")
app.add_typer(train_app, name="train")
app.add_typer(sweep_app, name="sweep")
app.add_typer(generate_app, name="generate")
app.add_typer(base_app, name="base")
app.add_typer(cache_app, name="cache")
app.add_typer(keys_app, name="keys")
app.add_typer(requests_app, name="requests")
app.add_typer(nodes_app, name="nodes")
app.add_typer(bench_app, name="bench")
add_command(app, "serve", serve, help=SERVE_HELP)
add_command(app, "verify-comfyui", verify_comfyui)
for _command in (inspect, convert, merge, ledger, backup, restore, demo, env, selftest, completion):
    add_command(app, _command.__name__, _command)


def _show_version(value: bool) -> None:
    if value:
        print(f"sonolora {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Entry point: errors that explain themselves become a message and an exit code."""
    configure_threads()
    configure_cuda()
    enable_completion()
    try:
        with guarded_streams():
            code = _run()
    except ReaderLeftError:
        code = READER_LEFT
    except OutputFailedError as error:
        code = 1
        with suppress(OSError):
            print(error, file=sys.stderr)
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as end:  # typer's: usage errors, --help, and commands that end with a code
        return end.code if isinstance(end.code, int) else 0
    except (ReaderLeftError, OutputFailedError):
        raise
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except SonoloraError as error:
        print(error, file=sys.stderr)
        return 130 if isinstance(error, InterruptedRunError) else 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)  # such as a name that is too long
        return 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for every command
            raise
        print(f"{OUT_OF_MEMORY}, or use --block-offload ({error})", file=sys.stderr)
        return 1
    return 0
