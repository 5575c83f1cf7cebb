"""How long a run takes from its start to its first step, part by part, at the full shape of LTX-2.3.

    python bench/start_up.py --device cuda
    python bench/start_up.py --layers 8 --text-layers 2 --no-step        on a small machine

The base is a sparse file of the published layout, 46 GB and the text encoder's 23.5 GB on paper and a few kilobytes on
disk: its weights are zeros, which take the same time to read from the page cache as any others, and a disk may be
slower. Nothing is downloaded. The parts: what a process does once (imports, CUDA), and what a run does in a process
that is up: the text stage, reading the transformer, its adapters, the first step.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTED = time.perf_counter()

import torch  # noqa: E402 - its import is one of the parts

IMPORTED = time.perf_counter()

from sonolora.core.cuda_environment import configure_cuda  # noqa: E402
from sonolora.core.devices import compute_dtype, resolve_device  # noqa: E402
from sonolora.core.tensor_file import lay_out  # noqa: E402
from sonolora.ltx.codec.audio_codec import load_audio_codec  # noqa: E402
from sonolora.ltx.lora.adapters import add_adapters  # noqa: E402
from sonolora.ltx.model.transformer import load_transformer  # noqa: E402
from sonolora.ltx.text.language_model import tensor_shapes  # noqa: E402
from sonolora.ltx.text.text_encoder import PUBLISHED_TOKENS, load_text_encoder  # noqa: E402
from sonolora.ltx.weights import checkpoint as checkpoint_module  # noqa: E402
from sonolora.ltx.weights.base import BUILT_IN, Base, find_base  # noqa: E402
from sonolora.ltx.weights.ltx23_config import LTX23_CONFIG  # noqa: E402
from sonolora.ltx.weights.tensor_table import published_tensors  # noqa: E402
from sonolora.modes import find_mode  # noqa: E402
from sonolora.modes.request import parse  # noqa: E402
from sonolora.planning.base_shape import BaseShape  # noqa: E402
from sonolora.planning.bench.machine_limits import device_name  # noqa: E402
from sonolora.planning.needs import training_step  # noqa: E402
from sonolora.planning.run_settings import RunSettings  # noqa: E402
from sonolora.planning.work_counts import make_example  # noqa: E402
from sonolora.training.trainer import Trainer, TrainingConfig  # noqa: E402

PROMPTS = ["rain on a tin roof", "a bell, far away"]
BYTES = {"BF16": 2, "F32": 4}


def sparse_base(folder: Path, layers: int | None, text_layers: int | None) -> Base:
    """A base of the published shape, or of fewer layers, whose files take no room."""
    shape = BaseShape.published()
    text_config = shape.text_config.to_dict()
    if text_layers is not None:
        text_config |= {"num_hidden_layers": text_layers, "layer_types": text_config["layer_types"][:text_layers]}
    transformer = {**LTX23_CONFIG["transformer"]}
    if layers is not None:
        transformer["num_layers"] = layers
    config = {**LTX23_CONFIG, "transformer": transformer}
    tensors = published_tensors(config, text_config["num_hidden_layers"] + 1)
    metadata = {"config": json.dumps(config), "model_version": "2.3.0"}
    write_sparse(
        folder / "base.safetensors", {name: (info.dtype, info.shape) for name, info in tensors.items()}, metadata
    )
    text = folder / "text_encoder"
    text.mkdir()
    (text / "config.json").write_text(json.dumps({**text_config, "model_type": "gemma3_text"}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILT_IN / "tiny" / "text_encoder" / name, text)
    settings = json.loads((text / "tokenizer_config.json").read_text())
    (text / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": PUBLISHED_TOKENS}))
    shapes = tensor_shapes(type(shape.text_config)(**text_config))
    write_sparse(text / "model.safetensors", {name: ("BF16", size) for name, size in shapes.items()}, {})
    return find_base(str(folder))


def write_sparse(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    """A safetensors file of zeros that are holes."""
    sizes = {name: torch.Size(shape).numel() * BYTES[dtype] for name, (dtype, shape) in tensors.items()}
    header, _ = lay_out(((name, dtype, shape, sizes[name]) for name, (dtype, shape) in tensors.items()), metadata)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(sizes.values()))


class Parts:
    """Seconds of each part, printed as they come."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self.device = device

    def add(self, name: str, seconds: float, note: str = "") -> None:
        self.seconds[name] = seconds
        print(f"| {name} | {seconds:.2f} | {note} |", flush=True)

    @contextmanager
    def measured(self, name: str, size: int = 0) -> Iterator[None]:
        """The device's work included."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - start
        self.add(name, seconds, f"{size / 1e9:.2f} GB, {size / 1e9 / seconds:.2f} GB/s" if size else "")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument("--layers", type=int, help="of the transformer, in place of all")
    parser.add_argument("--text-layers", type=int, help="of the text encoder, in place of all; 0: no text stage")
    parser.add_argument("--readers", type=int, default=checkpoint_module.READERS, help="threads that read")
    parser.add_argument("--step", action=argparse.BooleanOptionalAction, default=True, help="take a training step")
    options = parser.parse_args()
    checkpoint_module.READERS = options.readers
    configure_cuda()
    device = resolve_device(options.device)
    dtype, parts = compute_dtype(device), Parts(device)
    print(f"{device_name(device)}, {dtype}, {platform.python_version()}, torch {torch.__version__}\n")
    print("| part | seconds | |\n|---|---:|---|")
    parts.add("once: import torch", IMPORTED - STARTED)
    parts.add("once: import sonolora", time.perf_counter() - IMPORTED)
    with parts.measured("once: start the device"):
        torch.zeros(1, device=device)
    mode = find_mode("t2a")
    request = parse(mode.request, {"training_data_url": "none"})
    with tempfile.TemporaryDirectory() as scratch:
        text_layers = options.text_layers or None
        base = sparse_base(Path(scratch), options.layers, text_layers)
        with parts.measured("once: open the base"):
            find_base(scratch)
        with parts.measured("once: codec and vocoder"):
            load_audio_codec(base.checkpoint, device=device)
        if options.text_layers != 0:
            text = load_text_encoder(base.checkpoint, base.text_encoder, video=False, device=device, dtype=dtype)
            shapes = tensor_shapes(text.language_model.config)
            size = sum(2 * torch.Size(one).numel() for name, one in shapes.items() if "embed" not in name)
            with parts.measured(f"text stage, {len(PROMPTS)} prompts", size), torch.no_grad():
                text.encode(PROMPTS)
        size = BaseShape.of(base).transformer_bytes(torch.bfloat16, video=False)
        for again in ("", ", again"):
            with parts.measured(f"read the transformer{again}", size):
                model = load_transformer(base.checkpoint, video=False, device=device, dtype=dtype)
        shape = BaseShape.of(base)
        step = training_step(mode, request, RunSettings())
        with parts.measured("adapters"):
            adapters = add_adapters(model, step.targets, step.rank, 0)
        example = make_example(shape, step.tokens, device, dtype)
        with parts.measured("optimiser"):
            trainer = Trainer(model, adapters, [example], TrainingConfig(2, 1e-4, 0))
        if options.step:
            with parts.measured("first step"):
                trainer.step()
    warm = ("read the transformer, again", "adapters", "optimiser", "first step")
    total = sum(parts.seconds.get(name, 0.0) for name in warm)
    print(f"\nFrom the prepared data of a run to its first step in a process that is up: {total:.2f} s")


if __name__ == "__main__":
    main()
