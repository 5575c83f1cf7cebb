"""Trains the vocoder of `tiny` on the corpus, in two stages, after the audio VAE.

    python tools/tiny/train_vocoder.py vocoder [--work DIR] [--steps N] [--device cuda]
    python tools/tiny/train_vocoder.py bwe     [--work DIR] [--steps N] [--device cuda]

Out: vocoder.pt (log-mels to 16 kHz) and bwe.pt (bandwidth extension to 48 kHz), each with its log; run it again to
resume. Half of every batch is vocoded from true log-mels and half from those of the VAE with noise in its latents, so
that the vocoder tolerates the blur of the VAE. The loss compares spectra at several resolutions; there are no
discriminators.

B batch, C channels, N samples, M mel frames, F mel bands.
"""

from __future__ import annotations

from pathlib import Path

import torch
from batches import HIGH, LOW, Clips
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from distances import averaging_filters
from fit import LossesOf, Plan, arguments, fit, newest
from header import CONFIG
from make_random_base import fill_stft
from torch import Tensor, nn
from train_vae import CROP_SECONDS, new_vae, noisy_latents
from train_vae import NAME as VAE_NAME

from sonolora.ltx.codec.audio_codec import build_log_mel, build_vae, build_vocoder

STAGES = ("vocoder", "bwe")  # as in the header
Scales = tuple[tuple[int, int], ...]  # window in samples, mel bands
# The last scales, long and wide, measure the level alone: where the fine structure is unpredictable, such as the
# phase of a tone that is not a multiple of 100 Hz, all others favour too low a level.
SCALES: dict[str, Scales] = {
    "vocoder": ((2048, 256), (1024, 128), (512, 64), (256, 32), (128, 16), (2048, 24), (1024, 8)),
    "bwe": ((4096, 256), (2048, 128), (1024, 64), (512, 32), (4096, 24)),
}
_BINS_WEIGHT = 0.1
_QUIET = 1e-4  # magnitude below which differences fade out; a full-scale sine has 1
_FIRST_LAYER_MEAN, _FIRST_LAYER_SPREAD = -6.0, 3.0  # approximate values of the log-mels of the corpus
_LAST_LAYER_SCALE = 0.1
_BRANCH_SCALE = 0.1  # of the residual branches: their sum is not normalised, and larger values diverge


def new_vocoder() -> LTX2VocoderWithBWE:
    """The untrained network: quiet, close to linear, with its first layers scaled to log-mels."""
    vocoder = build_vocoder(CONFIG["vocoder"], build_vae(CONFIG["audio_vae"]))
    with torch.no_grad():
        fill_stft(vocoder.mel_stft, CONFIG["vocoder"]["bwe"])
        for stage in (vocoder.vocoder, vocoder.bwe_generator):
            stage.conv_in.weight /= _FIRST_LAYER_SPREAD
            stage.conv_in.bias -= _FIRST_LAYER_MEAN * stage.conv_in.weight.sum((1, 2))
            stage.conv_out.weight *= _LAST_LAYER_SCALE
            for block in stage.resnets:
                for last in block.convs2:
                    last.weight *= _BRANCH_SCALE
                    last.bias *= _BRANCH_SCALE
    return vocoder


def extend(vocoder: LTX2VocoderWithBWE, low_BCN: Tensor) -> Tensor:
    """The second half of the vocoder: 16 kHz to 48 kHz (B, C, 3 N)."""
    mel = vocoder.mel_stft(low_BCN.flatten(0, 1))[0].unflatten(0, low_BCN.shape[:2])
    return vocoder.bwe_generator(mel, time_last=True) + vocoder.resampler(low_BCN)  # type: ignore[no-any-return]


def spectral_loss(made_BCN: Tensor, true_BCN: Tensor, rate: int, scales: Scales) -> dict[str, Tensor]:
    """Spectral distance, mean over the scales, for left, right, mid and side.

    "bands" is the L1 distance of log power in mel bands, which weighs quiet and loud parts alike and ignores the fine
    structure of noise. "bins" is the L1 distance of magnitudes relative to the true sound, which weighs peaks. Where
    the fine structure is unpredictable the latter favours silence, so its weight is small.
    """
    made, true = _with_mid_and_side(made_BCN), _with_mid_and_side(true_BCN)
    bands, bins = made.new_zeros(()), made.new_zeros(())
    for size, count in scales:
        ours, theirs = _magnitudes(made, size), _magnitudes(true, size)
        filters = averaging_filters(count, size, rate).to(made.device)
        levels = [(filters @ magnitudes.square() + _QUIET**2).log() / 2 for magnitudes in (ours, theirs)]
        bands = bands + (levels[0] - levels[1]).abs().mean()
        # One reference level per clip: the side channel may be silent.
        relative = (ours - theirs).abs().mean((0, 2, 3)) / (theirs.mean((0, 2, 3)) + _QUIET)
        bins = bins + relative.mean()
    bands, bins = bands / len(scales), bins / len(scales)
    return {"loss": bands + _BINS_WEIGHT * bins, "bands": bands, "bins": bins}


def vocoder_losses(vocoder: LTX2VocoderWithBWE, mel_BCMF: Tensor, low_BCN: Tensor) -> dict[str, Tensor]:
    """The vocoder loss. The last mel frame is centred on the end of the sound and has no samples of its own."""
    return spectral_loss(vocoder.vocoder(mel_BCMF[:, :, :-1]), low_BCN, LOW, SCALES["vocoder"])


def bwe_losses(vocoder: LTX2VocoderWithBWE, low_BCN: Tensor, high_BCN: Tensor) -> dict[str, Tensor]:
    """The loss of bandwidth extension from 16 kHz, true or vocoded, to the true 48 kHz."""
    return spectral_loss(extend(vocoder, low_BCN), high_BCN, HIGH, SCALES["bwe"])


@torch.no_grad()
def half_decoded(vae: nn.Module, mel_BCMF: Tensor, step: int) -> Tensor:
    """Log-mels, the first half of the batch as decoded by the VAE."""
    half = len(mel_BCMF) // 2
    latents = noisy_latents(vae, mel_BCMF[:half], 0, "vocoder", step)
    return torch.cat([vae.decoder(latents), mel_BCMF[half:]])


def _with_mid_and_side(sound_BCN: Tensor) -> Tensor:
    """Left, right, mid and side, (4, B, N)."""
    left, right = sound_BCN.unbind(1)
    return torch.stack([left, right, (left + right) / 2, (left - right) / 2])


def _magnitudes(sounds_4BN: Tensor, size: int) -> Tensor:
    """(4, B, bins, frames); a sine of full scale has 1."""
    window = torch.hann_window(size, device=sounds_4BN.device)
    spectra = torch.stft(sounds_4BN.flatten(0, 1), size, size // 4, window=window, return_complex=True)
    # The gradient of the root is infinite at zero.
    magnitudes = (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt() * (4 / size)
    return magnitudes.unflatten(0, sounds_4BN.shape[:2])


def training(stage: str, work: Path, clips: Clips, batch: int, device: torch.device) -> tuple[nn.Module, LossesOf]:
    """The initial network of a stage and the loss function. Exits if a part that it needs is not trained."""
    log_mel = build_log_mel(CONFIG["audio_vae"], device)
    vae = new_vae().to(device).eval().requires_grad_(False)
    vae.load_state_dict(_trained(work, VAE_NAME, CONFIG["audio_vae"]))
    vocoder = new_vocoder().to(device)
    if stage == "bwe":
        vocoder.vocoder.load_state_dict(_trained(work, "vocoder", CONFIG["vocoder"]["vocoder"]))
        vocoder.vocoder.eval().requires_grad_(False)

    def losses_of(step: int) -> dict[str, Tensor]:
        low, high = (crops.to(device) for crops in clips.crops(step, batch, CROP_SECONDS))
        mel = half_decoded(vae, log_mel(low), step)
        if stage == "vocoder":
            return vocoder_losses(vocoder, mel, low)
        half = batch // 2
        with torch.no_grad():
            low = torch.cat([vocoder.vocoder(mel[:half, :, :-1]), low[half:]])
        return bwe_losses(vocoder, low, high)

    return vocoder.vocoder if stage == "vocoder" else vocoder.bwe_generator, losses_of


def _trained(work: Path, name: str, header: object) -> dict[str, Tensor]:
    state = newest(work, name, header)
    if not state:
        raise SystemExit(f"{work} has no {name}.pt, which must be trained first")
    average: dict[str, Tensor] = state["average"]
    return average


def main() -> None:
    parser = arguments(__doc__, batch=8, steps=100_000, learning_rate=5e-4)
    parser.add_argument("stage", choices=STAGES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clips = Clips(args.work / "clips")
    clips.make_in_background()
    network, losses_of = training(args.stage, args.work, clips, args.batch, torch.device(args.device))
    header = CONFIG["vocoder"][args.stage]
    fit(Plan(args.work, args.stage, header, args.batch, args.steps, args.learning_rate), network, losses_of)


if __name__ == "__main__":
    main()
