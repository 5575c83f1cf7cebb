"""Names the format of a quantised file whose weights are not read, in the words of the program that wrote it.

In: a checkpoint. Out: words for an error, or None. Read are 8-bit floats (`stored_tensor`) and GGUF (`gguf_file`).

    X.comfy_quant                    ComfyUI: {"format": "nvfp4"}, convrot_w4a4, svdquant_w4a4, int8_tensorwise, ...
    _quantization_metadata           the same in the header, for each layer
    X.qweight, X.wscales             Nunchaku's SVDQuant, int4 or fp4
    X.absmax, X.quant_state.*        bitsandbytes, nf4

Source of the names: ComfyUI's registry of formats and its converters; the repositories of Nunchaku and bitsandbytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress

from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.stored_tensor import file_of

_NOTE = ".comfy_quant"
_MAX_NOTE_BYTES = 4096
_HEADER_NOTE = "_quantization_metadata"
_NAMES = {  # endings of tensor names, and what has them
    (".qweight", ".wscales", ".wtscale"): "SVDQuant (Nunchaku, 4 bits)",
    (".absmax", ".quant_map", ".nested_absmax"): "nf4 or fp4 of bitsandbytes (4 bits)",
}
_BITS = {
    r"fp4": "4-bit floats",
    r"int4|w4a|w4_|4bit": "4-bit integers",
    r"int8|w8a": "8-bit integers",
    r"mxfp8": "8-bit floats in blocks",
}
_DTYPES = {
    "U8": "4 bits (such as nvfp4, int4 or nf4)",
    "F4": "4 bits",
    "I8": "8-bit integers, or two of 4 bits in a byte (int4)",
    "F8_E8M0": "mxfp8",
}
_ENDINGS = (".weight_scale", ".scale_weight", ".weight_scale_2", _NOTE, ".absmax", ".quant_state")
_ADVICE = "is not read; use the file in bfloat16 or fp8, or as GGUF (Q4_K_M, Q8_0)"


def unsupported_format(checkpoint: Checkpoint, unless: str = "") -> str | None:
    """What a file is, if its weights (but one tensor) are quantised as Sonolora does not read them; else None."""
    names = [name for name in checkpoint.tensors if name != unless]
    if name := next(_noted(checkpoint), None):
        bits = next((words for pattern, words in _BITS.items() if re.search(pattern, name)), "")
        return f"a file quantised to {name}{f' ({bits})' if bits else ''}, which {_ADVICE}"
    for endings, words in _NAMES.items():
        if any(name.endswith(endings) for name in names):
            return f"a file quantised by {words}, which {_ADVICE}"
    dtypes = {checkpoint.tensors[name].dtype for name in names}
    if kinds := [words for dtype, words in _DTYPES.items() if dtype in dtypes]:
        return f"a file quantised to {kinds[0]}, which {_ADVICE}"
    if any(name.endswith(_ENDINGS) for name in names):
        return f"a quantised file in an unknown format, which {_ADVICE}"
    return None


def _noted(checkpoint: Checkpoint) -> Iterator[str]:
    """The formats that ComfyUI has noted, but 8-bit floats."""
    layers = checkpoint.metadata.get(_HEADER_NOTE)
    listed = layers.get("layers") if isinstance(layers, dict) else None
    notes = list(listed.values()) if isinstance(listed, dict) else []
    for name, info in checkpoint.tensors.items():
        path = file_of(info, checkpoint.path)
        if name.endswith(_NOTE) and info.end - info.start <= _MAX_NOTE_BYTES and path.is_file():
            with path.open("rb") as file, suppress(ValueError):
                file.seek(info.start)
                notes.append(json.loads(file.read(info.end - info.start)))
                break
    formats = (note.get("format") for note in notes if isinstance(note, dict))
    return (name for name in formats if isinstance(name, str) and not name.startswith("float8"))
