"""`sonolora selftest`: the networks against reference outputs, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sonolora.cli.setting_options import setting_options
from sonolora.core.errors import InputError
from sonolora.planning.run_settings import RunSettings

Device, _AUTO = setting_options(RunSettings, only=("device",))["device"]
_DTYPES = ("float32", "bfloat16")


def selftest(
    checkpoint: Annotated[Path, typer.Option(metavar="FILE", help="A checkpoint in the published format.")],
    cases: Annotated[Path, typer.Option(metavar="FILE", help="Inputs and reference outputs for it.")],
    device: Device = _AUTO,  # type: ignore[valid-type]
    dtype: Annotated[str, typer.Option(metavar="|".join(_DTYPES), help="Precision of the networks.")] = _DTYPES[0],
) -> None:
    """Verify the networks against reference outputs.

    The repository has files for it in tests/golden. The exit code is 1 when an output differs.
    """
    if dtype not in _DTYPES:
        raise InputError.of("dtype", f"{dtype!r} is not one of {', '.join(_DTYPES)}")
    import torch

    from sonolora.core.devices import resolve_device
    from sonolora.runs.selftest import run_checks

    on = resolve_device(str(device))
    print(f"{'case':<50} {'error':>9} {'allowed':>9}    ({on}, {dtype}, torch {torch.__version__})")
    failed = 0
    for check in run_checks(checkpoint, cases, on, getattr(torch, dtype)):
        failed += not check.passed
        print(f"{check.name:<50} {check.error:9.1e} {check.tolerance:9.1e} {'' if check.passed else '  FAILED'}")
    print(f"{failed} cases FAILED" if failed else "all cases agree")
    raise typer.Exit(1 if failed else 0)
