"""`sonolora bench step` on the embedded base: its counts against those that follow from the model's shape."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.bench.results_page import page
from sonolora.planning.bench.step_time import PHASES, WHOLE, measure_step
from sonolora.planning.bench.synthetic import synthetic_model
from sonolora.planning.needs import training_step
from sonolora.planning.run_settings import RunSettings

RANK, BATCH, FRAMES, TEXT = 8, 2, 26, 128  # 1 s is 26 latent frames


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "step.json"
    options = (
        f"--base tiny --device cpu --rank {RANK} --seconds 1 --batch-size {BATCH} --steps 2 --plain --json".split()
    )
    done = CliRunner().invoke(app, ["bench", "step", *options, str(file)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, json.loads(file.read_text())


@pytest.fixture(scope="module")
def record(run):
    return run[1]


@pytest.fixture(scope="module")
def model():
    return load_transformer(find_base("tiny").checkpoint, video=False, device=torch.device("cpu"), dtype=torch.float32)


def adapted_layers(model):
    """(tokens, in, out, whether a gradient flows into the input) of every adapted layer."""
    width, text_width = model.config.audio.width, model.config.audio.context_dim
    for block in range(model.config.layers):
        # Before the first block nothing is trained, and the text is given.
        yield from [(FRAMES, width, width, block > 0)] * 3
        yield from [(FRAMES, width, width, True)] * 3
        yield from [(TEXT, text_width, width, False)] * 2
        yield from [(FRAMES, width, 4 * width, True), (FRAMES, 4 * width, width, True)]


def test_parameters_are_the_models(record, model):
    assert record["frozen_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert record["trained_parameters"] == sum(RANK * (before + after) for _, before, after, _ in adapted_layers(model))
    assert (record["audio_tokens"], record["text_tokens"]) == (FRAMES, TEXT)


def test_flops_follow_from_the_shapes(record, model):
    """Adapted layers and attention are counted here; what is left out (gates, timesteps, both ends) is 5 % at most."""
    forward = backward = 0
    for tokens, before, after, into_input in adapted_layers(model):
        product, low = 2 * tokens * before * after, 2 * tokens * RANK * (before + after)
        forward += product + low
        backward += into_input * product + low  # into the input, and into both factors
        backward += 2 * tokens * RANK * (after + into_input * before)  # through both factors
    scores = 2 * FRAMES * (FRAMES + TEXT) * model.config.audio.width * model.config.layers
    expected = {"forward": forward + 2 * scores, "backward": backward + 5 * scores, "update": 0}
    for phase, flops in expected.items():
        assert BATCH * flops <= record["phases"][phase]["flops"] <= 1.05 * BATCH * flops, phase


def test_bytes_are_those_of_weights_and_moments(record, model):
    frozen, trained = (4 * record[f"{kind}_parameters"] for kind in ("frozen", "trained"))
    phases = record["phases"]
    assert phases["forward"]["least_bytes"] == frozen + trained
    assert phases["update"]["least_bytes"] == 7 * trained
    again = sum(4 * before * after for _, before, after, into_input in adapted_layers(model) if into_input)
    assert again + trained < phases["backward"]["least_bytes"] < 1.1 * (again + 2 * trained)


def test_the_whole_is_the_sum_of_its_phases(record):
    phases, limits = record["phases"], record["limits"]
    for name in ("flops", "least_bytes", "floor_ms"):
        assert phases[WHOLE][name] == pytest.approx(sum(phases[phase][name] for phase in PHASES))
    for phase in PHASES:
        seconds = (
            phases[phase]["flops"] / limits["flops_per_second"],
            phases[phase]["least_bytes"] / limits["bytes_per_second"],
        )
        assert phases[phase]["floor_ms"] == pytest.approx(1000 * max(seconds))


def test_times_and_shares_make_sense(record):
    for phase in record["phases"].values():
        assert 0 < phase["min_ms"] <= phase["median_ms"] <= phase["max_ms"]
        assert phase["share"] == pytest.approx(phase["floor_ms"] / phase["median_ms"])
    assert 0 < record["phases"][WHOLE]["share"] < 1.05


def test_the_table_shows_every_phase(run):
    shown, record = run
    for name, phase in record["phases"].items():
        assert any(line.split()[:2] == [name, f"{phase['median_ms']:.2f}"] for line in shown.splitlines()), name


def test_memory_is_what_was_computed(record):
    assert record["peak_bytes"] == pytest.approx(record["computed_bytes"], rel=0.01)


def test_every_adapted_layer_takes_its_operations(record, model):
    """At least two products and a sum forward, four products backward, and one operation of AdamW for each factor."""
    assert record["operations"] > (3 + 4 + 2) * len(list(adapted_layers(model)))


def test_the_plain_loop_computes_as_much(record):
    """It has the same forward and backward pass; what it lacks is small."""
    assert 0.3 < record["plain"]["times_as_long"] < 3


def test_fewer_layers_of_the_full_shape():
    """Nothing of ltx-2.3 is here. With one layer its step has the FLOPs that follow from the published widths."""
    shape = BaseShape.find("ltx-2.3").with_layers(1)
    request = parse(MODES["t2a"].request, {"training_data_url": "x", "audio_duration_seconds": 0.5})
    measured = measure_step(shape, MODES["t2a"], request, RunSettings(device="cpu"), rank=8, steps=1)
    assert measured.base == "ltx-2.3 with 1 of its 48 layers"
    width, tokens, text = 2048, measured.audio_tokens, 1024
    products = 2 * width * width * (tokens * (4 + 2 + 8) + text * 2)
    assert products < measured.phases["forward"].flops < 1.2 * products
    written = page("sonolora bench step", [asdict(measured)])
    assert "## ltx-2.3 with 1 of its 48 layers, rank 8" in written
    assert f"| {measured.phases[WHOLE].median_ms:,.1f} |" in written


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_quantised_weights_are_no_zeros(weights):
    """They have the spread of those that are not quantised."""
    shape, mode = BaseShape.find("tiny"), MODES["t2a"]
    request = parse(mode.request, {"training_data_url": "x"})
    step = training_step(mode, request, RunSettings(device="cpu", weights=weights))
    model = synthetic_model(shape, 1, step, torch.device("cpu"))
    assert model.transformer_blocks[0].audio_attn1.to_q.weight.std() == pytest.approx(0.02, rel=0.05)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="tiny has 6 layers, not 7"):
        BaseShape.find("tiny").with_layers(7)
    with pytest.raises(SonoloraError, match="--cuda-graph needs a CUDA device"):
        RunSettings(device="cpu", cuda_graph=True).place()
