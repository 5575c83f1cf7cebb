"""`sonolora estimate` as its user calls it, on the embedded base."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import SonoloraError
from sonolora.core.frames import frame_count
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.planning.bench import pace
from sonolora.planning.bench.machine_limits import Limits
from sonolora.planning.estimate import Estimate, estimate

RATE, STEPS, CLIPS = 16000, 150, 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for index, seconds in enumerate((*[0.6] * CLIPS, 0.2)):
        samples = np.random.default_rng(index).normal(0, 0.1, (2, round(seconds * RATE))).astype(np.float32)
        write_audio(folder / f"clip{index}.wav", Waveform(samples, RATE))
        (folder / f"clip{index}.txt").write_text(f"noise number {index}")
    return folder


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("estimate")
    options = (
        f"--base tiny --device cpu --rank 8 --number-of-steps {STEPS} --audio-duration-seconds 0.5 --preview-every 50 "
        f"--prompt bell --watts 200 --price-per-kwh 0.5 --out {out / 'run'} --json {out / 'estimate.json'}"
    )
    results: list[Estimate] = []

    def kept(*arguments, **named):
        results.append(estimate(*arguments, **named))
        return results[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "machine_limits", lambda *_: Limits(1e15, 1e15))  # which takes long to measure
        patch.setattr("sonolora.planning.estimate.estimate", kept)
        done = CliRunner().invoke(app, ["estimate", "t2a", str(clips), *options.split()], catch_exceptions=False)
    assert done.exit_code == 0
    assert not (out / "run").exists()
    return done.stdout, json.loads((out / "estimate.json").read_text()), results[0]


def test_it_counts_the_clips(run):
    shown, record, _ = run
    assert (record["clips"], record["skipped"]) == (CLIPS, 2)  # the short one with its caption
    assert record["needs"]["tokens"]["audio"] == frame_count(0.5)
    assert f"clips     {CLIPS}, each of {frame_count(0.5)} audio" in shown


def test_prices(run):
    _, record, _ = run
    assert record["hosted_price"] == pytest.approx(STEPS * 0.0022)
    parts = "preparation_seconds", "training_seconds", "preview_seconds"
    assert all(record[part] > 0 for part in parts)
    hours = sum(record[part] for part in parts) / 3600
    assert record["electricity_price"] == pytest.approx(hours * 0.2 * 0.5)


def test_time_is_that_of_steps_and_looks(run):
    _, record, _ = run
    pace = record["pace"]
    assert not pace["bound"]
    assert 0 < pace["forward"] < pace["step"]
    assert record["training_seconds"] == pytest.approx(STEPS * pace["step"])
    # At steps 0, 50, 100 and 150; each a preview of 30 sampling steps and more than one pass in each.
    assert record["preview_seconds"] > 4 * 30 * 2 * pace["forward"] * 0.5


def test_disk(run):
    _, record, _ = run
    disk = record["disk"]
    adapters = record["needs"]["step"]["adapters"]
    assert disk["LoRA"] == adapters // 2
    assert disk["checkpoints"] == 3 * 3 * adapters
    assert disk["previews"] == 4 * 0.5 * 48000 * 4
    assert disk["cache"] == disk["prepared data"] > 0


def test_every_stage_is_shown(run):
    shown, record, _ = run
    for stage in record["needs"]["stages"]:
        assert any(line.split(None, 1)[:1] == [stage["name"].split()[0]] for line in shown.splitlines()), stage["name"]
        assert stage["peak"] == sum(stage["resident"].values()) + stage["transient"]
    assert record["fits"]


def test_a_card_that_is_not_here(run, clips, sonolora, monkeypatch):
    """Time is not guessed, cached videos are named, and what does not fit ends as it would with `train`."""
    *_, result = run
    needs = replace(result.needs, examples=3 * 10**8, reserve=10**9, host_bytes=10**9)
    error = SonoloraError("it does not fit cuda: use a larger card")
    there = replace(result, device="a card of 1 GB", dtype="bfloat16", needs=needs, pace=None, error=error)
    monkeypatch.setattr("sonolora.planning.estimate.estimate", lambda *_, **named: named["card"] == 1 and there)
    done = sonolora("estimate", "t2a", clips, "--card", 1)
    assert (done.code, done.err) == (1, "it does not fit cuda: use a larger card\n")
    assert "a card of 1 GB (bfloat16)" in done.out
    assert "time      unknown for a card that is not here; a step is " in done.out
    assert "training examples: 0.30 GB more" in done.out
    assert "blocks offloaded to host memory: 1.00 GB" in done.out
    assert re.search(r"reserve for CUDA +1\.00 GB", done.out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--watts", 1), "price_per_kwh: --watts and --price-per-kwh go together"),
        (("--price-per-kwh", 1), "watts: --watts and --price-per-kwh go together"),
        (("--card", 8, "--watts", 1, "--price-per-kwh", 1), "watts: cannot be used with --card"),
    ],
)
def test_a_price_that_cannot_be_told_is_refused(sonolora, options, message):
    done = sonolora("estimate", "t2a", "x.zip", *options)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
