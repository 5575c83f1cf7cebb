"""Trains the audio VAE of `tiny` on the corpus.

    python tools/tiny/train_vae.py [--work DIR] [--steps N] [--device cuda]

Out: vae.pt and vae.jsonl in the work folder; run it again to go on. The loss is the L1 distance of log-mels, of the
spectrogram itself and of it averaged over 2 x 2 and 4 x 4 cells, which keeps levels and envelopes right where single
cells cannot be, and a light KL distance to the standard normal distribution. The posterior is sampled, in training
only: the decoder learns to bear the errors that a generated latent has.

B batch, M mel frames, F mel bands, T latent frames, Z latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from batches import Clips
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from fit import LossesOf, Plan, arguments, fit
from header import CONFIG
from torch import Tensor

from sonolora.ltx.audio_codec import build_log_mel, build_vae
from sonolora.ltx.mel import LogMel
from sonolora.randomness import generator

NAME = "vae"
CROP_SECONDS = 0.64  # 17 latent frames
KL_WEIGHT = 0.01  # per latent number, against nepers per mel cell
_SCALES = (2, 4)
_SCALE_WEIGHT = 0.5
_MEL_MEAN, _MEL_SPREAD = -6.0, 3.0  # roughly, of the corpus: where the outer layers start from
_LOG_VARIANCES = (-30.0, 20.0)


def new_vae() -> AutoencoderKLLTX2Audio:
    """The untrained network, its first and last layer set to the range of log-mels."""
    vae = build_vae(CONFIG["audio_vae"])
    first, last = vae.encoder.conv_in.conv, vae.decoder.conv_out.conv
    with torch.no_grad():
        first.weight /= _MEL_SPREAD
        first.bias -= _MEL_MEAN * first.weight.sum((1, 2, 3))
        last.weight *= _MEL_SPREAD
        last.bias.fill_(_MEL_MEAN)
    return vae


def sampled(vae: AutoencoderKLLTX2Audio, mel_BCMF: Tensor, *key: int | str) -> tuple[Tensor, Tensor]:
    """Latents (B, Z, T, F') drawn from the posterior of log-mels, and its mean KL distance to the standard normal."""
    mean, log_variance = vae.encoder(mel_BCMF).chunk(2, dim=1)
    log_variance = log_variance.clamp(*_LOG_VARIANCES)
    noise = torch.randn(mean.shape, generator=generator(*key)).to(mean.device)
    distance = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return mean + (0.5 * log_variance).exp() * noise, distance.mean()


def losses(vae: AutoencoderKLLTX2Audio, mel_BCMF: Tensor, step: int) -> dict[str, Tensor]:
    """The loss and its parts."""
    latents, kl = sampled(vae, mel_BCMF, 0, "posterior", step)
    error = vae.decoder(latents) - mel_BCMF
    cells = error.abs().mean()
    coarse = torch.stack([F.avg_pool2d(error, scale).abs().mean() for scale in _SCALES]).mean()
    return {"loss": cells + _SCALE_WEIGHT * coarse + KL_WEIGHT * kl, "mel": cells, "coarse": coarse, "kl": kl}


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLLTX2Audio, log_mel: LogMel, sounds_BCN: Tensor) -> None:
    """Set the mean and spread by which latents are normalised to those of the sounds."""
    means = torch.cat([vae.encoder(log_mel(sound[None])).chunk(2, dim=1)[0] for sound in sounds_BCN])
    tokens = means.transpose(1, 2).flatten(2).flatten(0, 1)  # (B * T, Z * F')
    vae.latents_mean.copy_(tokens.mean(0))
    vae.latents_std.copy_(tokens.std(0))


def training(clips: Clips, batch: int, device: torch.device) -> tuple[AutoencoderKLLTX2Audio, LossesOf]:
    """The network as it starts, and the losses of a step."""
    vae = new_vae().to(device)
    log_mel = build_log_mel(CONFIG["audio_vae"], device)

    def losses_of(step: int) -> dict[str, Tensor]:
        low, _ = clips.crops(step, batch, CROP_SECONDS)
        return losses(vae, log_mel(low.to(device)), step)

    return vae, losses_of


def main() -> None:
    args = arguments(__doc__, batch=8, steps=20_000, learning_rate=1e-3).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clips = Clips(args.work / "clips")
    clips.make_in_background()
    vae, losses_of = training(clips, args.batch, torch.device(args.device))
    fit(Plan(args.work, NAME, CONFIG["audio_vae"], args.batch, args.steps, args.learning_rate), vae, losses_of)


if __name__ == "__main__":
    main()
