"""`sonolora estimate` as its user calls it, on the embedded base and on a base that is not here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from run_support import Silent
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import InputError, SonoloraError
from sonolora.core.frames import frame_count
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_audio
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench import pace
from sonolora.planning.bench.machine_limits import Limits
from sonolora.planning.bench.pace import measure_pace
from sonolora.planning.estimate import Power, estimate
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import Step, Tokens, step_flops

RATE, STEPS, CLIPS = 16000, 150, 3
SLOW, FAST = Limits(1.0, 1.0), Limits(1e15, 1e15)


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
    done = CliRunner().invoke(app, ["estimate", "t2a", str(clips), *options.split()], catch_exceptions=False)
    assert done.exit_code == 0
    assert not (out / "run").exists()
    return done.stdout, json.loads((out / "estimate.json").read_text())


def test_it_counts_the_clips(run):
    shown, record = run
    assert (record["clips"], record["skipped"]) == (CLIPS, 2)  # the short one with its caption
    assert record["needs"]["tokens"]["audio"] == frame_count(0.5)
    assert f"clips     {CLIPS}, each of {frame_count(0.5)} audio" in shown


def test_prices(run):
    _, record = run
    assert record["hosted_price"] == pytest.approx(STEPS * 0.0022)
    hours = (record["training_seconds"] + record["preview_seconds"]) / 3600
    assert record["electricity_price"] == pytest.approx(hours * 0.2 * 0.5)


def test_time_is_that_of_steps_and_looks(run):
    _, record = run
    pace = record["pace"]
    assert not pace["bound"]
    assert 0 < pace["forward"] < pace["step"]
    assert record["training_seconds"] == pytest.approx(STEPS * pace["step"])
    # At steps 0, 50, 100 and 150; each a preview of 30 sampling steps and more than one pass in each.
    assert record["preview_seconds"] > 4 * 30 * 2 * pace["forward"] * 0.5


def test_disk(run):
    _, record = run
    disk = record["disk"]
    adapters = record["needs"]["step"]["adapters"]
    assert disk["LoRA"] == adapters // 2
    assert disk["checkpoints"] == 3 * 3 * adapters
    assert disk["previews"] == 4 * 0.5 * 48000 * 4
    assert disk["cache"] == disk["prepared data"] > 0


def test_every_stage_is_shown(run):
    shown, record = run
    for stage in record["needs"]["stages"]:
        assert any(line.split(None, 1)[:1] == [stage["name"].split()[0]] for line in shown.splitlines()), stage["name"]
        assert stage["peak"] == sum(stage["resident"].values()) + stage["transient"]
    assert record["fits"]


def test_a_base_that_is_not_here(clips, monkeypatch, tmp_path):
    """On a machine without a registered LTX-2.3 its published shape is taken, and its time is a bound on this CPU."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    request = parse(T2A.request, {"training_data_url": str(clips), "audio_duration_seconds": 0.5, "rank": 8})
    found = estimate(
        T2A, request, RunSettings("ltx-2.3", "cpu"), tmp_path / "out", Silent(), Power(100, 1), available=1
    )
    assert found.needs.text_tokens == 1024
    assert found.needs.stages[2].resident["transformer"] == 4 * 3_286_408_320
    assert found.error is None  # on a CPU it is no error


def test_a_card_that_is_not_here(clips, monkeypatch, tmp_path):
    """It is counted as a card computes, held to its memory, and told what would fit; time is not guessed."""
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    given = ["estimate", "t2a", str(clips), "--base", "ltx-2.3", "--audio-duration-seconds", "0.5", "--card", "8"]
    refused = CliRunner().invoke(app, given)
    assert "a card of 8 GB (bfloat16)" in refused.stdout
    assert "transformer 6.57 GB" in refused.stdout
    assert "time      not known of a card that is not here; a step is " in refused.stdout
    assert isinstance(refused.exception, InputError | SonoloraError)
    assert "--stream-blocks" in str(refused.exception)


def test_previews_of_words_alone_where_words_are_enough():
    offered = {mode for mode in MODES if "--prompt" in CliRunner().invoke(app, ["estimate", mode, "--help"]).stdout}
    assert offered == {"t2a"}


def test_half_a_price_is_refused(clips):
    with pytest.raises(InputError, match="go together"):
        CliRunner().invoke(app, ["estimate", "t2a", str(clips), "--watts", "1"], catch_exceptions=False)


def test_pace_of_few_layers_is_near_that_of_all(monkeypatch):
    """Extended from two and four layers, against all six measured."""
    shape, cpu = BaseShape.of(find_base("tiny")), torch.device("cpu")
    monkeypatch.setattr(pace, "machine_limits", lambda *_: FAST)
    whole = measure_pace(shape, Step(T2A.lora_targets, 8, Tokens(126)), cpu)
    monkeypatch.setattr(pace, "_SMALL_BYTES", 0)
    extended = measure_pace(shape, Step(T2A.lora_targets, 8, Tokens(126)), cpu)
    assert "2 and 4 of the 6 layers" in extended.how
    assert 1 / 3 < extended.step / whole.step < 3  # on a machine with other work


def test_what_would_take_too_long_is_bounded(monkeypatch):
    shape = BaseShape.of(find_base("tiny"))
    monkeypatch.setattr(pace, "machine_limits", lambda *_: SLOW)
    step = Step(T2A.lora_targets, 8, Tokens(14))
    found = measure_pace(shape, step, torch.device("cpu"))
    assert found.bound
    assert "not measured" in found.how
    assert found.step == step_flops(shape, step, "cpu").whole / SLOW.flops_per_second
