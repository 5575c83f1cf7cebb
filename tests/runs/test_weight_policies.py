"""Ways to hold the base in less memory: what is counted for them, when a run is told of them, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from run_support import StopsAt, begin
from typer.testing import CliRunner

from sonolora.cli.main import app
from sonolora.core.cancellation import InterruptedRunError
from sonolora.core.errors import InputError, SonoloraError
from sonolora.ltx.memory import block_offload as streaming
from sonolora.ltx.memory.weight_policy import TABLE, WeightPolicy
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.modes.t2a import T2A
from sonolora.planning import memory_fit as fit
from sonolora.planning import work_counts as counts
from sonolora.planning.base_shape import BaseShape
from sonolora.planning.memory_fit import does_not_fit
from sonolora.planning.needs import Needs, Stage
from sonolora.planning.run_settings import RunSettings
from sonolora.planning.work_counts import Step, Tokens, step_bytes, step_flops
from sonolora.server.settings import load_settings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
_SMALLER = "It would fit with --gradient-checkpointing, or --weights int8, or --block-offload,"
HOLDINGS = [WeightPolicy("int8"), WeightPolicy(gradient_checkpointing=True), WeightPolicy("nf4", offloaded=True)]


@pytest.mark.parametrize("policy", [pytest.param(HOLDINGS[0], marks=pytest.mark.slow), *HOLDINGS[1:]], ids=str)
def test_a_step_takes_what_was_counted(base, shape, policy, monkeypatch, takes_what_was_counted):
    """Weights, what is kept for the backward pass, and FLOPs, against a real step."""
    slots: list[torch.Tensor] = []
    make = streaming._OffloadedBlocks.__init__

    def made(self, *arguments):
        make(self, *arguments)
        slots.extend(tensor for slot in self.slots for tensor in slot)

    monkeypatch.setattr(streaming._OffloadedBlocks, "__init__", made)
    model = load_transformer(base.checkpoint, video=False, device=CPU, dtype=torch.float32, policy=policy)
    tables = [one for name, one in model.transformer_blocks.named_parameters() if TABLE in name]
    blocks = [one for one in tensors(model.transformer_blocks) if all(one is not table for table in tables)]
    if policy.offloaded:
        device = [tensor for tensor in tensors(model) if all(tensor is not one for one in blocks)] + slots
        assert shape.offloaded_bytes(torch.float32, video=False, policy=policy) == size(blocks)
    else:
        device = list(tensors(model))
        assert shape.offloaded_bytes(torch.float32, video=False, policy=policy) == 0
    assert shape.transformer_bytes(torch.float32, video=False, policy=policy) == size(device)

    takes_what_was_counted(model, Step(T2A.lora_targets, 4, Tokens(26), policy=policy))


def tensors(module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def size(found):
    return sum(tensor.nbytes for tensor in found)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [6, 5, 3, 1])
def test_checkpointed_blocks_are_extrapolated(monkeypatch, blocks):
    """The peak of all six layers, and that of a few of either kind extrapolated to them."""
    shape = BaseShape.find("tiny")
    step = Step(T2A.lora_targets, 4, Tokens(26), policy=WeightPolicy("int8", checkpointed_blocks=blocks))
    extended = step_bytes(shape, step, "cuda")
    monkeypatch.setattr(counts, "_COUNTED", 6)
    monkeypatch.setattr(counts, "_COUNTED_RECOMPUTED", 6)
    assert step_bytes(replace(shape, fingerprint="whole"), step, "cuda") == extended


@pytest.mark.slow
def test_each_checkpointed_block_keeps_less_and_costs_a_pass_more():
    shape, policies = BaseShape.find("tiny"), [WeightPolicy(checkpointed_blocks=blocks) for blocks in (0, 3, 6)]
    steps = [Step(T2A.lora_targets, 4, Tokens(126), policy=policy) for policy in policies]
    none, half, every = [step_bytes(shape, step, "cpu") for step in steps]
    assert every.activations < half.activations < none.activations and every.peak < half.peak < none.peak
    assert abs(none.activations + every.activations - 2 * half.activations) < 0.01 * none.activations
    none, half, every = [step_flops(shape, step, "cpu").whole for step in steps]
    assert none < half < every and none + every == 2 * half


SMALLER = {"full": 0, "int8": 20, "fp8": 20, "nf4": 30}


def counted(shape, mode, request, settings, device):  # noqa: ARG001
    """A base of 40 and a step of 60, of which 20 grow with the rank; three blocks computed again spare 10 each."""
    base = 40 - SMALLER[settings.weights]
    held = base // 10 if settings.block_offload else base
    step = settings.batch_size * (40 + 20 * request.rank // 32 - 10 * settings.policy.recomputed(3))
    waiting = base - held if settings.block_offload else 0
    return Needs(None, 0, (Stage("training", {"transformer": held}, step),), None, 0, 0, host_bytes=waiting)


def told(monkeypatch, room, host=1000, settings=None, **changed):
    monkeypatch.setattr(fit, "count_needs", counted)
    monkeypatch.setattr(fit, "available_bytes", lambda _: host)
    settings = settings or RunSettings()
    request = parse(T2A.request, {"training_data_url": "a", "rank": 32, "audio_duration_seconds": 0.5, **changed})
    needs = counted(None, T2A, request, settings, CUDA)
    shape = SimpleNamespace(transformer_config=SimpleNamespace(layers=3))
    return does_not_fit(shape, T2A, request, settings, CUDA, needs, room)


@pytest.mark.parametrize(
    ("room", "kind", "words"),
    [
        (
            90,
            InputError,
            "It would fit with --checkpointed-blocks 1, or --weights int8, or --block-offload, or rank = 16",
        ),
        (
            85,
            InputError,
            "It would fit with --checkpointed-blocks 2, or --weights int8, or --block-offload, or rank = 8",
        ),
        (75, SonoloraError, "It would fit with --gradient-checkpointing, or --weights nf4, or --block-offload"),
        (40, SonoloraError, "It would fit with --block-offload"),
        (32, SonoloraError, "It would fit with --weights int8 --block-offload"),
        (31, SonoloraError, "It would fit with --weights nf4 --block-offload"),
        (25, InputError, "It would fit with --block-offload, rank = 8 together"),
        (10, SonoloraError, "No setting makes it fit: with --weights nf4 --block-offload, rank = 8, training needs"),
    ],
)
def test_options_are_named_before_fields_and_the_least_harm_first(monkeypatch, room, kind, words):
    error = told(monkeypatch, room)
    assert type(error) is kind
    assert words in str(error)
    if "No setting" not in words:
        assert str(error).endswith(words)


def test_smaller_batches_are_named(monkeypatch):
    error = told(monkeypatch, 165, settings=RunSettings(batch_size=4))
    assert str(error).endswith("with --gradient-checkpointing, or --batch-size 2, or --block-offload")


def test_no_option_is_named_that_is_given(monkeypatch):
    given = RunSettings(weights="int8", gradient_checkpointing=True)
    assert str(told(monkeypatch, 48, settings=given)).endswith("with --weights nf4, or --block-offload, or rank = 16")


def test_blocks_do_not_wait_where_there_is_no_room_for_them(monkeypatch):
    error = told(monkeypatch, 40, host=5)
    assert str(error).endswith("It would fit with --weights nf4 --gradient-checkpointing")


@pytest.mark.parametrize("how", ["cuda_graph", "compile"])
def test_what_cannot_wait_for_blocks_is_not_told_to(monkeypatch, how):
    error = told(monkeypatch, 40, settings=RunSettings(**{how: True}))
    assert str(error).endswith("It would fit with --weights nf4 --gradient-checkpointing")
    with pytest.raises(SonoloraError, match=f"--{how.replace('_', '-')} and --block-offload"):
        RunSettings(**{how: True}, block_offload=True)


def test_blocks_that_come_and_go_are_not_compiled():
    with pytest.raises(ValueError, match="cannot be compiled"):
        WeightPolicy(offloaded=True, compiled=True)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SonoloraError, match=r"--compile: torch.compile needs a C\+\+ compiler.* install one"):
        RunSettings(device="cpu", compile=True).place()


def test_a_server_takes_what_a_run_takes(tmp_path):
    (tmp_path / "server.toml").write_text('weights = "nf4"\nblock_offload = true\nv2a_video = "frozen-cached"\n')
    served = load_settings(tmp_path)
    for name, mode in MODES.items():
        settings = RunSettings(**served.run_settings(name))
        settings.check_mode(mode)
        assert settings.policy == WeightPolicy("nf4", offloaded=True)
        assert settings.one_way_video == mode.video


def test_the_settings_say_what_they_do_not_know():
    with pytest.raises(InputError, match="'int4' is not one of full, int8, fp8, nf4"):
        RunSettings(weights="int4")


def test_a_quantised_run_stops_and_continues_streamed(body, settings, tmp_path):
    """To the very file of a run that is not stopped and has all on the device, and with less on it than it began."""
    nf4 = replace(settings, weights="nf4", preview_every=1000)
    whole = begin("t2a", body, nf4, tmp_path / "whole").read_bytes()
    folder, stops = tmp_path / "stopped", StopsAt(step=10)
    with pytest.raises(InterruptedRunError):
        begin("t2a", body, replace(nf4, gradient_checkpointing=True), folder, stops, stops)
    assert json.loads((folder / "run.json").read_text())["settings"]["gradient_checkpointing"] is True
    go_on = ["train", "--resume", str(folder), "--block-offload", "--device", "cpu"]
    assert CliRunner().invoke(app, go_on, catch_exceptions=False).exit_code == 0
    assert (folder / "lora.safetensors").read_bytes() == whole
    assert Checkpoint.open(folder / "lora.safetensors").metadata["base_weights"] == "nf4"
