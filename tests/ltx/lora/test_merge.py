"""Baking LoRAs into a checkpoint: what changes, what does not, and what it sounds like."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolora.core.errors import CheckpointError, InputError
from sonolora.core.randomness import normal
from sonolora.ltx.lora import merge as module
from sonolora.ltx.lora.adapters import add_adapters, save_lora
from sonolora.ltx.lora.lora_file import open_lora
from sonolora.ltx.lora.lora_stack import apply_lora
from sonolora.ltx.lora.lora_targets import AUDIO_TARGETS
from sonolora.ltx.lora.merge import merge
from sonolora.ltx.model.transformer import PREFIX, Stream, load_transformer
from sonolora.ltx.weights.checkpoint import Checkpoint

CPU = torch.device("cpu")
LAYER = "transformer_blocks.0.audio_attn1.to_q"


@pytest.fixture
def lora(transformer, tmp_path):
    """As after training, but for one layer that was never moved."""
    adapters = add_adapters(transformer, AUDIO_TARGETS, 8, seed=0)
    for name, matrix in adapters.matrices(adapters.flat.data).items():
        if name.endswith("lora_B") and not name.startswith(f"{LAYER}."):
            matrix.copy_(0.02 * normal(tuple(matrix.shape), "B", name))
    save_lora(tmp_path / "lora.safetensors", adapters, {"mode": "t2a", "trigger_phrase": "f0ley", "seed": "1"})
    return open_lora(tmp_path / "lora.safetensors")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "merged.safetensors"


def data_of(path):
    checkpoint = Checkpoint.open(path)
    data = path.read_bytes()
    return {name: data[info.start : info.end] for name, info in checkpoint.tensors.items()}


def test_weights_are_the_rounded_sum_and_all_else_is_bit_for_bit(checkpoint, lora, out):
    report = merge(checkpoint, [(lora, 0.5)], out)
    before, after = load_file(checkpoint.path), load_file(out)
    changed = {f"{PREFIX}{name}.weight" for name in lora.layers if name != LAYER}
    assert report.layers == len(changed) == 29
    errors = []
    for name in changed:
        down, up = lora.read_pair(name.removeprefix(PREFIX).removesuffix(".weight"))
        exact = before[name].double() + 0.5 * up.double() @ down.double()
        assert after[name].dtype == before[name].dtype == torch.bfloat16
        torch.testing.assert_close(after[name].double(), exact, rtol=2**-8, atol=1e-7)
        errors.append((after[name].double() - exact).flatten())
    old, new = data_of(checkpoint.path), data_of(out)
    assert {name for name in old if old[name] != new[name]} == changed
    whole = torch.cat([before[name].double().flatten() for name in changed]).norm()
    assert report.rounding == pytest.approx(float(torch.cat(errors).norm() / whole), rel=1e-3)
    assert report.rounding_of_change == pytest.approx(report.rounding / report.change, rel=1e-6)
    assert 0 < report.rounding < 2**-8 < report.change


def test_header_is_the_same_but_for_the_record(checkpoint, lora, out):
    merge(checkpoint, [(lora, 1.0), (lora, -0.25)], out)
    with safe_open(checkpoint.path, "pt") as before, safe_open(out, "pt") as after:
        old, new = before.metadata(), after.metadata()
    record = json.loads(new.pop("merged_loras"))
    assert new == old
    assert [entry["strength"] for entry in record] == [1.0, -0.25]
    assert record[0].items() >= {"file": "lora.safetensors", "mode": "t2a", "trigger_phrase": "f0ley"}.items()
    table, same = (Checkpoint.open(path).tensors for path in (out, checkpoint.path))
    assert list(table) == list(same)
    assert Checkpoint.open(out).fingerprint() != checkpoint.fingerprint()


def test_a_second_merge_adds_to_the_record(checkpoint, lora, out):
    merge(checkpoint, [(lora, 1.0)], out)
    merge(Checkpoint.open(out), [(lora, 2.0)], out.with_name("twice.safetensors"))
    record = Checkpoint.open(out.with_name("twice.safetensors")).metadata["merged_loras"]
    assert [entry["strength"] for entry in record] == [1.0, 2.0]


def test_merged_checkpoint_sounds_like_base_and_lora(checkpoint, lora, out, cases):
    """Within 0.5 % of the output's size, where the LoRA moves it by over 2 %: only rounding to bfloat16 is lost."""
    merge(checkpoint, [(lora, 1.0)], out)
    positions = cases["audio_positions_seconds"].mean(-1)
    stream = Stream(cases["audio_latents"], positions, cases["audio_only.audio_sigma"], cases["audio_context"])

    def run(path, *loras):
        model = load_transformer(Checkpoint.open(path), video=False, device=CPU, dtype=torch.float32)
        for each in loras:
            apply_lora(model, each, 1.0)
        return model(stream)[0]

    base, wanted, merged = run(checkpoint.path), run(checkpoint.path, lora), run(out)
    assert (wanted - base).norm() > 0.02 * base.norm()
    assert (merged - wanted).norm() < 0.005 * wanted.norm()


def test_two_loras_add_up_and_cancel(checkpoint, lora, out):
    merge(checkpoint, [(lora, 1.0), (lora, -1.0)], out)
    old, new = load_file(checkpoint.path), load_file(out)
    for name in old:
        torch.testing.assert_close(new[name], old[name], rtol=2**-7, atol=1e-6)


def test_rows_are_merged_alike_wherever_they_are_split(checkpoint, lora, out, monkeypatch):
    merge(checkpoint, [(lora, 1.0)], out)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 3 * 64)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 1000)
    progress = []
    other = out.with_name("other.safetensors")
    merge(checkpoint, [(lora, 1.0)], other, progress=lambda done, total: progress.append((done, total)))
    one, two = load_file(out), load_file(other)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2**-7, atol=1e-6)
    assert {total for _, total in progress} == {checkpoint.path.stat().st_size}
    assert all(0 < later - earlier <= 1000 for (earlier, _), (later, _) in pairwise(progress)), "in small pieces"
    assert progress[-1][0] == progress[-1][1]


def test_minus_zero_stays_in_a_layer_without_change(lora, rewrite, out):
    base = rewrite({f"{PREFIX}{LAYER}.weight": torch.full((64, 64), -0.0).bfloat16()})
    merge(base, [(lora, 1.0)], out)
    assert data_of(out)[f"{PREFIX}{LAYER}.weight"] == b"\x00\x80" * 64 * 64


@pytest.mark.parametrize("strength", [1e39, float("inf")])
def test_nothing_is_left_of_a_merge_that_fails_halfway(strength, checkpoint, lora, out):
    with pytest.raises(CheckpointError, match="would hold NaN or infinity; nothing was written"):
        merge(checkpoint, [(lora, strength)], out)
    assert not list(out.parent.iterdir())


def test_an_older_file_is_only_replaced_when_told(checkpoint, lora, out):
    out.write_text("precious")
    with pytest.raises(InputError, match="exists; choose another name, or add --overwrite"):
        merge(checkpoint, [(lora, 1.0)], out)
    with pytest.raises(CheckpointError, match="nothing was written"):
        merge(checkpoint, [(lora, 1e39)], out, overwrite=True)
    assert out.read_text() == "precious"
    merge(checkpoint, [(lora, 1.0)], out, overwrite=True)
    assert Checkpoint.open(out).tensors.keys() == checkpoint.tensors.keys()


def test_places_where_it_must_not_be_written(lora, out, rewrite):
    base = rewrite({})

    def refused(path, words):
        with pytest.raises(InputError, match=words):
            merge(base, [(lora, 1.0)], path, overwrite=True)

    refused(base.path, "is one of the input files")
    refused(lora.path, "is one of the input files")
    refused(out.with_suffix(".pt"), r"does not end with \.safetensors")
    refused(out.parent / "no" / "m.safetensors", "does not exist")
    (base.path.parent / "text_encoder").mkdir()
    refused(base.path.with_name("m.safetensors"), "is the folder of a base")


def test_a_lora_that_does_not_fit_is_refused(checkpoint, lora, out, tmp_path):
    halves = {"a.b.lora_A.weight": torch.ones(1, 2), "a.b.lora_B.weight": torch.ones(2, 1)}
    save_file(halves, tmp_path / "strange.safetensors")
    with pytest.raises(CheckpointError, match=r"no layer .* can be used: a\.b: not a layer of LTX-2\.3"):
        merge(checkpoint, [(lora, 1.0), (open_lora(tmp_path / "strange.safetensors"), 1.0)], out)
    assert not out.exists()


def test_what_does_not_fit_is_reported_and_the_rest_is_merged(checkpoint, out, tmp_path):
    """And a layer of the text conditioning is merged like any other."""
    text = "text_embedding_projection.audio_aggregate_embed"
    tensors = {f"{text}.lora_A.weight": torch.ones(1, 120), f"{text}.lora_B.weight": 0.1 * torch.ones(64, 1)}
    tensors |= {f"a.b.lora_{letter}.weight": torch.ones(2, 2) for letter in "AB"}
    save_file(tensors, tmp_path / "text.safetensors")
    report = merge(checkpoint, [(open_lora(tmp_path / "text.safetensors"), 1.0)], out)
    assert (report.layers, report.unused) == (1, [{"a.b": "not a layer of LTX-2.3"}])
    before, after = load_file(checkpoint.path), load_file(out)
    torch.testing.assert_close(after[f"{text}.weight"], (before[f"{text}.weight"].float() + 0.1).bfloat16())


def test_updates_of_other_kinds_are_merged_against_the_original_weight(checkpoint, lora, out, tmp_path):
    """A LoKr with DoRA beside a LoRA on the same layer; both refer to the weight of the checkpoint."""
    layer = "transformer_blocks.1.audio_attn1.to_q"
    factors = {
        "lokr_w1": normal((4, 4), 1),
        "lokr_w2": 0.05 * normal((16, 16), 2),
        "dora_scale": normal((64, 1), 3).abs(),
    }
    save_file(
        {f"lycoris_{layer.replace('.', '_')}.{name}": value for name, value in factors.items()},
        tmp_path / "l.safetensors",
    )
    report = merge(checkpoint, [(lora, 1.0), (open_lora(tmp_path / "l.safetensors"), 0.5)], out)
    assert report.layers == 29
    weight = load_file(checkpoint.path)[f"{PREFIX}{layer}.weight"].double()
    updated = weight + torch.kron(factors["lokr_w1"], factors["lokr_w2"]).double()
    decomposed = factors["dora_scale"].double() * updated / updated.norm(dim=1, keepdim=True)
    down, up = lora.read_pair(layer)
    expected = weight + up.double() @ down.double() + 0.5 * (decomposed - weight)
    torch.testing.assert_close(load_file(out)[f"{PREFIX}{layer}.weight"].double(), expected, rtol=2**-8, atol=1e-6)


def test_a_quantised_layer_is_refused(lora, rewrite, out):
    base = rewrite(
        {f"{PREFIX}transformer_blocks.1.audio_attn1.to_q.weight": torch.ones(64, 64).to(torch.float8_e4m3fn)}
    )
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.1\.audio_attn1\.to_q is stored as F8_E4M3"):
        merge(base, [(lora, 1.0)], out)


def test_an_excerpt_is_refused_unless_it_is_whole(checkpoint, lora, out, tmp_path):
    tensors, excerpt = load_file(checkpoint.path), tmp_path / "excerpt.safetensors"
    with safe_open(checkpoint.path, "pt") as file:
        metadata = {**file.metadata(), "excerpt_of": json.dumps({"file": "whole.safetensors", "fingerprint": "f" * 16})}
    save_file(tensors, excerpt, metadata)
    merge(Checkpoint.open(excerpt), [(lora, 1.0)], out)
    assert "excerpt_of" not in Checkpoint.open(out).metadata
    del tensors["vae.encoder.conv_in.conv.weight"]
    save_file(tensors, excerpt, metadata)
    with pytest.raises(
        CheckpointError, match=r"1 of .* tensors are missing, such as vae\.encoder.*needs the whole file"
    ):
        merge(Checkpoint.open(excerpt), [(lora, 1.0)], out, overwrite=True)
    excerpt.unlink()
    gone = Checkpoint(excerpt, checkpoint.tensors, checkpoint.metadata)
    with pytest.raises(CheckpointError, match="no tensor of this base is on this disk yet"):
        merge(gone, [(lora, 1.0)], out, overwrite=True)
