"""The training loss: rectified flow on the frames that are not kept.

x = (1 - sigma) * latents + sigma * noise;  target velocity = noise - latents;
loss of a sample = mean of (prediction - target)^2 over its regenerated frames and all channels.

B batch, T target frames, C latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sonolora.conditioning import Example, velocity
from sonolora.ltx.model.transformer import Transformer


def flow_losses(model: Transformer, example: Example, noise_BTC: Tensor, sigma_B: Tensor) -> Tensor:
    """Loss of each sample, (B,), float32. Normalised by each sample's own count of regenerated frames."""
    sigma_B11 = sigma_B[:, None, None]
    noisy = (1 - sigma_B11) * example.latents_BTC + sigma_B11 * noise_BTC
    predicted = velocity(model, example, noisy, sigma_B)
    errors_BT = (predicted - (noise_BTC - example.latents_BTC)).square().mean(dim=-1)
    return regenerated_means(errors_BT, example)


def regenerated_means(errors_BT: Tensor, example: Example) -> Tensor:
    """Mean over each sample's own regenerated frames, (B,)."""
    if example.keep_BT is None:
        return errors_BT.mean(dim=1)
    regenerated_BT = ~example.keep_BT
    return torch.where(regenerated_BT, errors_BT, 0.0).sum(dim=1) / regenerated_BT.sum(dim=1)
