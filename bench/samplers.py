"""How many steps each sampler needs.

    python bench/samplers.py > bench/results/samplers.md

Samples sounds from captions of kinds that the base knows, with equal noise, and measures how far the result of few
steps is from that of very many: in latents (RMS of the difference, by the RMS of the latents) and in the sound
(log-mel distance, dB; sounds are decoded). Some ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import make_encoder
from figures import mel_distance
from made_data import known_sounds

from sonolora.analysis.likeness import log_mel
from sonolora.conditioning import Example
from sonolora.core.frames import frame_count
from sonolora.core.randomness import normal
from sonolora.ltx.model.transformer import load_transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform, peak_normalized
from sonolora.modes import MODES
from sonolora.modes.request import NEGATIVE_PROMPT
from sonolora.sampling.denoiser import GuidedDenoiser
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.sampling.sampler import SAMPLERS, adams_bashforth

CPU = torch.device("cpu")
STEPS = (8, 10, 15, 20, 30)
SECONDS = 1.5


@torch.inference_mode()
def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, default=12)
    parser.add_argument("--converged", type=int, default=120, help="steps of what the others are compared with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base, count = find_base("tiny"), options.sounds
    encoder = make_encoder(MODES["t2a"], base, CPU)
    model = load_transformer(base.checkpoint, video=False, device=CPU, dtype=torch.float32)
    captions = [made.caption for made in known_sounds(0, count, SECONDS)]
    contexts = encoder.encode_texts([*captions, NEGATIVE_PROMPT], lambda note: None)  # noqa: ARG005
    shape = 1, frame_count(SECONDS), encoder.codec.channels
    example = Example(torch.zeros(count, *shape[1:]), torch.cat([contexts[caption].audio for caption in captions]))
    negative = contexts[NEGATIVE_PROMPT].audio.expand(count, -1, -1)
    noise = torch.cat([normal(shape, index) for index in range(count)])

    def sounds(latents: torch.Tensor) -> list[torch.Tensor]:
        rate = encoder.codec.output_sample_rate
        return [log_mel(peak_normalized(Waveform(one.numpy(), rate))) for one in encoder.codec.decode(latents)]

    print(f"# Samplers\n\n{count} sounds of {SECONDS:g} s, base tiny, against {options.converged} steps of ab2.\n")
    for name, guidance in (("the base's", Guidance.of_base(base.checkpoint.metadata)), ("published", Guidance())):
        denoise = GuidedDenoiser(model, example, negative, guidance)
        converged = adams_bashforth(denoise, noise, sampling_sigmas(options.converged).tolist())
        true = sounds(converged)
        print(f"## With guidance {name}: {guidance.cfg:g} by words, {guidance.stg:g} by perturbation\n")
        print("| sampler | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |\n|---|" + "---:|" * len(STEPS))
        for sampler, run in SAMPLERS.items():
            cells = []
            for steps in STEPS:
                latents = run(denoise, noise, sampling_sigmas(steps).tolist())
                distance = (latents - converged).square().mean((1, 2)).sqrt() / converged.square().mean((1, 2)).sqrt()
                mels = [mel_distance(ours, theirs) for ours, theirs in zip(sounds(latents), true, strict=True)]
                cells.append(f"{distance.mean():.3f}, {sum(mels) / count:.2f} dB")
            print(f"| {sampler} | " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
