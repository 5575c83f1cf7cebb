"""The results of `sonolora bench` as text: a table for a terminal, and a page to keep.

In: `Measurement`s as JSON, so that those of several processes can be shown together. Out: lines of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sonolora.planning.bench.step_time import WHOLE

Record = Mapping[str, Any]

_HEAD = (
    "| mode | options | batch | ms a step | fastest to slowest | ms a clip | GFLOP | of the limit | operations | "
    "peak GB | computed GB | plain loop |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)
_LEGEND = """\
Random weights and examples of the right shapes, made on the device. ms: median of {steps} steps. Of the limit: the time
that the FLOPs and the fewest bytes of the phases take at the ceilings measured in the same process, as a share of the
time of the step. Operations: {operations} of one step. Peak: with weights, adapters, moments and one example, from the
allocator; computed: the same from the function with which `sonolora estimate` decides what fits. Plain loop: the time
of a plain PyTorch loop around the model's loss, as a multiple of ours, in alternating steps. On a busy machine the
times of different lines cannot be compared; the plain loop of a line can, as far as a few steps show."""


def table(record: Record) -> str:
    """One measurement, for people."""
    limits = record["limits"]
    tokens = f"{record['audio_tokens']} audio frames"
    tokens += f" + {record['reference_tokens']} of reference" if record["reference_tokens"] else ""
    tokens += f" + {record['video_tokens']} of video" if record["video_tokens"] else ""
    lines = [
        f"{record['steps']} training steps of {record['mode']} on {record['base']}: batch {record['batch_size']}, "
        f"rank {record['rank']}{''.join(f', {option}' for option in record['options'])}; random weights",
        f"{record['device']}, {record['dtype']}, CPU threads: {record['threads']}, torch {record['versions']['torch']}",
        f"tokens      {tokens} + {record['text_tokens']} text tokens",
        f"parameters  {record['frozen_parameters']:,} frozen, {record['trained_parameters']:,} trained",
        f"limits      {limits['flops_per_second'] / 1e9:,.0f} GFLOP/s in a large matrix product, "
        f"{limits['bytes_per_second'] / 1e9:,.1f} GB/s in a large copy",
        f"memory      {record['peak_bytes'] / 1e9:,.3f} GB peak, {record['computed_bytes'] / 1e9:,.3f} GB computed",
        f"operations  {record['operations']:,} a step",
    ]
    if plain := record["plain"]:
        lines.append(f"plain loop  {plain['median_ms']:.2f} ms, {plain['times_as_long']:.3f} times ours")
    lines += ["", f"{'':<9}{'median ms':>10}{'min':>9}{'max':>9}{'GFLOP':>10}{'MB':>10}{'floor ms':>10}{'reached':>9}"]
    for name, phase in record["phases"].items():
        lines.append(
            f"{name:<9}{phase['median_ms']:>10.2f}{phase['min_ms']:>9.2f}{phase['max_ms']:>9.2f}"
            f"{phase['flops'] / 1e9:>10.2f}{phase['least_bytes'] / 1e6:>10.1f}{phase['floor_ms']:>10.2f}"
            f"{phase['share']:>9.1%}"
        )
    return "\n".join(lines)


def page(command: str, records: Sequence[Record]) -> str:
    """The results of one command on one device, a section for each base."""
    first = records[0]
    parts = [
        f"# The training step on {first['device']}",
        f"    {command}",
        f"sonolora {first['versions']['sonolora']}, torch {first['versions']['torch']}, Python "
        f"{first['versions']['python']}, {first['dtype']}, CPU threads: {first['threads']}.",
    ]
    for base in dict.fromkeys(record["base"] for record in records):
        parts += [*_section(base, [record for record in records if record["base"] == base])]
    kind = "kernels and copies" if first["dtype"] == "bfloat16" else "operations of torch"
    parts.append(_LEGEND.format(steps=first["steps"], operations=kind))
    return "\n\n".join(parts) + "\n"


def _section(base: str, records: Sequence[Record]) -> Iterator[str]:
    best = max(record["limits"]["flops_per_second"] for record in records)
    copied = max(record["limits"]["bytes_per_second"] for record in records)
    yield f"## {base}, rank {records[0]['rank']}"
    yield f"Ceilings: {best / 1e12:,.3g} TFLOP/s in a large matrix product, {copied / 1e9:,.4g} GB/s in a large copy."
    yield "\n".join([_HEAD, *map(_row, records)])


def _row(record: Record) -> str:
    step, plain = record["phases"][WHOLE], record["plain"]
    cells = (
        record["mode"],
        " ".join(record["options"]),
        record["batch_size"],
        f"{step['median_ms']:,.1f}",
        f"{step['min_ms']:,.1f} to {step['max_ms']:,.1f}",
        f"{step['median_ms'] / record['batch_size']:,.1f}",
        f"{step['flops'] / 1e9:,.1f}",
        f"{step['share']:.0%}",
        f"{record['operations']:,}",
        f"{record['peak_bytes'] / 1e9:,.3f}",
        f"{record['computed_bytes'] / 1e9:,.3f}",
        "" if plain is None else f"{plain['times_as_long']:.3f}",
    )
    return f"| {' | '.join(map(str, cells))} |"
