"""Writes the base `tiny` from the parts trained so far.

    python tools/tiny/assemble.py [--out DIR] [--work DIR]

In: the states of the training scripts in the work folder. Out: DIR/tiny.safetensors and DIR/text_encoder/ as from
make_random_base.py, with the EMA weights of every part that has a state; the rest stays random. The metadata has the
parts with their steps (`made_by`) and the recommended `guidance`: see docs/tiny.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import train_pictures
import train_transformer
import train_vae
import train_video_encoder
import train_vocoder
from fit import newest
from header import CONFIG, MODEL_VERSION
from make_random_base import make
from safetensors.torch import load_file
from torch import Tensor

from sonolora.core.tensor_file import save_tensors
from sonolora.ltx.codec.audio_codec import vae_checkpoint_name, vocoder_checkpoint_name
from sonolora.ltx.model.transformer import PREFIX
from sonolora.ltx.text.text_projector import projector_checkpoint_name

PACKAGED = Path(__file__).parents[2] / "src" / "sonolora" / "bases" / "tiny"
GUIDANCE = {"cfg": 1.0, "stg": 0.0}
LICENSE = "Apache-2.0. Trained by Sonolora's tools/tiny on sounds made by programs; not derived from LTX-2.3."


def trained_tensors(work: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under their published names, and the name and step count of each trained part."""
    tensors: dict[str, Tensor] = {}
    parts = []
    if state := newest(work, train_vae.NAME, CONFIG["audio_vae"]):
        tensors |= {vae_checkpoint_name(name): tensor for name, tensor in state["average"].items()}
        parts.append(f"{train_vae.NAME} {state['step']}")
    vocoder = train_vocoder.new_vocoder()
    for name, stage in {"vocoder": vocoder.vocoder, "bwe": vocoder.bwe_generator}.items():
        if state := newest(work, name, CONFIG["vocoder"][name]):
            stage.load_state_dict(state["average"])
            parts.append(f"{name} {state['step']}")
        elif name == "bwe":
            # An untrained extension would add noise; a zero one leaves the first stage alone.
            torch.nn.init.zeros_(stage.conv_out.weight)
    tensors |= {vocoder_checkpoint_name(name): tensor for name, tensor in vocoder.state_dict().items()}
    if state := newest(work, train_video_encoder.NAME, CONFIG["vae"]):
        encoder = train_video_encoder.from_state(state)
        tensors |= {encoder.checkpoint_name(name): tensor for name, tensor in encoder.state_dict().items()}
        parts.append(f"{train_video_encoder.NAME} {state['step']}")
    for trained in (train_transformer.NAME, train_pictures.NAME):  # the second continues from the first
        if state := newest(work, trained, CONFIG["transformer"]):
            for name, tensor in state["average"].items():
                part, _, rest = name.partition(".")
                if part in ("heard", "seen"):
                    continue
                tensors[PREFIX + rest if part == "transformer" else projector_checkpoint_name(part, rest)] = tensor
            parts.append(f"{trained} {state['step']}")
    return tensors, parts


def assemble(work: Path, out: Path) -> list[str]:
    """Write the base; returns the names and step counts of its trained parts."""
    make(out)
    if (work / train_transformer.TEXT_ENCODER).exists():
        shutil.copytree(work / train_transformer.TEXT_ENCODER, out / train_transformer.TEXT_ENCODER, dirs_exist_ok=True)
    path = out / "tiny.safetensors"
    trained, parts = trained_tensors(work)
    tensors = load_file(path)
    tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in trained.items()}
    about = {
        "config": json.dumps(CONFIG),
        "model_version": MODEL_VERSION,
        "license": LICENSE,
        "guidance": json.dumps(GUIDANCE),
    }
    save_tensors(path, tensors, about | {"made_by": f"tools/tiny/assemble.py: {', '.join(parts)}"})
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the base 'tiny' from the parts trained so far.")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny")
    parser.add_argument("--out", type=Path, default=PACKAGED, help="folder to write (default: in the package)")
    args = parser.parse_args()
    parts = assemble(args.work, args.out)
    print(f"{args.out}: {', '.join(parts) or 'all random'}")


if __name__ == "__main__":
    main()
