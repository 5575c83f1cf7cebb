"""Writes the base `tiny` from what has been trained so far.

    python tools/tiny/assemble.py --out DIR [--work DIR]

In: the states that the training scripts left in the work folder. Out: DIR/tiny.safetensors and DIR/text_encoder/, as
of make_random_base.py, with the averaged weights of every part that has a state; the rest stays random. The file's
`made_by` names the parts and their steps. The statistics of the latents are measured on the corpus here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import train_vae
import train_vocoder
from batches import Clips
from fit import newest
from header import CONFIG, MODEL_VERSION
from make_random_base import make
from safetensors.torch import load_file
from torch import Tensor

from sonolora.ltx.audio_codec import build_log_mel, vae_file_name, vocoder_file_name
from sonolora.tensors import save_tensors

LICENSE = "Apache-2.0. Trained by Sonolora's tools/tiny on sounds made by programs; not derived from LTX-2.3."
_STATISTICS_BLOCKS = 3


def trained_tensors(work: Path, clips: Clips) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under their published names, and for each part its name and how many steps it was trained."""
    tensors: dict[str, Tensor] = {}
    parts = []
    state = newest(work, train_vae.NAME, CONFIG["audio_vae"])
    if state:
        vae = train_vae.new_vae().eval()
        vae.load_state_dict(state["average"])
        sounds = torch.cat([clips.block(number) for number in range(min(_STATISTICS_BLOCKS, clips.blocks))])
        train_vae.measure_statistics(vae, build_log_mel(CONFIG["audio_vae"], torch.device("cpu")), sounds)
        tensors |= {vae_file_name(name): tensor for name, tensor in vae.state_dict().items()}
        parts.append(f"{train_vae.NAME} {state['step']}")
    vocoder = train_vocoder.new_vocoder()
    stages = {"vocoder": vocoder.vocoder, "bwe": vocoder.bwe_generator}
    for name, stage in stages.items():
        state = newest(work, name, CONFIG["vocoder"][name])
        if state:
            stage.load_state_dict(state["average"])
            parts.append(f"{name} {state['step']}")
        elif name == "bwe":
            # An untrained extension adds noise; none at all leaves what the first stage made.
            torch.nn.init.zeros_(stage.conv_out.weight)
    tensors |= {vocoder_file_name(name): tensor for name, tensor in vocoder.state_dict().items()}
    return tensors, parts


def assemble(work: Path, out: Path, clips: Clips) -> list[str]:
    """Write the base; returns the names and steps of its trained parts."""
    make(out)
    path = out / "tiny.safetensors"
    trained, parts = trained_tensors(work, clips)
    tensors = load_file(path)
    tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in trained.items()}
    about = {"config": json.dumps(CONFIG), "model_version": MODEL_VERSION, "license": LICENSE}
    save_tensors(path, tensors, about | {"made_by": f"tools/tiny/assemble.py: {', '.join(parts)}"})
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the base 'tiny' from what has been trained so far.")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "sonolora-tiny")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    clips = Clips(args.work / "clips")
    clips.make_in_background()
    parts = assemble(args.work, args.out, clips)
    print(f"{args.out}: {', '.join(parts) or 'all random'}")


if __name__ == "__main__":
    main()
