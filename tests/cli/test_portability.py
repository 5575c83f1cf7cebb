"""What runs where Windows lacks something: import, check and a short training, in a process without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Torch, too, has a version of its own for Windows.
_TORCH = "from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio"
# What Windows does not have, and what it does not do: sync a file that is open for reading, open a folder.
_WINDOWS = """
import errno, os, signal, sys
import fcntl
from pathlib import Path

open_any, sync_any = os.open, os.fsync

def read_only(descriptor):
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY

def sync(descriptor):
    if read_only(descriptor):
        raise OSError(errno.EBADF, "Bad file descriptor")
    sync_any(descriptor)

def open_file(path, *arguments, **named):
    ours = sys._getframe(1).f_globals.get("__name__", "").startswith("sonolora")
    if ours and Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return open_any(path, *arguments, **named)

import asyncio, filelock, psutil, subprocess, tempfile  # which have versions of their own for Windows
for name in ("fcntl", "resource", "uvloop", "pwd", "grp", "termios", "syslog"):
    sys.modules[name] = None
for name in ("sysconf", "sched_getaffinity", "fork", "getuid", "geteuid", "killpg", "setsid", "getpgid", "getloadavg"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM"):
    delattr(signal, name)
os.fsync, os.open = sync, open_file
"""
SUPPORT = Path(__file__).parents[1] / "support"
_IMPORT = """
import importlib, pkgutil
import sonolora
for module in pkgutil.walk_packages(sonolora.__path__, "sonolora."):
    # Those need a system with all this, Triton, and Alembic, which runs its scripts itself.
    if not module.name.endswith(("__main__", "server.serve", "norm_kernels", "migrations.env")):
        importlib.import_module(module.name)
"""
_TRAIN = """
import sys

import numpy as np, torch

sys.path.insert(0, sys.argv[1])
from run_support import Silent
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.run_settings import RunSettings
from sonolora.runs.check_data import check
from sonolora.runs.start import start

torch.set_num_threads(1)
clips, noise = Path("clips"), np.random.default_rng(0).normal(0, 0.1, (2, 26000)).astype(np.float32)
clips.mkdir()
write_audio(clips / "a.wav", Waveform(noise, 48000))
(clips / "a.txt").write_text("noise")
request = parse(T2A.request, {"training_data_url": "clips", "rank": 8, "audio_duration_seconds": 0.5})
checked = check(T2A, request, find_base("tiny"), Path("check"), Silent())
assert checked.error is None and len(checked.clips) == 1
settings = RunSettings(device="cpu", checkpoint_every=1)
start(T2A, request.model_copy(update={"number_of_steps": 2}), settings, Path("run"), Silent())
print(sorted(path.name for path in Path("run").iterdir()))
"""
_SERVE = """
from sonolora.cli.main import main
sys.argv = ["sonolora", "serve", "--folder", "server"]
main()
"""


def run(code, folder):
    command = [sys.executable, "-c", code, str(SUPPORT)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="the real thing")
def test_it_imports_checks_and_trains(tmp_path):
    done = run(_TORCH + _WINDOWS + _IMPORT + _TRAIN, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "lora.safetensors" in done.stdout
    # Names that no file can have there.
    assert not [path for path in tmp_path.rglob("*") if set('<>:"|?*') & set(path.name)]


@pytest.mark.skipif(sys.platform == "win32", reason="the real thing")
def test_what_cannot_run_says_so(tmp_path):
    done = run(_WINDOWS + _SERVE, tmp_path)
    assert done.returncode == 1
    assert "`sonolora serve` needs the Python module fcntl" in done.stderr and "WSL 2" in done.stderr
    assert "Traceback" not in done.stderr
