"""Convert the checkpoint of aiSFX to the safetensors file that `sonolora.analysis.learned_space` reads.

In: the wheel of aisfx 0.1.2 (`pip download aisfx==0.1.2 --no-deps`), or its `checkpoint.pth`. Out: the file. Only the
layers of the embedding are kept, in float16, each batch normalisation folded into the convolution before it.

    python tools/judges/convert_aisfx.py aisfx-0.1.2-py2.py3-none-any.whl
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sonolora.analysis.learned_space import LAYERS, WEIGHTS
from sonolora.core.checked_tensors import save_checked

_IN_WHEEL = "aisfx/models/checkpoint.pth"
_EPSILON = 1e-5  # of the batch normalisation
METADATA = {
    "source": "aisfx 0.1.2, https://github.com/alisonbma/aisfx",
    "author": "Copyright (c) 2022 A.B. Ma and A. Lerch",
    "license": "CC-BY-4.0",
    "changes": "embedding layers alone, batch normalisation folded into the convolutions, float16",
}


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The tensors of the checkpoint, which holds numbers of NumPy beside them; nothing else is unpickled."""
    content = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            content = wheel.read(_IN_WHEEL)
    scalar = np.int64(0).__reduce__()[0]  # what makes a number of NumPy from its bytes
    # The file names its module as NumPy 1 had it.
    allowed = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Int64DType]
    with torch.serialization.safe_globals(allowed):
        tensors, _ = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def folded(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight and bias of each convolution, float64."""
    tensors = {}
    for layer in range(LAYERS):
        block, within = f"embedding_net.conv_block{layer // 2 + 1}.", layer % 2 + 1
        scale, shift, mean, variance = (
            checkpoint[f"{block}bn{within}.{name}"].double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = scale / (variance + _EPSILON).sqrt()
        tensors[f"{layer}.weight"] = checkpoint[f"{block}conv{within}.weight"].double() * gain[:, None, None, None]
        tensors[f"{layer}.bias"] = shift - mean * gain
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert the checkpoint of aiSFX.")
    parser.add_argument("checkpoint", type=Path, help="the wheel, or checkpoint.pth")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    tensors = {name: tensor.half() for name, tensor in folded(read_checkpoint(options.checkpoint)).items()}
    save_checked(options.out, tensors, METADATA)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
