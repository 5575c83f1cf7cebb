"""`sonolora completion`: completion of commands and options in a shell, by typer's own machinery."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.completion import completion_init, get_completion_script, install  # type: ignore[attr-defined]

from sonolora.core.errors import InputError

_PROGRAM, _VARIABLE = "sonolora", "_SONOLORA_COMPLETE"
_SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")


def completion(
    shell: Annotated[str, typer.Argument(metavar="|".join(_SHELLS), help="The shell.")],
    into_shell: Annotated[
        bool, typer.Option("--install", help="Install it for this user, instead of printing it.")
    ] = False,
) -> None:
    """Print or install shell completion.

    For this session of bash alone: source <(sonolora completion bash)
    """
    if shell not in _SHELLS:
        raise InputError.of("shell", f"{shell!r} is not one of {', '.join(_SHELLS)}")
    if not into_shell:
        print(get_completion_script(prog_name=_PROGRAM, complete_var=_VARIABLE, shell=shell))
        return
    _, path = install(shell=shell, prog_name=_PROGRAM, complete_var=_VARIABLE)
    print(f"installed in {path}; it takes effect in the next shell")


def enable_completion() -> None:
    """Let the shells' requests for completions, which come in an environment variable, be answered."""
    completion_init()
