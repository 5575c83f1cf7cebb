"""GGUF files as the converters of ComfyUI-GGUF and llama.cpp write them, and what their blocks stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from sentencepiece import SentencePieceProcessor
from torch import Tensor

# By number of bytes: the float16 scales of a block, which random bytes would make infinite.
_SCALES = {
    **{"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "IQ4_XS": [0]},
    **{"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]},
}
_GEMMA = {
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"},
    **{"pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"},
    **{"self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
    **{"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
    **{"embed_tokens": "token_embd", "norm": "output_norm"},
}


def write_gguf(
    path: Path,
    tensors: Mapping[str, Tensor],
    kind_of: Callable[[str, Tensor], str],
    *,
    architecture: str = "ltxv",
    fields: Callable[[GGUFWriter], None] = lambda _: None,
) -> Path:
    """Each tensor in the type that `kind_of` names for it; one of blocks that are made is given as uint8."""
    writer = GGUFWriter(path, architecture)
    fields(writer)
    for name, tensor in tensors.items():
        kind = Kind[kind_of(name, tensor)]
        made = tensor.dtype == torch.uint8
        data = tensor.numpy() if made else gguf.quantize(np.ascontiguousarray(tensor.float().numpy()), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_comfyui(kind: str) -> Callable[[str, Tensor], str]:
    """Matrices in a type; tables, vectors and what is small or of other widths in float32."""
    block = gguf.GGML_QUANT_SIZES[Kind[kind]][0]

    def kind_of(name: str, tensor: Tensor) -> str:
        small = tensor.dim() == 1 or tensor.numel() <= 1024 or tensor.shape[-1] % block
        return "F32" if small or "scale_shift_table" in name else kind

    return kind_of


def random_blocks(kind: str, rows: int, width: int, seed: int, scale: float = 0.01) -> Tensor:
    """Bytes of any such blocks (rows, bytes of a row), whose scales are finite."""
    values, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (rows * width // values, size), dtype=np.uint8)
    for at in _SCALES[kind]:
        scales = (generator.uniform(0.2, 1, len(blocks)) * scale).astype(np.float16)
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return torch.from_numpy(blocks.reshape(rows, -1))


def meant(blocks: Tensor, kind: str, shape: tuple[int, ...]) -> Tensor:
    """What blocks stand for, by the functions of diffusers."""
    from diffusers.quantizers.gguf.utils import dequantize_functions

    values, size = gguf.GGML_QUANT_SIZES[Kind[kind]]
    result = dequantize_functions[Kind[kind]](blocks.reshape(-1, size), values, size, dtype=torch.float32)
    return result.reshape(shape).float()


def rounded(tensor: Tensor, kind: str) -> Tensor:
    """A tensor that went through a type, by the functions of diffusers where it has blocks."""
    if kind in ("F32", "F16", "BF16"):
        return tensor.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]).float()
    blocks = torch.from_numpy(gguf.quantize(np.ascontiguousarray(tensor.float().numpy()), Kind[kind]))
    return meant(blocks, kind, tuple(tensor.shape))


def as_llama_cpp(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A language model's tensors (`layers.0...`) under llama.cpp's names, 1 added to the norms."""
    renamed = {}
    for name, tensor in state.items():
        stem, leaf = name.rsplit(".", 1)
        own = stem.split(".", 2)[2] if stem.startswith("layers.") else stem
        layer = f"blk.{stem.split('.')[1]}." if stem.startswith("layers.") else ""
        renamed[f"{layer}{_GEMMA[own]}.{leaf}"] = tensor.float() + 1 if own.endswith("norm") else tensor
    return renamed


def vocabulary(spiece: bytes, whole: Collection[str], special: Collection[str]) -> Callable[[GGUFWriter], None]:
    """The metadata that llama.cpp's converter makes of a SentencePiece model, given the tokens matched as they are."""
    model = SentencePieceProcessor(model_proto=spiece)
    tokens, types = [], []
    for index in range(len(model)):
        piece, kind = model.id_to_piece(index), 1
        if model.is_unknown(index):
            kind = 2
        elif model.is_control(index) or piece in special:
            kind = 3
        elif model.is_byte(index):
            kind = 6
        elif piece in whole:
            piece, kind = piece.replace("▁", " "), 4
        tokens.append(piece)
        types.append(kind)

    def add(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([model.get_score(index) for index in range(len(model))])
        writer.add_token_types(types)
        writer.add_bos_token_id(model.bos_id())
        writer.add_eos_token_id(model.eos_id())
        writer.add_unk_token_id(model.unk_id())
        writer.add_pad_token_id(model.pad_id())
        writer.add_add_space_prefix(False)

    return add
