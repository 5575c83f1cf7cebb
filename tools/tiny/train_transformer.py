"""Trains the transformer of `tiny` with its text projections and connectors, on latents of the corpus.

    python tools/tiny/train_transformer.py [--work DIR] [--steps N] [--device cuda]

Out: transformer.pt and transformer.jsonl in the work folder; run it again to resume. Needs vae.pt (its encoder alone)
and, for the videos that are added after the first steps, video.pt.

Rectified flow with the loss that LoRAs are trained with (sonolora.training.loss). The base should be a generalist: most
batches are sounds with their captions; in some a part is kept (a prefix, a suffix or the context of a span); some have
a changed copy of the sound as a reference; videos are given clean, as in video-to-audio, without a loss of their own.
Some captions are replaced by the empty one or the default negative prompt, from which guidance steers away. The
language model stays random; its projections are trained. In the last part most batches are videos.

B batch, T audio frames, R reference frames, C latent channels, S text tokens, L hidden states, E their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import make_random_base
import torch
import torch.nn.functional as F
import train_vae
import train_video_encoder
from fit import LossesOf, Plan, arguments, fit, newest
from header import CONFIG
from latents import FILMS, SETS, SOUNDS, Block, ClipSet, Latents
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from sonolora.conditioning import Example, Video
from sonolora.core.frames import FRAME_SECONDS, FRAMES_PER_LATENT
from sonolora.core.randomness import generator
from sonolora.ltx.codec.audio_codec import AudioCodec, build_log_mel, build_vocoder
from sonolora.ltx.codec.video_encoder import VideoEncoder, video_token_midpoints
from sonolora.ltx.model.transformer import Transformer
from sonolora.ltx.text.text_encoder import Tokenizer
from sonolora.ltx.text.text_projector import TextProjector
from sonolora.ltx.weights.transformer_config import TransformerConfig
from sonolora.modes.request import NEGATIVE_PROMPT
from sonolora.training.loss import flow_losses

NAME = "transformer"
TEXT_ENCODER = "text_encoder"  # folder, in the work folder and in a base
FILMS_FROM, MOSTLY_FILMS_FROM = 2_000, 10_000  # steps
_STEPS_PER_BLOCK = 60
_SHIFT = 1.0  # of the noise levels towards 1, where the sampler takes most of its steps
_KEEPS, _KEEPS_OF_FILMS, _REFERENCES = 0.35, 0.1, 0.15  # shares of batches
_DROPPED, _DROPPED_OF_FILMS = 0.12, 0.3  # shares of captions
# The cross-attentions of a block, to the text and to the other stream.
_GUESTS = ("audio_attn2", "attn2", "audio_to_video_attn", "video_to_audio_attn")
_TEXT_GATE, _OTHER_GATE = 8, 4  # rows of the scale and shift tables
_TOLD_WEIGHT = 0.3  # of the loss that predicts means and standard deviations of the latents from the text context
_WITHOUT_PICTURE = 0.15  # share of video batches
_MORE_FILMS = 7.5  # factor on their share in the last part
_SEEN_WEIGHT = 0.3  # of the loss that predicts the sound's level from the video
_SEEN_AFTER = 1  # block index; later blocks can use what it reads
_HARDLY_HEARD = 0.85  # noise level above which the noisy sound says little about its level


class Network(nn.Module):
    """The networks that are trained together."""

    def __init__(self) -> None:
        super().__init__()
        config = TransformerConfig.from_header(CONFIG["transformer"])
        states = make_random_base.TEXT_LAYERS + 1
        self.transformer = Transformer(config, video=True)
        self.audio = TextProjector(states, config.text_channels, config.audio_connector)
        self.video = TextProjector(states, config.text_channels, config.video_connector)
        make_random_base.initialise(self)
        for proj_out in (self.transformer.audio_proj_out, self.transformer.proj_out):
            nn.init.zeros_(proj_out.weight)
        # These two are used in training only.
        self.heard = nn.Linear(config.audio.context_dim, 2 * config.audio.channels)
        self.seen = nn.Linear(config.video.width, FRAMES_PER_LATENT)
        keep_open(self.transformer)
        self.watched: Tensor | None = None  # video tokens of the last forward pass (B, N, D), where there was a film
        self.transformer.transformer_blocks[_SEEN_AFTER].register_forward_hook(self._watch)

    def _watch(self, block: nn.Module, given: object, made: tuple[Tensor, Tensor | None]) -> None:  # noqa: ARG002
        self.watched = made[1]


@torch.no_grad()
def keep_open(transformer: Transformer) -> None:
    """Let the text and the other stream start with no effect, through gates that cannot close.

    At first their output is noise. In two trials the network closed their gates within a few hundred steps, for good,
    since no gradient passes through a closed gate. So gates and scales are frozen open, and the output layers, which
    start from zero, learn what to admit.
    """
    for adaln in (transformer.audio_prompt_adaln_single, transformer.prompt_adaln_single):
        _hold(adaln.linear.weight, slice(None), 0.0)
        _hold(adaln.linear.bias, slice(None), 0.0)
    for adaln in (transformer.audio_adaln_single, transformer.adaln_single):
        width = adaln.linear.out_features // 9
        rows = slice(_TEXT_GATE * width, (_TEXT_GATE + 1) * width)
        _hold(adaln.linear.weight, rows, 0.0)
        _hold(adaln.linear.bias, rows, 0.0)
    for block in transformer.transformer_blocks:
        for name in ("audio_prompt_scale_shift_table", "prompt_scale_shift_table"):
            _hold(block.get_parameter(name), slice(None), 0.0)
        for name in ("audio_scale_shift_table", "scale_shift_table"):
            _hold(block.get_parameter(name), slice(_TEXT_GATE, _TEXT_GATE + 1), 1.0)
        for name in ("scale_shift_table_a2v_ca_audio", "scale_shift_table_a2v_ca_video"):
            _hold(block.get_parameter(name), slice(_OTHER_GATE, _OTHER_GATE + 1), 1.0)
        for name in _GUESTS:
            attention = block.get_submodule(name)
            for parameter in attention.get_submodule("to_gate_logits").parameters():
                _hold(parameter, slice(None), 0.0)
            for parameter in attention.get_submodule("to_out.0").parameters():
                nn.init.zeros_(parameter)


def _hold(parameter: nn.Parameter, rows: slice, value: float) -> None:
    """Set rows of a parameter and zero their gradients."""
    parameter[rows] = value

    def without_gradient(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[rows] = 0
        return gradient

    parameter.register_hook(without_gradient)


class Texts:
    """Captions to the input of the projections."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not (folder / "model.safetensors").exists():
            torch.manual_seed(0)
            make_random_base.write_text_encoder(folder)
        inner = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.tokenizer = Tokenizer(inner, inner.model_max_length)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).float().eval().to(device)

    @torch.no_grad()
    def states(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states (L, B, S, E) and a mask (B, S) of the tokens. Padding comes last, and attention is causal."""
        places = self.tokenizer.max_tokens
        rows = [self.tokenizer.tokens(caption)[:places] for caption in captions]
        counts = torch.tensor([len(row) for row in rows])
        longest = int(counts.max())
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.model.device)
        output = self.model(input_ids=tokens, use_cache=False, output_hidden_states=True)
        states = F.pad(torch.stack(output.hidden_states), (0, 0, 0, places - longest))
        mask = torch.arange(places) < counts[:, None]
        return states * mask[..., None].to(states), mask.to(states.device)


@dataclass(frozen=True)
class Mix:
    """The sets that a batch is drawn from with their shares, and for how many steps they have been in use."""

    shares: Mapping[ClipSet, float]
    since: Mapping[ClipSet, int]
    without_picture: float = 0.0  # share of video batches


def mix_at(step: int) -> Mix:
    """Sounds at first, then also videos, and mostly videos in the last part."""
    sets = SETS if step >= FILMS_FROM else SOUNDS
    more = _MORE_FILMS if step >= MOSTLY_FILMS_FROM else 1
    return Mix(
        {one: one.share * (more if one in FILMS else 1) for one in sets},
        {one: step - (FILMS_FROM if one in FILMS else 0) for one in sets},
        _WITHOUT_PICTURE,
    )


def batch_of(
    mix: Mix, rng: torch.Generator, cache: Latents, tilts_KC: Tensor, texts: Texts, network: Network
) -> Example:
    """A training batch."""
    sets = list(mix.shares)
    clips = sets[int(torch.multinomial(torch.tensor(list(mix.shares.values())), 1, generator=rng))]
    block, rows = _drawn(clips, mix.since[clips], cache, rng)
    device = tilts_KC.device
    films = block.video_BCFHW is not None
    latents = block.latents_BTC[rows].float().to(device)
    dropped = _DROPPED_OF_FILMS if films else _DROPPED
    captions = [_kept_or_dropped(block.captions[row], dropped, rng) for row in rows]
    states, mask = texts.states(captions)
    context = network.audio(states, mask)

    keep = reference = video = None
    chance = torch.rand((), generator=rng)
    if chance < (_KEEPS_OF_FILMS if films else _KEEPS):
        keep = torch.stack([_kept(latents.shape[1], rng) for _ in rows]).to(device)
    elif not films and chance < _KEEPS + _REFERENCES:
        reference = _changed(latents, tilts_KC, rng)
    if block.video_BCFHW is not None and torch.rand((), generator=rng) > mix.without_picture:
        seen = block.video_BCFHW[rows].float().to(device)
        frames, height, width = seen.shape[2:]
        positions = video_token_midpoints(frames, height, width, train_video_encoder.FRAME_RATE).to(device)
        tokens = seen.flatten(2).transpose(1, 2)
        video = Video(tokens, positions.expand(len(rows), -1, -1), network.video(states, mask))
    return Example(latents, context, keep, reference, video)


def _drawn(clips: ClipSet, since: int, cache: Latents, rng: torch.Generator) -> tuple[Block, list[int]]:
    blocks = min(clips.blocks, 1 + since // _STEPS_PER_BLOCK)
    block = cache.block(clips, int(torch.randint(blocks, (), generator=rng)))
    return block, torch.randperm(len(block.captions), generator=rng)[: clips.batch].tolist()


def _kept_or_dropped(caption: str, dropped: float, rng: torch.Generator) -> str:
    chance = torch.rand((), generator=rng)
    return caption if chance > dropped else NEGATIVE_PROMPT if chance < dropped / 2 else ""


def _kept(frames: int, rng: torch.Generator) -> Tensor:
    """Mask of the kept frames (T,): before, after or around one span."""
    first, length, kind = torch.rand(3, generator=rng).tolist()
    count = max(1, round(frames * (0.2 + 0.6 * length)))
    start = (frames - count, 0, round((frames - count) * first))[int(3 * kind)]
    at = torch.arange(frames)
    return (at < start) | (at >= start + count)


def _changed(latents_BTC: Tensor, tilts_KC: Tensor, rng: torch.Generator) -> Tensor:
    """References (B, R, C): the sounds with level and brightness changed, blurred in time, or with noise."""
    batch = len(latents_BTC)
    amounts = torch.randn(batch, len(tilts_KC), generator=rng).to(latents_BTC) @ tilts_KC
    blurred = F.avg_pool1d(latents_BTC.transpose(1, 2), 5, 1, 2, count_include_pad=False).transpose(1, 2)
    noise = torch.randn(latents_BTC.shape, generator=rng).to(latents_BTC)
    way = torch.randint(3, (batch, 1, 1), generator=rng).to(latents_BTC.device)
    return torch.where(
        way == 0, latents_BTC + amounts[:, None], torch.where(way == 1, blurred, latents_BTC + 0.4 * noise)
    )


@torch.no_grad()
def tilts(codec: AudioCodec) -> Tensor:
    """What a gain of one neper, and a tilt of one neper over the bands, add to a token: (2, C)."""
    bands = CONFIG["audio_vae"]["model"]["params"]["ddconfig"]["mel_bins"]
    flat = torch.full((1, 2, 9, bands), -6.0)
    slope = torch.linspace(-1, 1, bands)

    def tokens(mel: Tensor) -> Tensor:
        mean = codec.vae.encoder(mel).chunk(2, dim=1)[0]
        return (mean.transpose(1, 2).flatten(2) / codec.vae.latents_std)[0, -1]

    return torch.stack([tokens(flat + 1), tokens(flat + slope)]) - tokens(flat)


def levels_by_picture(latents_BTC: Tensor, frames: int, louder_C: Tensor) -> Tensor:
    """Level of the sound during each video frame, (B, F, 8) for F video latents; the first latent has one frame.

    `louder_C` is what a gain of one neper adds to a token.
    """
    levels_BT = latents_BTC @ louder_C / louder_C.square().sum()
    pictures = torch.arange(FRAMES_PER_LATENT * frames, device=levels_BT.device) - (FRAMES_PER_LATENT - 1)
    at = ((pictures.clamp(min=0) + 0.5) / train_video_encoder.FRAME_RATE / FRAME_SECONDS).round().long()
    return levels_BT[:, at.clamp(max=levels_BT.shape[1] - 1)].unflatten(1, (frames, FRAMES_PER_LATENT))


def losses(network: Network, example: Example, rng: torch.Generator, louder_C: Tensor) -> dict[str, Tensor]:
    """The mean loss of a batch."""
    uniform = torch.rand(len(example.latents_BTC), generator=rng)
    odds = math.exp(_SHIFT) * uniform / (1 - uniform).clamp(min=1e-6)
    sigma = (odds / (1 + odds)).to(example.latents_BTC.device)
    noise = torch.randn(example.latents_BTC.shape, generator=rng).to(sigma.device)
    flow = flow_losses(network.transformer, example, noise, sigma).mean()
    # Predicted from the whole context, registers included, so that every position carries the words early.
    means, spreads = network.heard(example.context_BSD.mean(1)).chunk(2, dim=1)
    latents = example.latents_BTC
    told = F.mse_loss(means, latents.mean(1)) + F.mse_loss(spreads, latents.std(1))
    loss = flow + _TOLD_WEIGHT * told
    return {"loss": loss, "flow": flow, "told": told} | _seen(network, example, sigma, louder_C, loss)


def _seen(network: Network, example: Example, sigma_B: Tensor, louder_C: Tensor, loss: Tensor) -> dict[str, Tensor]:
    """For videos, an auxiliary loss: the sound's level predicted from the video tokens after an early block.

    It makes the video stream learn early to read from its latents when a sound occurs.
    """
    hidden, little = network.watched, sigma_B > _HARDLY_HEARD
    if example.video is None or hidden is None or not little.any():
        return {}
    frames = len(example.video.positions_BXN[0, 0].unique())
    predicted = network.seen(hidden.unflatten(1, (frames, -1)).mean(2))
    levels = levels_by_picture(example.latents_BTC, frames, louder_C)[little]
    seen = F.mse_loss(predicted[little], levels) / levels.var()
    return {"loss": loss + _SEEN_WEIGHT * seen, "seen": seen}


def training(
    work: Path, device: torch.device, name: str, sets: Sequence[ClipSet], mix_at: Callable[[int], Mix]
) -> tuple[Network, LossesOf]:
    """The initial network and the loss function. Exits if a part that it needs is not trained."""
    cache = Latents(work / "latents")
    if sounds := [one for one in sets if one in SOUNDS]:
        cache.make_in_background(sounds, partial(load_codec, work), _no_video_encoder)
    cache.make_in_background(
        [one for one in sets if one in FILMS], partial(load_codec, work), partial(load_video_encoder, work)
    )
    texts = Texts(work / TEXT_ENCODER, device)
    network = Network().to(device)
    tilts_KC = tilts(load_codec(work)).to(device)

    def losses_of(step: int) -> dict[str, Tensor]:
        example = batch_of(mix_at(step), generator(0, f"{name} batch", step), cache, tilts_KC, texts, network)
        return losses(network, example, generator(0, f"{name} noise", step), tilts_KC[0])

    return network, losses_of


def load_codec(work: Path) -> AudioCodec:
    """The encoding half of the codec. Exits if there is no VAE yet."""
    state = newest(work, train_vae.NAME, CONFIG["audio_vae"])
    if not state:
        raise SystemExit(f"{work} has no {train_vae.NAME}.pt, which has to be trained first")
    vae = train_vae.new_vae().eval().requires_grad_(False)
    vae.load_state_dict(state["average"])
    vocoder = build_vocoder(CONFIG["vocoder"], vae)
    return AudioCodec(vae, vocoder, build_log_mel(CONFIG["audio_vae"], torch.device("cpu")))


def load_video_encoder(work: Path) -> VideoEncoder | None:
    """The trained video encoder, or None if there is none yet."""
    state = newest(work, train_video_encoder.NAME, CONFIG["vae"])
    return None if state is None else train_video_encoder.from_state(state)


def _no_video_encoder() -> None:
    return None


def main() -> None:
    args = arguments(__doc__, batch=8, steps=30_000, learning_rate=8e-4).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network, losses_of = training(args.work, torch.device(args.device), NAME, SETS, mix_at)
    plan = Plan(args.work, NAME, CONFIG["transformer"], args.batch, args.steps, args.learning_rate, save=200)
    fit(plan, network, losses_of)


if __name__ == "__main__":
    main()
