"""Files in 4 bits and in 8-bit integers, as they are found: the sentence names the format."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stored_forms import block_linears

from sonolora.core.errors import CheckpointError
from sonolora.ltx.weights.base_scan import scan
from sonolora.ltx.weights.comfyui_folders import ModelFolder
from sonolora.ltx.weights.quantised_formats import unsupported_format
from sonolora.ltx.weights.verify import open_checkpoint, verify

NOT_READ = "which is not read; use the file in bfloat16 or fp8, or as GGUF"


def noted(format, dtype, **more):
    """A layer as ComfyUI stores it: two values of 4 bits in a byte, one scale a row."""

    def layer(stem, rows, columns):
        note = json.dumps({"format": format, **more}).encode()
        width = columns if dtype == torch.int8 and "int8" in format else columns // 2
        return {
            f"{stem}.weight": torch.zeros(rows, width, dtype=dtype),
            f"{stem}.weight_scale": torch.ones(rows, 1),
            f"{stem}.comfy_quant": torch.tensor(list(note), dtype=torch.uint8),
        }

    return layer


def nunchaku(stem, rows, columns):
    return {
        f"{stem}.qweight": torch.zeros(rows, columns // 2, dtype=torch.int8),
        f"{stem}.wscales": torch.ones(columns // 64 + 1, rows, dtype=torch.bfloat16),
        f"{stem}.proj_down": torch.zeros(columns, 8, dtype=torch.bfloat16),
        f"{stem}.proj_up": torch.zeros(rows, 8, dtype=torch.bfloat16),
        f"{stem}.smooth_factor": torch.ones(columns, dtype=torch.bfloat16),
    }


def bitsandbytes(stem, rows, columns):
    return {
        f"{stem}.weight": torch.zeros(rows * columns // 2, 1, dtype=torch.uint8),
        f"{stem}.weight.absmax": torch.ones(rows * columns // 64),
        f"{stem}.weight.quant_map": torch.ones(16),
    }


def packed(stem, rows, columns):
    return {f"{stem}.weight": torch.zeros(rows, columns // 2, dtype=torch.int8)}


FORMATS = {
    "convrot": (noted("convrot_w4a4", torch.int8, convrot=True), r"convrot_w4a4 \(4-bit integers\)"),
    "int4": (noted("int4_per_row", torch.uint8), r"int4_per_row \(4-bit integers\)"),
    "svdquant": (noted("svdquant_w4a4", torch.uint8), r"svdquant_w4a4 \(4-bit integers\)"),
    "nvfp4": (noted("nvfp4", torch.uint8), r"nvfp4 \(4-bit floats\)"),
    "int8": (noted("int8_tensorwise", torch.int8), r"int8_tensorwise \(8-bit integers\)"),
    "nunchaku": (nunchaku, r"SVDQuant \(Nunchaku, 4 bits\)"),
    "bitsandbytes": (bitsandbytes, r"nf4 or fp4 of bitsandbytes \(4 bits\)"),
    "packed": (packed, r"8-bit integers, or two of 4 bits in a byte \(int4\)"),
}


@pytest.fixture
def write(checkpoint, tmp_path):
    """The golden checkpoint with its blocks in a format, in one file or without the other parts and their prefix."""

    def write(layer, *, bare=False):
        tensors = load_file(checkpoint.path)
        for name in block_linears(tensors):
            tensors |= layer(name.removesuffix(".weight"), *tensors.pop(name).shape)
        with safe_open(checkpoint.path, "pt") as file:
            header = file.metadata()
        if bare:
            prefix = "model.diffusion_model."
            tensors = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        path = tmp_path / "ltx-2.3.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, header)
        return path

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_the_sentence_names_the_format(name, write):
    layer, words = FORMATS[name]
    for bare in (False, True):
        path = write(layer, bare=bare)
        with pytest.raises(
            CheckpointError, match=rf"ltx-2\.3\.safetensors: this is a file quantised .*{words}, {NOT_READ}"
        ):
            verify(open_checkpoint(path))
    (file,) = scan([ModelFolder(path.parent, "diffusion_models")]).files
    assert NOT_READ in file.unusable


def test_the_header_may_say_it(checkpoint):
    layers = {"a": {"format": "float8_e4m3fn"}, "b": {"format": "mxfp8"}}
    checkpoint.metadata["_quantization_metadata"] = {"layers": layers}
    try:
        assert "quantised to mxfp8 (8-bit floats in blocks)" in unsupported_format(checkpoint)
        del layers["b"]
        assert unsupported_format(checkpoint) is None
    finally:
        del checkpoint.metadata["_quantization_metadata"]
