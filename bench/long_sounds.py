"""Sounds longer than the LoRA's training clips: at full length in one pass, or in overlapping windows?

    python bench/long_sounds.py > bench/results/long_sounds.md

For each mode trains a LoRA on made clips of a second and generates held-out sounds of three: at full length; in windows
of the trained length, denoised together or one by one; and, where a part of the sound is given, in windows each of
which continues the one before. Prints the errors of the level step and of the spectral flux at the seams of the windows
(for all variants at the same places) and the log-mel distance to the true sound. In brackets the difference to full
length and its 95 % interval (paired bootstrap over sounds). About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from experiment import Plan, learn, make_encoder, prepare
from figures import f_score, inside, mel_distance, onsets, seam_flux, seam_steps
from made_data import FRAME_RATE, Made, make
from paired import paired_difference

from sonolora.analysis.likeness import log_mel
from sonolora.core.frames import FRAME_SECONDS, frame_count
from sonolora.core.randomness import normal
from sonolora.data.clips import Clip
from sonolora.data.conditioning_inputs import ConditioningInput, muted
from sonolora.data.encode import Encoder
from sonolora.data.encoding_cache import content_key
from sonolora.data.prepared import PreviewItem
from sonolora.ltx.lora.adapters import rounded_to_bf16
from sonolora.ltx.model.transformer import Transformer
from sonolora.ltx.weights.base import find_base
from sonolora.media.audio import Waveform, peak, peak_normalized, resample
from sonolora.modes import MODES
from sonolora.modes.request import NEGATIVE_PROMPT
from sonolora.sampling.denoiser import Denoise, GuidedDenoiser
from sonolora.sampling.guidance import Guidance
from sonolora.sampling.noise_schedule import sampling_sigmas
from sonolora.sampling.paste_kept import paste_kept
from sonolora.sampling.sampler import SamplingSettings, euler, sample_continued
from sonolora.sampling.windows import WindowedDenoiser, window_starts
from sonolora.training.trainer import TrainingConfig

CPU = torch.device("cpu")
GIVEN = 0.4  # seconds that an extension is given: as much as of a training clip
MODE_NAMES = ("a2a", "v2a", "audio-extend-prefix", "audio-extend-suffix", "audio-inpaint")
FULL = "full length"


@dataclass(frozen=True)
class Setting:
    """What all ways of one mode share. `overlap`: frames that windows share."""

    model: Transformer
    encoder: Encoder
    window: int
    guidance: Guidance
    steps: int
    overlap: int

    def denoiser(self, item: PreviewItem) -> Denoise:
        """Of one clip."""
        return GuidedDenoiser(self.model, item.example, item.negative_context_BSD, self.guidance)

    @torch.inference_mode()
    def latents(self, denoise: Denoise, frames: int, *key: int) -> Tensor:
        """Clean latents (1, T, C)."""
        noise = normal((1, frames, self.encoder.codec.channels), *key)
        return euler(denoise, noise, sampling_sigmas(self.steps).tolist())

    @torch.inference_mode()
    def decode(self, latents: Tensor, seconds: float) -> Waveform:
        """At the output rate."""
        rate = self.encoder.codec.output_sample_rate
        return Waveform(self.encoder.codec.decode(latents)[0, :, : round(seconds * rate)].cpu().numpy(), rate)


def long_sample(mode: str, seed: int, index: int, seconds: float) -> Made:
    """A held-out sample; an extension is given as much as in training, inpainting has half a clip around its span."""
    made = make(mode, seed, index, seconds)
    spans = {
        "audio-extend-prefix": ((GIVEN, seconds),),
        "audio-extend-suffix": ((0.0, seconds - GIVEN),),
        "audio-inpaint": ((0.5, seconds - 0.5),),
    }
    return replace(made, regenerate=spans[mode]) if mode in spans else made


def clip_of(made: Made, sample_rate: int) -> tuple[Clip, float]:
    """As `generate` has it: what is given at the level of training clips; and the gain of what is kept."""
    audio, gain = replace(made.true, samples=np.zeros_like(made.true.samples)), 1.0
    if made.regenerate is not None:
        kept = muted(made.true, made.regenerate)
        audio = peak_normalized(kept)
        gain = peak(audio) / peak(kept)
    reference = None if made.reference is None else resample(peak_normalized(made.reference), sample_rate)
    return (
        Clip(
            "long",
            made.caption,
            resample(audio, sample_rate),
            reference,
            made.regenerate,
            made.film,
            FRAME_RATE if made.film is not None else 0.0,
        ),
        gain,
    )


def window_of(clip: Clip, start: int, frames: int) -> Clip:
    """The part of a clip from a latent frame on, as a clip of its own."""
    rate = clip.audio.sample_rate
    begin, seconds = start * FRAME_SECONDS, (frames - 1) * FRAME_SECONDS
    first, count = round(begin * rate), round(seconds * rate)

    def cut(sound: Waveform) -> Waveform:
        return replace(sound, samples=np.ascontiguousarray(sound.samples[:, first : first + count]))

    regenerate = clip.regenerate and tuple(
        (max(0.0, a - begin), min(seconds, b - begin)) for a, b in clip.regenerate if a < begin + seconds and b > begin
    )
    film = None
    if clip.frames is not None:
        pictures = -(-round(seconds * clip.frame_rate) // 8) * 8 + 1
        shown = np.round(begin * clip.frame_rate) + np.arange(pictures)
        film = clip.frames[np.minimum(shown.astype(int), len(clip.frames) - 1)]
    return replace(
        clip,
        audio=cut(clip.audio),
        reference=None if clip.reference is None else cut(clip.reference),
        regenerate=regenerate,
        frames=film,
    )


def encode(setting: Setting, clip: Clip) -> PreviewItem:
    """What the sampler needs of a clip."""
    contexts = setting.encoder.encode_texts([clip.caption, NEGATIVE_PROMPT], lambda note: None)  # noqa: ARG005
    return setting.encoder.prepare_given(ConditioningInput(clip, clip.audio.seconds), contexts, NEGATIVE_PROMPT)


def full_length(setting: Setting, clip: Clip, seed: int) -> Waveform:
    """In one pass."""
    latents = setting.latents(setting.denoiser(encode(setting, clip)), frame_count(clip.audio.seconds), seed)
    return setting.decode(latents, clip.audio.seconds)


def starts_of(setting: Setting, clip: Clip) -> list[int]:
    """Of all windows."""
    return window_starts(frame_count(clip.audio.seconds), setting.window, setting.overlap)


def together(setting: Setting, clip: Clip, seed: int) -> Waveform:
    """Windows that agree at each step."""
    frames, starts = frame_count(clip.audio.seconds), starts_of(setting, clip)
    denoisers = [setting.denoiser(encode(setting, window_of(clip, start, setting.window))) for start in starts]
    latents = setting.latents(WindowedDenoiser(denoisers, starts, setting.window, frames), frames, seed)
    return setting.decode(latents, clip.audio.seconds)


def one_by_one(setting: Setting, clip: Clip, seed: int) -> Waveform:
    """Windows that know nothing of one another, with noise that they share, crossfaded over what they share."""
    rate = setting.encoder.codec.output_sample_rate
    whole = np.zeros((2, round(clip.audio.seconds * rate)), np.float32)
    frames, end = frame_count(clip.audio.seconds), 0
    noise = normal((1, frames, setting.encoder.codec.channels), seed)
    for start in starts_of(setting, clip):
        denoise = setting.denoiser(encode(setting, window_of(clip, start, setting.window)))
        with torch.inference_mode():
            latents = euler(denoise, noise[:, start : start + setting.window], sampling_sigmas(setting.steps).tolist())
        part = setting.decode(latents, (setting.window - 1) * FRAME_SECONDS).samples
        first = round(start * FRAME_SECONDS * rate)
        part = part[:, : whole.shape[1] - first]
        shared = max(end - first, 0)
        if shared:
            phase = (np.arange(shared, dtype=np.float32) + 0.5) / shared * np.float32(np.pi / 2)
            part[:, :shared] *= np.sin(phase)
            whole[:, first : first + shared] *= np.cos(phase)
        whole[:, first : first + part.shape[1]] += part
        end = first + part.shape[1]
    return Waveform(whole, rate)


def continued(setting: Setting, clip: Clip, seed: int, *, backward: bool) -> Waveform:
    """Each window keeps what it shares with the one before, as an extension keeps what it is given."""
    item, frames = encode(setting, clip), frame_count(clip.audio.seconds)
    starts = starts_of(setting, clip)
    noise = normal((1, frames, setting.encoder.codec.channels), seed)
    latents = sample_continued(
        setting.model,
        item.example,
        starts[::-1] if backward else starts,
        setting.window,
        item.negative_context_BSD,
        noise,
        SamplingSettings(setting.steps, setting.guidance),
    )
    return setting.decode(latents, clip.audio.seconds)


Way = Callable[[Setting, Clip, int], Waveform]


def ways(mode: str) -> dict[str, tuple[Way, float]]:
    """By name: how a long sound is made, and the share of a window that windows overlap by."""
    all_ways: dict[str, tuple[Way, float]] = {
        FULL: (full_length, 0.5),
        "windows together, half shared": (together, 0.5),
        "windows together, a quarter shared": (together, 0.25),
        "windows one by one, half shared": (one_by_one, 0.5),
    }
    if mode.startswith("audio-extend"):
        backward = mode.endswith("suffix")
        all_ways["windows that continue, 40 % shared"] = partial(continued, backward=backward), GIVEN
    if mode == "audio-inpaint":
        all_ways["windows that continue, half shared"] = partial(continued, backward=False), 0.5
    return all_ways


def measure(sound: Waveform, made: Made, seams: Sequence[float], gain: float) -> list[float]:
    """Errors of level step and flux at the seams, log-mel distance, all dB; for films the F-score of the onsets."""
    sound = replace(sound, samples=sound.samples / np.float32(gain))
    true = made.true
    if made.regenerate is None:
        sound, true = peak_normalized(sound), peak_normalized(true)
    else:
        kept = replace(true, samples=true.samples[:, : sound.samples.shape[1]])
        sound = paste_kept(sound, kept, made.regenerate)
    figures = [
        (seam_steps(sound, seams) - seam_steps(true, seams)).abs().mean().item(),
        (seam_flux(sound, seams) - seam_flux(true, seams)).abs().mean().item(),
    ]
    ours, theirs = log_mel(sound), log_mel(true)
    frames = min(len(ours), len(theirs))
    where = inside(frames, made.regenerate) if made.regenerate else torch.ones(frames, dtype=torch.bool)
    figures.append(mel_distance(ours[:frames][where], theirs[:frames][where]))
    if made.film is not None:
        figures.append(f_score(onsets(sound), made.events))
    return figures


def _measured(setting: Setting, way: Way, made: Made, index: int) -> dict[str, Tensor]:
    """The figures of one sample, which the user's cache keeps: an interrupted run goes on."""
    clip, gain = clip_of(made, setting.encoder.codec.sample_rate)
    # The same places for all: the middles of what windows share when they share a half.
    starts = window_starts(frame_count(clip.audio.seconds), setting.window, round(0.5 * setting.window))
    seams = [(b + (a + setting.window - b) / 2) * FRAME_SECONDS for a, b in pairwise(starts)]
    return {"figures": torch.tensor(measure(way(setting, clip, index), made, seams, gain), dtype=torch.float64)}


def rows(mode_name: str, options: argparse.Namespace) -> Iterator[str]:
    """The table of one mode."""
    mode, base = MODES[mode_name], find_base("tiny")
    plan = Plan(
        options.train_clips,
        1,
        0,
        options.seconds,
        options.rank,
        TrainingConfig(options.steps, 1e-3, 0, sigma_density=mode.sigma_density),
    )
    encoder = make_encoder(mode, base, CPU)
    data = prepare(mode, encoder, plan)
    model, adapters = learn(mode, base, data.training_examples, plan.rank, plan.training, CPU)
    window = data.training_examples[0].latents_BTC.shape[1]
    guidance = Guidance.of_base(base.checkpoint.metadata)
    made = [
        long_sample(mode_name, 0, options.train_clips + 1 + index, options.long_seconds)
        for index in range(options.samples)
    ]
    results: dict[str, list[list[float]]] = {}
    with rounded_to_bf16(adapters):
        for name, (way, share) in ways(mode_name).items():
            setting = Setting(model, encoder, window, guidance, options.sampling_steps, round(share * window))
            results[name] = []
            for index, one in enumerate(made):
                what = mode_name, name, repr(plan), str(options.long_seconds), str(options.sampling_steps), str(index)
                figures = encoder.cache.get(
                    content_key("long sounds", *what), partial(_measured, setting, way, one, index)
                )
                results[name].append(figures["figures"].tolist())
            print(mode_name, name, np.mean(results[name], axis=0), file=sys.stderr, flush=True)
    film = made[0].film is not None
    yield f"## {mode_name}\n"
    yield "| way | level step, dB | flux, dB | log-mel distance, dB |" + (" F-score |" if film else "")
    yield "|---|---:|---:|---:|" + ("---:|" if film else "")
    full = torch.tensor(results[FULL], dtype=torch.float64)
    for name, values in results.items():
        these = torch.tensor(values, dtype=torch.float64)
        cells = []
        for column in range(these.shape[1]):
            cell = f"{these[:, column].mean():.2f}"
            if name != FULL:
                margin = paired_difference(full[:, column : column + 1], these[:, column : column + 1])
                cell += f" ({margin.mean:+.2f} [{margin.low:+.2f}, {margin.high:+.2f}])"
            cells.append(cell)
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    parser.add_argument("--modes", nargs="+", default=MODE_NAMES, choices=MODE_NAMES)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a training clip")
    parser.add_argument("--long-seconds", type=float, default=3.0)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--train-clips", type=int, default=48)
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--sampling-steps", type=int, default=15)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("# Sounds longer than the training clips\n")
    for mode in options.modes:
        for line in rows(mode, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
