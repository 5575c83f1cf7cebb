"""Trains the audio VAE of `tiny` on the corpus: the encoder in closed form, the decoder by gradient.

    python tools/tiny/train_vae.py [--work DIR] [--steps N] [--device cuda]

Out: vae.pt and vae.jsonl in the work folder; run it again to resume. The encoder is that of components.py and frozen
from the start, so the transformer can be trained before the decoder is finished. The loss is the L1 distance of
log-mels at full resolution and averaged over 2 x 2 and 4 x 4 cells, which keeps levels and envelopes right where single
cells cannot be. In training latents get noise, so that the decoder tolerates the errors of generated latents.

B batch, M mel frames, F mel bands, T latent frames, Z latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from batches import Clips
from components import fit_components, measure_statistics, write_encoder
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
from fit import LossesOf, Plan, arguments, fit
from header import CONFIG
from torch import Tensor

from sonolora.core.randomness import generator
from sonolora.ltx.codec.audio_codec import build_log_mel, build_vae

NAME = "vae"
CROP_SECONDS = 0.64  # 17 latent frames
NOISE = 0.15  # maximum scale; latents have unit RMS
_SCALES = (2, 4)
_SCALE_WEIGHT = 0.5
_MEL_MEAN, _MEL_SPREAD = -6.0, 3.0  # approximate values of the corpus, to initialise the last layer
_BLOCKS_FITTED = 6
_AT_ONCE = 8  # clips


def new_vae() -> AutoencoderKLLTX2Audio:
    """The untrained network with its last layer scaled to log-mels."""
    vae = build_vae(CONFIG["audio_vae"])
    last = vae.decoder.conv_out.conv
    with torch.no_grad():
        last.weight *= _MEL_SPREAD
        last.bias.fill_(_MEL_MEAN)
    return vae


def fit_encoder(vae: AutoencoderKLLTX2Audio, clips: Clips) -> None:
    """Compute the encoder and the statistics of its latents from the first clips of the corpus.

    Weights are stored as bfloat16, so the encoder is rounded before its latents are used.
    """
    log_mel = build_log_mel(CONFIG["audio_vae"], torch.device("cpu"))
    log_mels = [
        log_mel(sounds)
        for block in range(min(_BLOCKS_FITTED, clips.blocks))
        for sounds in clips.block(block).split(_AT_ONCE)
    ]
    write_encoder(vae.encoder, fit_components(log_mels, vae.config.latent_channels))
    measure_statistics(vae, log_mels)
    for tensor in (*vae.encoder.parameters(), vae.latents_mean, vae.latents_std):
        tensor.data = tensor.data.bfloat16().float()
    vae.encoder.requires_grad_(False)


@torch.no_grad()
def noisy_latents(vae: AutoencoderKLLTX2Audio, mel_BCMF: Tensor, *key: int | str) -> Tensor:
    """Latents (B, Z, T, F') with noise of a random scale per sample."""
    latents = vae.encoder(mel_BCMF).chunk(2, dim=1)[0]
    rng = generator(*key)
    sizes = NOISE * torch.rand(len(latents), 1, 1, 1, generator=rng)
    return latents + (sizes * torch.randn(latents.shape, generator=rng)).to(latents.device)


def losses(vae: AutoencoderKLLTX2Audio, mel_BCMF: Tensor, step: int) -> dict[str, Tensor]:
    """The loss and its terms."""
    error = vae.decoder(noisy_latents(vae, mel_BCMF, 0, "latents", step)) - mel_BCMF
    cells = error.abs().mean()
    coarse = torch.stack([F.avg_pool2d(error, scale).abs().mean() for scale in _SCALES]).mean()
    return {"loss": cells + _SCALE_WEIGHT * coarse, "mel": cells, "coarse": coarse}


def training(clips: Clips, batch: int, device: torch.device) -> tuple[AutoencoderKLLTX2Audio, LossesOf]:
    """The initial network and the loss function."""
    vae = new_vae()
    fit_encoder(vae, clips)
    vae.to(device)
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
