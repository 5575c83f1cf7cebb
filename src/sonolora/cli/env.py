"""`sonolora env`: one page to paste into a bug report. No secrets: no environment but that of threads, no addresses."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sonolora import __version__

_PACKAGES = (
    *("torch", "av", "diffusers", "transformers", "safetensors", "numpy", "soxr", "python-stretch", "pydantic"),
    *("httpx", "huggingface_hub", "starlette", "uvicorn", "uvloop", "sqlalchemy", "cryptography"),
)
_UNIX_MODULES = {"fcntl": "run folders are not locked", "uvloop": "`sonolora serve` does not run here"}


def env() -> None:
    """Print versions, hardware and paths for a bug report."""
    for title, lines in (
        ("versions", _versions),
        ("devices", _devices),
        ("memory and CPU", _machine),
        ("free disk space", _disks),
        ("base models", _bases),
        ("missing", _missing),
    ):
        print(f"{title}\n" + "\n".join(f"  {line}" for line in _safely(lines)))


def _safely(lines: Callable[[], Iterator[str]]) -> list[str]:
    """A fault is part of the report: the other sections are wanted all the more."""
    try:
        return list(lines()) or ["nothing"]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def _versions() -> Iterator[str]:
    yield f"sonolora {__version__}, Python {platform.python_version()} ({sys.implementation.name})"
    yield f"{platform.system()} {platform.release()} ({platform.machine()}), {platform.libc_ver()[0] or 'no'} libc"
    yield ", ".join(f"{package} {_version(package) or 'MISSING'}" for package in _PACKAGES)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[str]:
    import torch

    from sonolora.planning.bench.machine_limits import device_name

    yield f"cpu     {device_name(torch.device('cpu'))}"
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        yield (
            f"cuda:{index}  {torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, "
            f"compute capability {major}.{minor}"
        )
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    yield f"PyTorch {built}, NVIDIA driver {_driver() or 'not found'}"
    if torch.backends.mps.is_available():
        yield "mps     available (untested)"


def _driver() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split("\n")[0].strip() or None
    return None


def _machine() -> Iterator[str]:
    import psutil
    import torch

    from sonolora.core.memory import host_available_bytes
    from sonolora.core.threads import COUNTS, WAITING, cpu_quota, usable_cpus

    total = psutil.virtual_memory().total
    yield f"memory  {host_available_bytes() / 1e9:.1f} of {total / 1e9:.1f} GB available"
    quota = cpu_quota()
    limit = "no quota" if quota is None else f"a quota of {quota:g}"
    yield f"CPUs    {usable_cpus()} of {os.cpu_count()}, {limit}; torch uses {torch.get_num_threads()} threads"
    given = [f"{name}={os.environ[name]}" for name in (*COUNTS, *WAITING) if name in os.environ]
    yield f"        {' '.join(given) or 'no thread settings'}"


def _disks() -> Iterator[str]:
    from sonolora.data.cache_folder import default_cache_folder
    from sonolora.ltx.weights.hub import models_folder
    from sonolora.server.settings import default_folder

    for what, folder in (
        ("here", Path()),
        ("cache", default_cache_folder()),
        ("models", models_folder()),
        ("server", default_folder()),
    ):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        yield f"{what:<7} {shutil.disk_usage(existing).free / 1e9:.1f} GB, {_short(folder.absolute())}"


def _bases() -> Iterator[str]:
    from sonolora.core.errors import SonoloraError
    from sonolora.ltx.weights.base import BUILT_IN_NAMES, find_base
    from sonolora.ltx.weights.registry import registered, registry_file

    for name in (*BUILT_IN_NAMES, *registered()):
        try:
            base = find_base(name)
        except SonoloraError as error:
            yield f"{name}: {error}"
        else:
            yield f"{name}: {base.fingerprint}, {_short(base.checkpoint.path)}"
    yield f"registered in {_short(registry_file())}"


def _missing() -> Iterator[str]:
    import torch

    for package in _PACKAGES:
        if package != "uvloop" and _version(package) is None:
            yield f"the package {package}: install Sonolora again"
    for module, effect in _UNIX_MODULES.items():
        try:
            __import__(module)
        except ImportError:
            yield f"the Python module {module}: {effect}"
    if not torch.cuda.is_available():
        why = "PyTorch is built without it" if torch.version.cuda is None else "no usable card or driver"
        yield f"CUDA: {why}; training runs on the CPU"
    from sonolora.planning.run_settings import COMPILERS

    if not any(map(shutil.which, COMPILERS)):
        yield "a C++ compiler: --compile is not available"


def _short(path: Path) -> str:
    """A path without the user's name."""
    with suppress(ValueError, RuntimeError):
        return str(Path("~") / path.relative_to(Path.home()))
    return str(path)
