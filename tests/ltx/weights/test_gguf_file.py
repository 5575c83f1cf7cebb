"""GGUF: the values are those of other implementations, the networks those of the file they came from."""

from __future__ import annotations

import builtins
import json
import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf_forms import as_comfyui, meant, random_blocks, rounded, write_gguf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sonolora.core.errors import CheckpointError
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights import checkpoint as checkpoint_module
from sonolora.ltx.weights import gguf_file
from sonolora.ltx.weights.base import add_base, find_base
from sonolora.ltx.weights.base_scan import scan
from sonolora.ltx.weights.checkpoint import Checkpoint, read_tensors
from sonolora.ltx.weights.comfyui_folders import ModelFolder
from sonolora.ltx.weights.gguf_file import QUANTISED
from sonolora.ltx.weights.parts import TRANSFORMER, open_parts
from sonolora.ltx.weights.stored_tensor import precision_note, stored_precision
from sonolora.ltx.weights.verify import verify
from sonolora.planning.base_shape import BaseShape

CPU, F32, BF16 = torch.device("cpu"), torch.float32, torch.bfloat16
TINY = find_base("tiny")


@pytest.fixture(scope="module")
def weights():
    """Of the transformer and its connectors, without prefix."""
    tensors = load_file(TINY.checkpoint.path)
    return {name.removeprefix(TRANSFORMER): t for name, t in tensors.items() if name.startswith(TRANSFORMER)}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A file with all other parts, and the header."""
    path = tmp_path_factory.mktemp("parts") / "others.safetensors"
    tensors = load_file(TINY.checkpoint.path)
    with safe_open(TINY.checkpoint.path, "pt") as file:
        save_file({n: t for n, t in tensors.items() if not n.startswith(TRANSFORMER)}, path, file.metadata())
    return path


def read(path, dtype=F32):
    checkpoint = Checkpoint.open(path)
    return dict(read_tensors(checkpoint, checkpoint.tensors, device=CPU, dtype=dtype))


@pytest.mark.parametrize("kind", QUANTISED)
def test_values_are_those_of_diffusers(kind, tmp_path, monkeypatch):
    """Any block, not only those that an encoder makes; read in several pieces, the last one shorter."""
    monkeypatch.setattr(checkpoint_module, "_DEQUANTISED_VALUES", 1024)
    blocks = {name: random_blocks(kind, 7, 512, seed) for seed, name in enumerate(("a", "b"))}
    path = write_gguf(tmp_path / "blocks.gguf", blocks, lambda *_: kind)
    for dtype in (F32, BF16):
        found = read(path, dtype)
        for name, tensor in found.items():
            expected = meant(blocks[name], kind, (7, 512))
            assert expected.std() > 1e-3
            assert torch.equal(tensor, expected.to(dtype)), "rounded once"


def halves(block, at):
    return np.float32(struct.unpack("<e", block[at : at + 2])[0])


def k_scales(packed):
    """Scales and minima of the 8 groups: 6 bits each in 12 bytes, the last four of both in two pieces."""
    low = [(packed[i] & 63, packed[i + 4] & 63) for i in range(4)]
    high = [(packed[i + 8] & 15 | packed[i] >> 6 << 4, packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4) for i in range(4)]
    return low + high


def by_hand(kind, block):
    """One block of 256, value by value, from the description of the format."""
    values = []
    for i in range(256):
        group, place = divmod(i, 32)
        if kind == "Q6_K":
            half, within = divmod(i, 128)
            quarter, byte = divmod(within, 32)
            low = block[64 * half + 32 * (quarter % 2) + byte] >> 4 * (quarter // 2) & 15
            high = block[128 + 32 * half + byte] >> 2 * quarter & 3
            scale = struct.unpack("b", block[192 + i // 16 : 193 + i // 16])[0]
            values.append(halves(block, 208) * np.float32(scale) * np.float32((low | high << 4) - 32))
            continue
        scale, minimum = k_scales(block[4:16])[group]
        code = block[(16 if kind == "Q4_K" else 48) + 32 * (group // 2) + place] >> 4 * (group % 2) & 15
        if kind == "Q5_K":
            code |= (block[16 + place] >> group & 1) << 4
        values.append(halves(block, 0) * np.float32(scale) * np.float32(code) - halves(block, 2) * np.float32(minimum))
    return torch.tensor(np.array(values))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_the_formats_of_most_files_by_hand(kind, tmp_path):
    blocks = random_blocks(kind, 2, 256, 3)
    found = read(write_gguf(tmp_path / "blocks.gguf", {"a": blocks}, lambda *_: kind))["a"]
    assert torch.equal(found, torch.stack([by_hand(kind, bytes(row)) for row in blocks.numpy()]))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("F32", 0),
        ("BF16", 0),
        ("F16", 1e-3),
        ("Q8_0", 6e-3),
        ("Q5_1", 0.04),
        ("Q5_0", 0.05),
        ("Q4_1", 0.08),
        ("Q4_0", 0.1),
    ],
)
def test_what_each_type_costs(kind, error, tmp_path):
    """Of normal weights in bfloat16, as a share of their size."""
    weight = normal((64, 512), kind).bfloat16()
    found = read(write_gguf(tmp_path / "x.gguf", {"x": weight}, lambda *_: kind))["x"]
    lost = ((found - weight.float()).norm() / weight.float().norm()).item()
    assert error * 0.5 <= lost <= error if error > 1e-3 else lost <= error, lost
    if not error:
        assert torch.equal(read(tmp_path / "x.gguf", BF16)["x"], weight)


@pytest.mark.parametrize(("kind", "prefix"), [("F32", TRANSFORMER), ("BF16", "")])
def test_without_loss_the_network_is_the_published_one(kind, prefix, weights, others, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", {prefix + n: t for n, t in weights.items()}, as_comfyui(kind))
    for dtype in (F32, BF16):
        models = [
            load_transformer(one, video=True, device=CPU, dtype=dtype).state_dict()
            for one in (open_parts([path, others]), TINY.checkpoint)
        ]
        assert models[0].keys() == models[1].keys()
        for name, expected in models[1].items():
            assert models[0][name].dtype == expected.dtype and torch.equal(models[0][name], expected), name


@pytest.fixture
def q8(weights, others, tmp_path):
    path = write_gguf(tmp_path / "ltx-2.3-22b-dev-Q8_0.gguf", weights, as_comfyui("Q8_0"))
    return [path, others]


def test_it_is_the_network_that_the_blocks_stand_for(q8, weights, others, tmp_path):
    kind_of = as_comfyui("Q8_0")
    values = {TRANSFORMER + n: rounded(t, kind_of(n, t)) for n, t in weights.items()}
    save_file(values, tmp_path / "meant.safetensors")
    models = [
        load_transformer(open_parts(paths), video=False, device=CPU, dtype=F32).state_dict()
        for paths in (q8, [tmp_path / "meant.safetensors", others])
    ]
    assert all(torch.equal(models[0][name], expected) for name, expected in models[1].items())


def test_it_is_a_base(q8, monkeypatch, tmp_path):
    monkeypatch.setenv("SONOLORA_BASES", str(tmp_path / "bases.json"))
    add_base("q8", list(map(str, q8)), str(TINY.text_encoder))
    base = find_base("q8")
    assert base.fingerprint == find_base("q8").fingerprint != TINY.fingerprint
    assert stored_precision(base.checkpoint.tensors) == "GGUF Q8_0"
    assert "stored as GGUF Q8_0: a LoRA trained on them compensates" in precision_note("GGUF Q8_0")
    assert any(
        "stored as GGUF Q8_0: what was lost" in n for n in verify(base.checkpoint, TINY.checkpoint.config, 5).notes
    )
    shape, published = BaseShape.of(base), BaseShape.of(TINY)
    assert shape.precision == "GGUF Q8_0"
    for dtype in (F32, BF16):
        assert shape.transformer_bytes(dtype, video=True) == published.transformer_bytes(dtype, video=True)
        model = load_transformer(base.checkpoint, video=True, device=CPU, dtype=dtype)
        assert sum(tensor.nbytes for tensor in model.state_dict().values()) == shape.transformer_bytes(
            dtype, video=True
        )


def test_a_scan_finds_it(q8):
    files = {file.path.name: file for file in scan([ModelFolder(path.parent, "models") for path in q8]).files}
    assert (files[q8[0].name].what, files[q8[0].name].precision) == ("transformer, text connectors", "GGUF Q8_0")
    (base,) = scan([ModelFolder(path.parent, "models") for path in q8]).bases
    assert [file.path for file in base.files] == q8 and base.missing == ("a text encoder (Gemma 3 12B)",)


def test_metadata_and_shapes_of_comfyui(weights, tmp_path):
    """The config as a JSON text, and a shape of a tensor that was stored in another one."""

    def fields(writer):
        writer.add_string("config", json.dumps(TINY.checkpoint.config))
        writer.add_string("comfy.note", "{not JSON")
        writer.add_array("comfy.gguf.orig_shape.odd", [6, 128])

    tensors = {**weights, "odd": torch.arange(768.0).view(3, 256)}
    checkpoint = Checkpoint.open(write_gguf(tmp_path / "x.gguf", tensors, as_comfyui("BF16"), fields=fields))
    assert checkpoint.config == TINY.checkpoint.config
    assert checkpoint.metadata["comfy.note"] == "{not JSON"
    assert not any("orig_shape" in key for key in checkpoint.metadata)
    assert torch.equal(read(checkpoint.path)["odd"], torch.arange(768.0).view(6, 128))


def changed(path, change):
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))
    return path


def mmproj(writer):
    writer.add_string("general.type", "mmproj")


@pytest.mark.parametrize(
    ("kind", "fields", "change", "words"),
    [
        ("Q8_0", None, lambda c: c[:-40], r"incomplete or damaged: .*Copy or download it again"),
        ("Q8_0", None, lambda c: c[:50], r"not a readable GGUF file \(it ends within its header\)"),
        ("Q8_0", None, lambda c: c[:4] + b"\x01" + c[5:], r"\(version 1, expected 2 or 3"),
        ("Q8_0", None, lambda c: c[:8] + bytes(16), r"\(it has no tensors\)"),
        ("Q8_0", mmproj, bytes, r"vision part of a text encoder \(mmproj\).*give the GGUF file of the language model"),
        ("Q8_0", lambda w: w.add_uint16("split.count", 2), bytes, r"one of 2 files of a split GGUF; join them"),
        ("IQ2_XXS", None, bytes, r"x is stored as IQ2_XXS; .* are read\. Use a file such as Q4_K_M"),
    ],
)
def test_faults_are_named(kind, fields, change, words, tmp_path):
    size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    blocks = torch.zeros(4, 256 // size[0] * size[1], dtype=torch.uint8)
    path = write_gguf(tmp_path / "x.gguf", {"x": blocks}, lambda *_: kind, fields=fields or (lambda _: None))
    with pytest.raises(CheckpointError, match=rf"x\.gguf: .*{words}"):
        Checkpoint.open(changed(path, change))


def test_without_the_package_it_says_what_to_install(q8, monkeypatch):
    ordinary = builtins.__import__

    def without(name, *rest):
        if name == "gguf":
            raise ImportError(name)
        return ordinary(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    gguf_file._package.cache_clear()
    try:
        with pytest.raises(CheckpointError, match=r"Q8_0\.gguf: GGUF files need .*pip install 'sonolora\[gguf\]'"):
            Checkpoint.open(q8[0])
    finally:
        gguf_file._package.cache_clear()


def test_no_two_tensors_have_one_name(tmp_path):
    writer = GGUFWriter(tmp_path / "x.gguf", "ltxv")
    for name in ("a1", "a2"):
        writer.add_tensor(name, np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="two tensors are called a1"):
        Checkpoint.open(changed(tmp_path / "x.gguf", lambda content: content.replace(b"a2", b"a1")))
