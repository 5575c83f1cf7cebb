"""Everything about speed and memory that is worth measuring on a card, at the full shape of LTX-2.3, in 25 minutes.

    python bench/gpu.py --out bench/results            on a machine with a CUDA card: writes results/CARD.md
    python bench/gpu.py --quick --out /tmp/results     the same series in small, on any machine

Nothing need be downloaded: weights are random. Every line is a process of its own, a `sonolora bench` command that can
be run alone; one that fails is written down with the reason, and the others go on. At the end our step is compared with
that of diffusers, where the packages of the extra `dev` are: CARD-vs-diffusers.md. No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sonolora.core.atomic_files import atomic_write
from sonolora.planning.bench.results_page import page

MINUTES = 25
VS_DIFFUSERS = Path(__file__).with_name("audio_step_vs_diffusers.py")
# Most important first: when time runs out, the rest is skipped.
STEPS = (
    "--mode all --plain",
    "--mode all --cuda-graph",
    "--mode t2a --compile",
    "--mode t2a --compile --cuda-graph",
    "--mode v2a --compile --cuda-graph",
    "--mode t2a --gradient-checkpointing",
    "--mode v2a --gradient-checkpointing",
    "--mode v2a --v2a-video frozen-cached",
    "--mode v2a --v2a-video frozen-cached --cuda-graph",
    "--mode t2a --batch-size 2",
    "--mode t2a --batch-size 4",
    "--mode t2a --batch-size 4 --cuda-graph",
    "--mode t2a --weights int8",
    "--mode t2a --weights nf4",
    "--mode t2a --block-offload",
    "--mode v2a --block-offload",
)
PREVIEWS = (
    "--mode t2a --seconds 5",
    "--mode t2a --seconds 5 --cuda-graph",
    "--mode t2a --seconds 5 --cuda-graph --compile",
    "--mode v2a --seconds 5 --cuda-graph",
)
FULL = "--base ltx-2.3"
SMALL = "--base tiny --seconds 0.5 --resolution low"
QUICK_STEPS = (
    f"{SMALL} --mode all --plain",
    f"{SMALL} --mode t2a --batch-size 2",
    f"{SMALL} --mode t2a --batch-size 4",
    f"{SMALL} --mode t2a --gradient-checkpointing",
    f"{SMALL} --mode t2a --weights nf4",
    "--base ltx-2.3 --layers 1 --seconds 0.5 --mode t2a --plain",
)
QUICK_PREVIEWS = (f"{SMALL} --mode t2a",)


def run(command: Sequence[str], deadline: float) -> str | None:
    """Why a command did not come to its end, if so."""
    left = deadline - time.monotonic()
    if left <= 0:
        return "not run: the time was up"
    print("$ python", *command, flush=True)
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        return "stopped: the time was up"
    print(done.stdout, done.stderr, sep="", flush=True)
    return f"failed: {(done.stderr.strip() or 'without a word').splitlines()[-1]}" if done.returncode else None


def measure(command: Sequence[str], deadline: float) -> list[dict[str, Any]] | str:
    """The records of one `sonolora bench` command, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        if fault := run(["-m", "sonolora", "bench", *command, "--json", str(record)], deadline):
            return fault
        found = json.loads(record.read_text())
    return found if isinstance(found, list) else [found]


def series(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """What is measured, and the arguments of `sonolora bench` for it."""
    steps = QUICK_STEPS if options.quick else [f"{FULL} {line}" for line in STEPS]
    previews = QUICK_PREVIEWS if options.quick else [f"{FULL} {line}" for line in PREVIEWS]
    yield from (("step", f"step {line} --steps {options.steps} --device {options.device}".split()) for line in steps)
    yield from (("preview", f"preview {line} --device {options.device}".split()) for line in previews)


def main() -> None:
    """Run the series and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    parser.add_argument("--quick", action="store_true", help="few steps of small shapes")
    parser.add_argument("--steps", type=int, default=20, help="steps that are measured")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--name", help="of the page; by default the device's")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA card here: give --quick for the same series in small")
    deadline = time.monotonic() + 60 * MINUTES
    steps: list[dict[str, Any]] = []
    previews: list[dict[str, Any]] = []
    failed: list[str] = []
    for kind, command in series(options):
        found = measure(command, deadline)
        if isinstance(found, str):
            failed.append(f"- `sonolora bench {' '.join(command)}`: {found}")
        else:
            (steps if kind == "step" else previews).extend(found)
    if not steps:
        raise SystemExit("\n".join(["nothing could be measured:", *failed]))
    text = page(" ".join(["python bench/gpu.py", *sys.argv[1:]]), steps)
    if previews:
        text += "\n## Previews\n\n| mode | base | audio frames | sampling steps | sampling s | decoding s |\n"
        text += "|---|---|---:|---:|---:|---:|\n"
    for took in previews:
        how = " ".join([took["mode"], *took["options"]])
        text += f"| {how} | {took['base']} | {took['audio_tokens']} | {took['sampling_steps']} | "
        text += f"{took['sampling_seconds']:.2f} | {took['decoding_seconds']:.2f} |\n"
    name = options.name or re.sub(r"[^a-z0-9]+", "-", steps[0]["device"].lower()).strip("-")
    options.out.mkdir(parents=True, exist_ok=True)
    compared = ["--sizes", "tiny" if options.quick else "ltx-2.3", "--rounds", str(max(2, options.steps))]
    compared += ["--device", options.device, "--out", str(options.out / f"{name}-vs-diffusers.md")]
    if fault := run([str(VS_DIFFUSERS), *compared], deadline):
        failed.append(f"- `{VS_DIFFUSERS.name}`: {fault}")
    if failed:
        text += "\n## Not measured\n\n" + "\n".join(failed) + "\n"
    with atomic_write(options.out / f"{name}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(options.out / f"{name}.md")


if __name__ == "__main__":
    main()
