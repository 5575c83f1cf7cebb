"""The encoder of `tiny`'s audio VAE in closed form: principal components of patches of log-mels.

In: log-mels of many sounds. Out: weights of the published encoder that compute these components, exactly linearly.

A latent frame covers 4 mel frames, and each of its 16 frequencies 4 bands, of 2 channels: 32 numbers become 4. The best
4 for a linear decoder are the principal components; the decoder is then trained (train_vae.py) and does better, since
it reads neighbouring patches. Components are scaled by the inverse root of their spread, which narrows the
range from strong to faint ones, and rotated so that all four channels have equal variance: noise then masks fine detail
before it masks the level. Trained from random weights instead, encoder and decoder took hours on two cores to reach the
quality that this has at the start.

How an encoder with normalisations computes a linear map: the residual branches add nothing; the strided convolutions
gather a patch; one channel carries a constant so large that the last normalisation divides by it alone; and every
number goes through the last activation twice, with both signs, for silu(x) - silu(-x) = x.

B batch, C channels, M mel frames, F mel bands.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio, LTX2AudioEncoder
from torch import Tensor, nn

LATENTS = 4
_SIDE = 4  # of a patch, in mel frames and in bands
_CENTRE = -6.0  # roughly the mean of log-mels; also the padding before the start of a sound
_FLOOR, _LOUD = -11.5, -4.0  # log-mels of silence, and from where on a patch counts fully
_LEAST_WEIGHT = 0.05
_CONSTANT = 2.0**14
# For the published number of latents; smaller test models use its upper left corner.
_ROTATION = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
_LOG_VARIANCE = -4.0  # of the posterior, which is not sampled here


@torch.no_grad()
def fit_components(log_mels: list[Tensor], count: int = LATENTS) -> Tensor:
    """The map from a centred patch to its `count` latents, (count, C, 4, 4), from log-mels (B, C, M, F).

    Latents have unit RMS. Patches are weighted by level: inaudible ones are not worth a component.
    """
    patches = torch.cat([_patches(mel) for mel in log_mels]).double()
    level = patches.mean(1) + _CENTRE
    weights = ((level - _FLOOR) / (_LOUD - _FLOOR)).clamp(_LEAST_WEIGHT, 1)[:, None]
    covariance = (weights * patches).T @ patches / weights.sum()
    variances, vectors = torch.linalg.eigh(covariance)
    strongest = range(len(variances) - 1, len(variances) - 1 - count, -1)
    components = torch.stack([vectors[:, i] / variances[i] ** 0.25 for i in strongest])
    latents = _ROTATION[:count, :count].double() @ components
    size = (latents @ patches.T).square().mean().sqrt()
    return (latents / size).float().unflatten(1, (-1, _SIDE, _SIDE))


@torch.no_grad()
def write_encoder(encoder: LTX2AudioEncoder, latents_LCMF: Tensor) -> None:
    """Fill the encoder with the weights that compute these latents. Rounding to bfloat16 hardly changes them."""
    for parameter in encoder.parameters():
        parameter.zero_()
    count, channels = latents_LCMF.shape[:2]
    enter = encoder.conv_in.conv
    for channel in range(channels):
        enter.weight[channel, channel, 2, 1] = 1  # the kernel's newest row and middle column: the cell itself
        enter.bias[channel] = -_CENTRE
    enter.bias[-1] = _CONSTANT
    # Both strided convolutions see mel frames (2t - 2, 2t - 1, 2t) and bands (2f, 2f + 1, 2f + 2) and leave out the
    # first and the last of them. The first one only gathers: channel 4c + 2m + f.
    gather, project = (encoder.down[level].downsample.conv for level in (0, 1))
    for channel in range(channels):
        for late in range(2):
            for high in range(2):
                inner = 4 * channel + 2 * late + high
                gather.weight[inner, channel, 1 + late, high] = 1
                for latent in range(count):
                    for outer_late in range(2):
                        for outer_high in range(2):
                            value = latents_LCMF[latent, channel, 2 * outer_late + late, 2 * outer_high + high]
                            project.weight[latent, inner, 1 + outer_late, outer_high] = value
                            project.weight[count + latent, inner, 1 + outer_late, outer_high] = -value
    for convolution in (gather, project):
        convolution.weight[-1, -1, 2, 0] = 1
    leave = encoder.conv_out.conv
    divided = _CONSTANT / leave.weight.shape[1] ** 0.5
    for latent in range(count):
        leave.weight[latent, latent, 2, 1] = divided
        leave.weight[latent, count + latent, 2, 1] = -divided
        leave.bias[count + latent] = _LOG_VARIANCE


@torch.no_grad()
def measure_statistics(vae: AutoencoderKLLTX2Audio, log_mels: list[Tensor]) -> None:
    """Set the normalisation of latents to their mean and standard deviation over the sounds."""
    means = [vae.encoder(mel).chunk(2, dim=1)[0] for mel in log_mels]
    tokens = torch.cat([mean.transpose(1, 2).flatten(2).flatten(0, 1) for mean in means])  # (B * T, Z * F')
    vae.latents_mean.copy_(tokens.mean(0))
    vae.latents_std.copy_(tokens.std(0))


def _patches(log_mel_BCMF: Tensor) -> Tensor:
    """(patches, C * 4 * 4), centred, as the encoder cuts them, without the first frame, which has no past."""
    body = log_mel_BCMF[:, :, 1:] - _CENTRE
    body = body[:, :, : body.shape[2] // _SIDE * _SIDE]
    cells = nn.functional.unfold(body, _SIDE, stride=_SIDE)  # (B, C * 16, patches)
    return cells.transpose(1, 2).flatten(0, 1)
