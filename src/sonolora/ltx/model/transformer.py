"""The two-stream transformer of LTX-2.3, audio only or audio with video, with the published parameter names.

In: for each stream the noisy latent tokens, their positions, the noise level and the text context; for a one-way video
its cached keys and values (`frozen_video`).
Out: the velocity (noise - clean) of every token.

B batch, T audio tokens, N video tokens, S text tokens, C latent channels, A audio width, D width of either stream,
X position axes, L blocks, H audio heads, K channels of an audio head.
Source: the published model, reimplemented from its equations; tests/ltx/test_golden.py compares it with outputs of
the publisher's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as gradient_checkpoint

from sonolora.core.frames import frame_bounds
from sonolora.ltx.memory.block_offload import offload_blocks
from sonolora.ltx.memory.weight_policy import PLAIN, TABLE, WeightPolicy, keeps_codes, place_weight
from sonolora.ltx.model.adaln import AdaLayerNorm
from sonolora.ltx.model.block import Block, BlockInputs, with_tables
from sonolora.ltx.model.layers import QUERY_PARTS, Attention
from sonolora.ltx.model.lora_layer import Adapters
from sonolora.ltx.model.norms import modulate
from sonolora.ltx.model.rope import Rotation, rotation
from sonolora.ltx.weights.checkpoint import Checkpoint, load_module, read_scales
from sonolora.ltx.weights.transformer_config import StreamConfig, TransformerConfig

PREFIX = "model.diffusion_model."
_AUDIO_STREAM_PARTS = (
    "audio_attn1",
    "audio_attn2",
    "audio_ff",
    "audio_patchify",
    "audio_proj_out",
    "audio_adaln_single",
    "audio_prompt",
    "audio_scale_shift_table",
)
_AUDIO_READS_VIDEO_PARTS = (  # layers by which the audio attends to the video
    *(f"video_to_audio_attn.{part}" for part in QUERY_PARTS),
    "scale_shift_table_a2v_ca_audio",
    "av_ca_audio_scale_shift_adaln_single",
    "av_ca_v2a_gate_adaln_single",
)
_VIDEO_READS_AUDIO_PARTS = ("audio_to_video_attn", "av_ca_a2v_gate_adaln_single")
NO_BLOCKS: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Stream:
    """Input of one stream. Tokens with `keep` are clean: their timestep is 0."""

    latents_BTC: Tensor
    positions_BXT: Tensor  # midpoint of each token: seconds, and for video also height and width in pixels
    sigma_B: Tensor  # noise level of the sample, in [0, 1]
    context_BSD: Tensor  # text context; with `context_index_B` only the different ones
    keep_BT: Tensor | None = None
    context_index_B: Tensor | None = None  # the context of each sample; those that share one have the same sigma


@dataclass(frozen=True)
class CachedVideoKV:
    """Keys and values of a clean one-way video in every block: all that the audio reads of it."""

    keys_BLHNK: Tensor  # normed and rotated
    values_BLHNK: Tensor


class Transformer(nn.Module):
    """The whole network, or the part of it that is used.

    `video=False` builds the audio stream only, `video=True` both streams, each attending to the other. With `one_way`
    the video does not attend to the audio, so the two halves run separately: `video=False` is the audio half, which
    takes its video as `CachedVideoKV`; `video=True` is the video half, from which `frozen_video` computes it.
    """

    def __init__(self, config: TransformerConfig, *, video: bool, one_way: bool = False) -> None:
        super().__init__()
        self.config = config
        self.has_video = video
        self.one_way = one_way
        self.checkpointed_blocks = 0  # the first ones
        self.adapters: Adapters | None = None
        audio = not (video and one_way)
        if audio:
            self._add_stream("audio_", config.audio)
        if video:
            self._add_stream("", config.video)
            self.av_ca_video_scale_shift_adaln_single = AdaLayerNorm(config.video.width, 4)
        if audio and (video or one_way):
            self.av_ca_audio_scale_shift_adaln_single = AdaLayerNorm(config.audio.width, 4)
            self.av_ca_v2a_gate_adaln_single = AdaLayerNorm(config.audio.width, 1)
        if audio and video:
            self.av_ca_a2v_gate_adaln_single = AdaLayerNorm(config.video.width, 1)
        self.transformer_blocks = nn.ModuleList(
            Block(config, video=video, one_way=one_way) for _ in range(config.layers)
        )

    def _add_stream(self, prefix: str, stream: StreamConfig) -> None:
        self.add_module(f"{prefix}patchify_proj", nn.Linear(stream.channels, stream.width))
        self.add_module(f"{prefix}adaln_single", AdaLayerNorm(stream.width, 9))
        self.add_module(f"{prefix}prompt_adaln_single", AdaLayerNorm(stream.width, 2))
        self.add_module(f"{prefix}proj_out", nn.Linear(stream.width, stream.channels))
        self.register_parameter(f"{prefix}scale_shift_table", nn.Parameter(torch.empty(2, stream.width)))

    def forward(
        self,
        audio: Stream,
        video: Stream | CachedVideoKV | None = None,
        *,
        values_only_blocks: frozenset[int] = NO_BLOCKS,
        values_only_B: Tensor | None = None,
        video_velocity: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Velocities of the audio tokens (B, T, C) and of the video tokens (B, N, C), if there is a video stream.

        Without `video_velocity` the second is None, and what only it needs of the last block is not computed.

        In `values_only_blocks` the audio self-attention passes values through (the perturbed prediction of
        spatio-temporal guidance), in all samples or in those where `values_only_B` is true. Raises `ValueError` for a
        kind of video that the network was not built for.
        """
        if video is not None and not isinstance(
            video, CachedVideoKV if self.one_way else Stream if self.has_video else ()
        ):
            raise ValueError(f"this transformer was built {self._built}, but got a {type(video).__name__}")
        if self.adapters is not None:
            self.adapters.cast()
        x_video = video_inputs = video_embedded = video_kv = other_sigma_B = None
        if isinstance(video, Stream):
            x_video, video_inputs, video_embedded = self._embed("", video, crosses=True, other_sigma_B=audio.sigma_B)
            other_sigma_B = video.sigma_B
        elif video is not None:
            other_sigma_B = torch.zeros_like(audio.sigma_B)
        x_audio, audio_inputs, audio_embedded = self._embed(
            "audio_", audio, crosses=video is not None, other_sigma_B=other_sigma_B
        )
        blocks = cast(list[Block], list(self.transformer_blocks))
        audio_inputs_of = with_tables(blocks, "audio_", audio_inputs)
        video_inputs_of = [None] * len(blocks) if video_inputs is None else with_tables(blocks, "", video_inputs)
        for index, block in enumerate(blocks):
            perturbed = index in values_only_blocks
            values_only = perturbed if values_only_B is None or not perturbed else values_only_B
            if isinstance(video, CachedVideoKV):
                video_kv = video.keys_BLHNK[:, index], video.values_BLHNK[:, index]
            inputs = x_audio, x_video, audio_inputs_of[index], video_inputs_of[index], video_kv
            run = partial(block, values_only=values_only, keep_video=video_velocity or block is not blocks[-1])
            if index < self.checkpointed_blocks and torch.is_grad_enabled():
                x_audio, x_video = gradient_checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x_audio, x_video = run(*inputs)
        audio_velocity = self._project_out("audio_", x_audio, audio_inputs.of_tokens(audio_embedded))
        if x_video is None or video_inputs is None or video_embedded is None:
            return audio_velocity, None
        return audio_velocity, self._project_out("", x_video, video_inputs.of_tokens(video_embedded))

    @property
    def _built(self) -> str:
        if self.one_way:
            return "for a one-way video"
        return f"{'with' if self.has_video else 'without'} its video stream"

    def embed_one_way(self, video: Stream) -> tuple[Tensor, BlockInputs]:
        """Tokens (B, N, D) of a one-way video, and the inputs that `Block.forward_one_way` takes with them."""
        tokens, inputs, _ = self._embed("", video, crosses=True)
        return tokens, inputs

    def _embed(
        self, prefix: str, stream: Stream, *, crosses: bool, other_sigma_B: Tensor | None = None
    ) -> tuple[Tensor, BlockInputs, Tensor]:
        """Embedded tokens of a stream, its block inputs and its embedded timesteps, (B, M, D) as in `BlockInputs`.

        `crosses`: whether it takes part in cross-attention between the streams. `other_sigma_B`: the sigma of the
        stream that it attends to, if any.
        """
        config = self.config.audio if prefix else self.config.video
        dtype: torch.dtype = self.get_parameter(f"{prefix}patchify_proj.weight").dtype
        scale = self.config.timestep_scale
        sigma_B1 = timestep_BM = stream.sigma_B[:, None] * scale
        if stream.keep_BT is not None:
            # A token's timestep is either sigma or 0: compute two vectors per sample, not one per token.
            timestep_BM = F.pad(sigma_B1, (0, 1))
        rows, embedded = getattr(self, f"{prefix}adaln_single")(timestep_BM)
        prompt_sigma_B = stream.sigma_B
        if stream.context_index_B is not None:
            prompt_sigma_B = prompt_sigma_B.new_empty(len(stream.context_BSD))
            prompt_sigma_B.index_copy_(0, stream.context_index_B, stream.sigma_B)
        prompt_rows, _ = getattr(self, f"{prefix}prompt_adaln_single")(prompt_sigma_B[:, None] * scale)
        cross_rows = cross_gate = cross_rotation = None
        # As published: scales and shifts depend on the stream's own timesteps, the gate on the other's sigma.
        if other_sigma_B is not None:
            gate = self.av_ca_v2a_gate_adaln_single if prefix else self.av_ca_a2v_gate_adaln_single
            cross_gate, _ = gate(other_sigma_B[:, None] * self.config.av_timestep_scale)
        if crosses:
            cross_rows, _ = getattr(self, f"av_ca_{prefix or 'video_'}scale_shift_adaln_single")(timestep_BM)
            latest = max(self.config.audio.max_positions[0], self.config.video.max_positions[0])
            cross_rotation = self._rotation(stream.positions_BXT[:, :1], (latest,), self.config.audio)
        block_inputs = BlockInputs(
            rows,
            prompt_rows,
            stream.context_BSD.to(dtype),
            self._rotation(stream.positions_BXT, config.max_positions, config),
            None if stream.keep_BT is None else stream.keep_BT[..., None],
            cross_rows,
            cross_gate,
            cross_rotation,
            context_index_B=stream.context_index_B,
        )
        return getattr(self, f"{prefix}patchify_proj")(stream.latents_BTC.to(dtype)), block_inputs, embedded

    def _rotation(self, positions: Tensor, max_positions: tuple[float, ...], stream: StreamConfig) -> Rotation:
        return rotation(
            positions,
            max_positions,
            stream.width,
            stream.heads,
            self.config.theta,
            float64=self.config.float64_frequencies,
        )

    def _project_out(self, prefix: str, x: Tensor, embedded: Tensor) -> Tensor:
        table = getattr(self, f"{prefix}scale_shift_table")
        shift, scale = table[0] + embedded, 1 + table[1] + embedded
        normed = F.layer_norm(x, (x.shape[-1],), eps=self.config.eps)
        return getattr(self, f"{prefix}proj_out")(modulate(normed, scale, shift))  # type: ignore[no-any-return]


def audio_token_midpoints(frames: int) -> Tensor:
    """Midpoints of the audio latent frames in seconds, (frames,)."""
    # Rounded to float32 before the mean, as published: the highest RoPE frequencies magnify the last bit.
    return torch.tensor(frame_bounds(frames)).mean(dim=-1)


def load_transformer(
    checkpoint: Checkpoint,
    *,
    video: bool,
    one_way: bool = False,
    device: torch.device,
    dtype: torch.dtype,
    policy: WeightPolicy = PLAIN,
) -> Transformer:
    """Load the transformer from a checkpoint; with `video=False` only the 35 % of its tensors that audio needs.

    Weights that `policy` quantises or offloads are never on the device in full. Raises `CheckpointError`.
    """
    config = TransformerConfig.from_header(checkpoint.section("transformer"))
    with torch.device("meta"):
        model = Transformer(config, video=video, one_way=one_way)

    def place(name: str, tensor: Tensor) -> Tensor | None:
        is_codes = tensor.dtype.itemsize == 1
        scales = read_scales(checkpoint, PREFIX + name) if is_codes else None
        return place_weight(model, name, tensor, policy, dtype=dtype if is_codes else None, scales=scales)

    load_module(
        model,
        checkpoint,
        checkpoint_name=lambda name: PREFIX + name,
        names=[name for name in checkpoint.names(PREFIX) if is_transformer_tensor(name, video=video, one_way=one_way)],
        device=device,
        dtype=dtype,
        place=place,
        keep_codes=lambda name: keeps_codes(model, name, policy),
    )
    apply_policy(model, policy, device)
    return model


def apply_policy(model: Transformer, policy: WeightPolicy, device: torch.device) -> None:
    """Set up joint products, gradient checkpointing, block offload and compilation of a model with loaded weights."""
    blocks = list(model.transformer_blocks)
    join_layers(model)
    model.checkpointed_blocks = policy.recomputed(len(blocks))
    if policy.offloaded:
        offload_blocks(blocks, [_block_tensors(block) for block in blocks], device)
    if policy.compiled:
        for block in blocks:  # they share the code, which is compiled once
            block.compile()


def join_layers(model: Transformer) -> None:
    """Compute layers of one input as one product from now on; see `Attention.join`. The weights must stay in place."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.join()


def _block_tensors(block: nn.Module) -> list[Tensor]:
    """All tensors of a block but its modulation tables, which are added to the timesteps' before all blocks."""
    named = *block.named_parameters(), *block.named_buffers()
    joint = (module.joint_tensors() for module in block.modules() if isinstance(module, Attention))
    return [*(tensor for name, tensor in named if TABLE not in name), *chain.from_iterable(joint)]


def is_transformer_tensor(name: str, *, video: bool, one_way: bool = False) -> bool:
    """Whether a name in the file under `PREFIX` belongs to a `Transformer` built with these arguments."""
    if "embeddings_connector" in name:
        return False
    if video and not one_way:
        return True
    audio = any(part in name for part in (*_AUDIO_STREAM_PARTS, *(_AUDIO_READS_VIDEO_PARTS if one_way else ())))
    return not audio and not any(part in name for part in _VIDEO_READS_AUDIO_PARTS) if video else audio
