"""Everything that is worth knowing about a card, in one script of at most ten minutes that keeps what it has.

    python bench/gpu.py --out bench/results            on a machine with a CUDA card: writes results/CARD.md
    python bench/gpu.py --quick --out /tmp/results     the same series in small, on any machine

In this order: the device, the networks against reference outputs, the step of t2a (eager, CUDA graph, compiled), real
runs on the embedded base (twice and resumed, deterministic, must be bit-identical), the start with the text stage, the
step of v2a, previews, then memory options and batches. Weights are random, or zeros where files are read; nothing is
downloaded. Every line is a process of its own, which can be run alone. The page is written again after each, so that
whatever ends this script, a deadline included, takes nothing away; what failed or found no time stands on it with the
reason. Beside it lies CARD.jsonl with every record. No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.planning.bench.machine_limits import device_name
from sonolora.planning.bench.results_page import page

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
MINUTES = 9.5  # of the ten that a lease of a card may have
LONGEST = 150.0  # seconds of one line
FULL = "--base ltx-2.3"
SMALL = "--base tiny --seconds 0.5 --resolution low"
STEPS = 100  # of the real runs, the fewest that a request can ask for


@dataclass
class Series:
    """What has been measured so far, and the page that shows it."""

    options: argparse.Namespace
    deadline: float
    name: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    previews: list[dict[str, Any]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)  # command and output
    runs: list[str] = field(default_factory=list)  # what the real runs showed
    failed: list[str] = field(default_factory=list)

    def run(self, *command: str) -> tuple[str | None, str]:
        """Why a command did not come to its end, if so; and what it printed."""
        left = min(self.options.longest, self.deadline - time.monotonic())
        if left <= 1:
            return "not run: the time was up", ""
        print("$ python", *command, flush=True)
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=own()
        )
        try:
            output, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return f"stopped after {left:.0f} s", output
        print(output, f"({time.monotonic() - began:.1f} s)", flush=True)
        last = (output.strip() or "without a word").splitlines()[-1]
        return (f"failed: {last}" if process.returncode else None), output

    def bench(self, kind: str, line: str) -> None:
        """One `sonolora bench` command."""
        options = self.options
        counts = f"--steps {options.steps} " if kind == "step" else ""
        command = f"bench {kind} {line} {counts}--device {options.device}"
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder) / "record.json"
            fault, _ = self.run("-m", "sonolora", *command.split(), "--json", str(record))
            if fault:
                self.failed.append(f"- `sonolora {command}`: {fault}")
            else:
                found = json.loads(record.read_text())
                (self.steps if kind == "step" else self.previews).extend(found if isinstance(found, list) else [found])
        self.write()

    def text(self, *command: str) -> None:
        """A command whose output is kept as it is."""
        fault, output = self.run(*command)
        shown = " ".join(Path(word).name if word.startswith("/") else word for word in command)
        if output:
            self.texts.append((shown, output.replace(str(ROOT) + "/", "")))
        if fault:
            self.failed.append(f"- `python {shown}`: {fault}")
        self.write()

    def real_runs(self, *flags: str, resumed: bool) -> None:
        """Trainings of one seed on the embedded base: their LoRAs must be bit-identical, also of the resumed one."""
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch) / "data"
            make_tones(data)
            arguments = ["-m", "sonolora", "train", "t2a", str(data), "--number-of-steps", str(STEPS)]
            arguments += ["--audio-duration-seconds", "1", "--device", self.options.device, "--checkpoint-every", "50"]
            arguments += ["--preview-every", str(STEPS), *flags]
            loras, paces = [], []
            for number in (1, 2):
                out = Path(scratch) / f"run-{number}"
                command = [*arguments, "--out", str(out)]
                if number == 2 and resumed:
                    self._interrupt(command, out)
                    command = ["-m", "sonolora", "train", "--resume", str(out)]
                fault, _ = self.run(*command)
                if fault:
                    self.failed.append(f"- `sonolora train t2a {' '.join(flags)}`, run {number}: {fault}")
                    return self.write()
                loras.append((out / "lora.safetensors").read_bytes())
                lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
                paces += [line["steps_per_second"] for line in lines if "steps_per_second" in line][-1:]
        same = "bit-identical" if loras[0] == loras[1] else "DIFFERENT"
        how = "the second stopped and resumed" if resumed else "one after the other"
        self.runs.append(
            f"- `{' '.join(flags) or 'no flags'}`, two runs of {STEPS} steps, {how}: the LoRAs are {same}; "
            f"{paces[0]:g} steps a second at the end"
        )
        return self.write()

    def _interrupt(self, command: Sequence[str], out: Path) -> None:
        """Run until half of the steps are done, and stop as Ctrl-C does."""
        print("$ python", *command, "(to be interrupted)", flush=True)
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=own()
        )
        metrics = out / "metrics.jsonl"
        while process.poll() is None and time.monotonic() < self.deadline:
            if metrics.exists() and f'"step": {STEPS // 2}' in metrics.read_text():
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.02)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()

    def write(self) -> None:
        """The page as it is now."""
        command = " ".join(["python bench/gpu.py", *sys.argv[1:]])
        parts = [page(command, self.steps)] if self.steps else [f"# {self.name}\n\n    {command}\n"]
        if self.runs:
            parts.append("## Real runs on the embedded base\n\n" + "\n".join(self.runs) + "\n")
        if self.previews:
            parts.append(previews_table(self.previews))
        if self.failed:
            parts.append("## Not measured\n\n" + "\n".join(self.failed) + "\n")
        parts += [f"## `python {command}`\n\n```\n{output.strip()}\n```\n" for command, output in self.texts]
        self.options.out.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.options.out / f"{self.name}.md") as temporary:
            temporary.write_text("\n".join(parts), encoding="utf-8")
        with atomic_write(self.options.out / f"{self.name}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(one) + "\n" for one in (*self.steps, *self.previews)), "utf-8")


def own() -> dict[str, str]:
    """The environment, with this source tree first: the package need not be installed."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def previews_table(previews: Sequence[dict[str, Any]]) -> str:
    """Seconds of previews."""
    text = "## Previews\n\n| mode | base | audio frames | sampling steps | sampling s | decoding s |\n"
    text += "|---|---|---:|---:|---:|---:|\n"
    for took in previews:
        how = " ".join([took["mode"], *took["options"]])
        text += f"| {how} | {took['base']} | {took['audio_tokens']} | {took['sampling_steps']} | "
        text += f"{took['sampling_seconds']:.2f} | {took['decoding_seconds']:.2f} |\n"
    return text


def make_tones(folder: Path) -> None:
    """Four clips of a second."""
    folder.mkdir()
    seconds = np.arange(48_000) / 48_000
    for hertz in (220, 330, 440, 550):
        tone = 0.3 * np.sin(2 * np.pi * hertz * seconds) * np.exp(-3 * seconds)
        write_wav(folder / f"{hertz}.wav", Waveform(np.stack([tone, tone]).astype(np.float32), 48_000))
        (folder / f"{hertz}.txt").write_text(f"a tone of {hertz} hertz")


def selftest(series: Series, dtype: str) -> None:
    """The networks against the reference outputs."""
    files = ["--checkpoint", str(GOLDEN / "ltx23-golden.safetensors"), "--cases", str(GOLDEN / "cases.safetensors")]
    series.text("-m", "sonolora", "selftest", *files, "--device", series.options.device, "--dtype", dtype)


def full_series(series: Series) -> list[Callable[[], object]]:
    """In the order of what is wanted most: what the time does not suffice for is left out at the end."""
    step, preview = partial(series.bench, "step"), partial(series.bench, "preview")
    device = series.options.device
    return [
        partial(series.text, "-m", "sonolora", "env"),
        partial(selftest, series, "bfloat16"),
        partial(selftest, series, "float32"),
        partial(step, f"{FULL} --mode t2a --plain"),
        partial(step, f"{FULL} --mode t2a --cuda-graph"),
        partial(series.real_runs, "--deterministic", "--cuda-graph", resumed=False),
        partial(step, f"{FULL} --mode t2a --compile"),
        partial(series.text, "bench/start_up.py", "--device", device),
        partial(step, f"{FULL} --mode v2a"),
        partial(preview, f"{FULL} --mode t2a --seconds 5"),
        partial(preview, f"{FULL} --mode t2a --seconds 5 --cuda-graph"),
        partial(series.real_runs, "--deterministic", resumed=True),
        partial(step, f"{FULL} --mode t2a --deterministic"),
        partial(step, f"{FULL} --mode t2a --compile --cuda-graph"),
        partial(step, f"{FULL} --mode v2a --v2a-video frozen-cached --cuda-graph"),
        partial(step, f"{FULL} --mode v2a --gradient-checkpointing"),
        partial(step, f"{FULL} --mode t2a --block-offload"),
        partial(step, f"{FULL} --mode t2a --weights int8"),
        partial(step, f"{FULL} --mode t2a --weights nf4"),
        partial(step, f"{FULL} --mode t2a --batch-size 4 --cuda-graph"),
        partial(series.real_runs, resumed=False),
        partial(preview, f"{FULL} --mode v2a --seconds 5 --cuda-graph"),
        partial(step, f"{FULL} --mode a2a --cuda-graph"),
        partial(step, f"{FULL} --mode audio-inpaint --cuda-graph"),
        partial(versus_diffusers, series, "ltx-2.3"),
        partial(step, f"{FULL} --mode v2a --block-offload"),
        partial(step, f"{FULL} --mode t2a --gradient-checkpointing"),
    ]


def quick_series(series: Series) -> list[Callable[[], object]]:
    """One of each kind, on the embedded base."""
    step, preview = partial(series.bench, "step"), partial(series.bench, "preview")
    start = ["--layers", "1", "--text-layers", "0", "--no-step", "--device", series.options.device]
    return [
        partial(series.text, "-m", "sonolora", "env"),
        partial(selftest, series, "float32"),
        partial(step, f"{SMALL} --mode t2a --plain"),
        partial(step, f"{SMALL} --mode v2a"),
        partial(step, f"{SMALL} --mode t2a --deterministic"),
        partial(series.text, "bench/start_up.py", *start),
        partial(preview, f"{SMALL} --mode t2a"),
        partial(series.real_runs, "--deterministic", resumed=True),
    ]


def versus_diffusers(series: Series, size: str) -> None:
    """Needs the packages of the extra `dev`."""
    rounds = str(max(2, series.options.steps))
    series.text(
        "bench/audio_step_vs_diffusers.py", "--sizes", size, "--rounds", rounds, "--device", series.options.device
    )


def main() -> None:
    """Run the series; the page is written as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--quick", action="store_true", help="few steps of small shapes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when to end, whatever is left")
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds after which one line is given up")
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--name", help="of the page; by default the device's")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA card here: give --quick for the same series in small")
    on_card = torch.cuda.is_available() and options.device != "cpu"
    device = torch.device("cuda" if options.device in ("auto", "cuda") else options.device) if on_card else "cpu"
    name = options.name or re.sub(r"[^a-z0-9]+", "-", device_name(torch.device(device)).lower()).strip("-")
    series = Series(options, time.monotonic() + 60 * options.minutes, name)
    for measure in (quick_series if options.quick else full_series)(series):
        try:
            measure()
        except (OSError, ValueError, KeyError) as error:  # of one line; the others go on
            series.failed.append(f"- {type(error).__name__}: {error}")
            series.write()
    print(options.out / f"{name}.md")
    if not (series.steps or series.texts):
        raise SystemExit("nothing could be measured")


if __name__ == "__main__":
    main()
