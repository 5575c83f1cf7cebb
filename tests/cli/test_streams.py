"""Standard output and error that nobody reads, or that are full."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from sonolora.cli.streams import OutputFailedError, ReaderLeftError, droppable_output, guarded_streams
from sonolora.cli.terminal import TerminalProgress
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.server.database.sqlite import SqliteDatabase
from sonolora.server.jobs.records import NewRequest
from sonolora.server.jobs.store import Store


@contextmanager
def streams(out=None, err=None):
    """Not a fixture: pytest captures anew between the set-up of a test and its call."""
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in (("stdout", out), ("stderr", err)):
            if stream is not None:
                patch.setattr(sys, name, stream)
        yield
    with suppress(OSError):
        (out or err).close()


def left():
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


def test_an_unguarded_stream_fails():
    with streams(out=left()), pytest.raises(BrokenPipeError):
        print("a result", flush=True)


def test_progress_that_nobody_reads_is_dropped():
    with streams(err=left()), guarded_streams(), TerminalProgress() as progress:
        progress.phase("training", 3)
        progress.advance("loss 1")
        progress.message("step 1")
        progress.warning("odd")
        print("more", file=sys.stderr, flush=True)


def test_results_that_nobody_reads_end_the_command():
    def print_twice():
        with guarded_streams():
            with pytest.raises(ReaderLeftError):
                print("a result", flush=True)
            print("what comes later goes nowhere", flush=True)

    with streams(out=left()), pytest.raises(ReaderLeftError):
        print_twice()


def test_a_server_goes_on_when_nobody_reads_its_output():
    with streams(out=left()), guarded_streams():
        with droppable_output():
            print("serves at ...", flush=True)
        print("and ends in order", flush=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_results_on_a_full_device_are_an_error():
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closed by streams
    with (
        streams(out=full),
        pytest.raises(OutputFailedError, match=r"standard output could not be .* No space left"),
        guarded_streams(),
    ):
        print("a result", flush=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_progress_on_a_full_device_is_dropped():
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closed by streams
    with streams(err=full), guarded_streams():
        print("progress", file=sys.stderr, flush=True)


# Unbuffered, as in containers: each write may fail, and not only the last flush.
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("--help | head -c 1; exit ${PIPESTATUS[0]}", 0, ""),  # written before the reader leaves
        ("--help >&-", 0, ""),
        ('requests list --folder "$FOLDER" >&-', 0, ""),
        ("--help >/dev/full", 1, "standard output could not be written: No space left on device\n"),
        ("--version >/dev/full", 1, "standard output could not be written: No space left on device\n"),
        ("completion bash | true; exit ${PIPESTATUS[0]}", 141, ""),
    ],
)
def test_exit_codes_in_a_shell(words, code, error, tmp_path):
    with closing(SqliteDatabase(tmp_path / "server.db")) as database:
        Store(database).add_request(NewRequest(endpoint="t2a", mode="t2a", body={}, key_id="k"))
    line = f'"{sys.executable}" -m sonolora {words}'
    environment = {**os.environ, "FOLDER": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (code, error)


def train_on_a_tone(folder, steps):
    """The command, and the folder of its run."""
    (folder / "clips").mkdir()
    time = np.arange(26000) / 48000
    tone = Waveform(np.stack([np.sin(2000 * time)] * 2).astype(np.float32), 48000)
    write_audio(folder / "clips" / "a.wav", tone)
    options = f"--audio-duration-seconds 0.5 --number-of-steps {steps} --rank 8 --device cpu --base tiny"
    words = f'train t2a "{folder / "clips"}" --out "{folder / "run"}" {options}'
    return f'"{sys.executable}" -m sonolora {words}', folder / "run"


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_progress(tmp_path):
    command, run = train_on_a_tone(tmp_path, 100)
    done = subprocess.run(["bash", "-c", f"{command} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True)
    assert (done.returncode, done.stdout.count(b"\n")) == (141, 1)
    assert (run / "lora.safetensors").exists() and (run / "report.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no terminals that hang up")
def test_a_run_is_saved_when_its_terminal_closes(tmp_path):
    import pty

    command, run = train_on_a_tone(tmp_path, 20000)
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("bash", ["bash", "-c", f"exec {command}"])
    shown = b""
    while b"training" not in shown:
        shown += os.read(terminal, 4096)
    while not (run / "metrics.jsonl").exists():
        os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert list((run / "checkpoints").glob("step-*.safetensors"))
    assert not (run / "lora.safetensors").exists()
