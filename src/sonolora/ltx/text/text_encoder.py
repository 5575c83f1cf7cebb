"""Encodes prompts into the text contexts that the transformer attends to.

In: prompts. Out: a context of fixed length for each stream. The tokens go through a Gemma 3 language model (that of the
transformers library), and each hidden state, as soon as it is computed, through the stream's projector.

n tokens of a prompt, S text positions, D width of the stream's context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonolora.core.errors import CheckpointError
from sonolora.ltx.text.single_file import open_tokenizer
from sonolora.ltx.text.text_projector import (
    Stream,
    TextProjector,
    empty_projectors,
    projector_checkpoint_name,
    projector_names,
)
from sonolora.ltx.weights.checkpoint import Checkpoint, check_module, load_module, unloaded_on_exit
from sonolora.ltx.weights.transformer_config import TransformerConfig

if TYPE_CHECKING:
    from sonolora.ltx.text.language_model import LanguageModel

PUBLISHED_TOKENS = 1024


@dataclass(frozen=True)
class TextContext:
    """The text contexts of one prompt."""

    audio: Tensor  # (S, D of the audio stream)
    video: Tensor | None  # (S, D of the video stream)

    def to(self, device: torch.device) -> TextContext:
        """The same on a device."""
        return TextContext(self.audio.to(device), None if self.video is None else self.video.to(device))


@dataclass(frozen=True)
class Tokenizer:
    """Text -> tokens. `max_tokens` is the length of a context; longer texts are truncated."""

    inner: Any
    max_tokens: int

    def tokens(self, text: str) -> list[int]:
        """Token ids with begin-of-sequence, without end-of-sequence or chat template."""
        words = self.inner(text.strip(), add_special_tokens=False, verbose=False)["input_ids"]
        return [self.inner.bos_token_id, *words]


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer, language model and projectors of one base. Weights are in memory only while they are used.

    Encoding runs the language model layer by layer with the projections of its states, then the connectors.
    """

    tokenizer: Tokenizer
    language_model: LanguageModel
    checkpoint: Checkpoint
    projectors: Mapping[Stream, TextProjector]  # on the meta device

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        advance: Callable[[str], None] = lambda note: None,  # noqa: ARG005
    ) -> list[TextContext]:
        """The context of each prompt, on the host, independent of the other prompts.

        Every call reads all weights: call it once for all prompts. `advance` is called for each hidden state.
        """
        tokens = [self.tokenizer.tokens(prompt)[: self.tokenizer.max_tokens] for prompt in prompts]
        features = self._features(tokens, advance)
        contexts = {stream: self._connect(stream, of_stream) for stream, of_stream in features.items()}
        video = contexts.get("video", [None] * len(prompts))
        return [TextContext(*pair) for pair in zip(contexts["audio"], video, strict=True)]

    def _features(self, tokens: list[list[int]], advance: Callable[[str], None]) -> dict[Stream, list[Tensor]]:
        """The projection of every prompt (1, n, D), for each stream."""
        model = self.language_model
        aggregates = {stream: projector.aggregate_embed for stream, projector in self.projectors.items()}
        sums = {
            stream: [torch.zeros(1, len(prompt), aggregate.out_features, device=model.host) for prompt in tokens]
            for stream, aggregate in aggregates.items()
        }
        projections = dict[Stream, Callable[[Tensor], Tensor]]()
        with ExitStack() as stack:
            for stream, aggregate in aggregates.items():
                stack.enter_context(self._loaded(aggregate, stream, "aggregate_embed."))
            for index, prompt, state in model.states(tokens):
                if prompt == 0:
                    projections = {stream: aggregate.projection_of(index) for stream, aggregate in aggregates.items()}
                    advance(f"texts: hidden state {index + 1} of {model.state_count}")
                for stream, project in projections.items():
                    sums[stream][prompt] += project(state).to(model.host)
            return {
                stream: [aggregate.add_bias(total.to(model.device)).to(model.host) for total in sums[stream]]
                for stream, aggregate in aggregates.items()
            }

    def _connect(self, stream: Stream, features: list[Tensor]) -> list[Tensor]:
        """The context of every prompt (S, D)."""
        model, length = self.language_model, self.tokenizer.max_tokens
        connector, contexts = self.projectors[stream].connector, []
        with self._loaded(connector, stream, "connector."):
            for x in features:
                count = x.shape[1]
                x = F.pad(x.to(model.device), (0, 0, 0, length - count))
                mask_BS = torch.arange(length, device=model.device)[None] < count
                contexts.append(connector(x, mask_BS)[0].to(model.host))
        return contexts

    @contextmanager
    def _loaded(self, module: nn.Module, stream: Stream, part: str) -> Iterator[None]:
        """Context in which this part of a projector is loaded."""
        prefix, model = projector_checkpoint_name(stream, part), self.language_model
        names = self.checkpoint.names(prefix)
        with unloaded_on_exit(module):
            load_module(
                module,
                self.checkpoint,
                checkpoint_name=prefix.__add__,
                names=names,
                device=model.device,
                dtype=model.dtype,
            )
            yield


def load_text_encoder(
    checkpoint: Checkpoint, folder: Path, *, video: bool, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """Open a language model in Hugging Face format, and check it and the projectors against each other.

    The folder may hold the language model alone or the whole multimodal Gemma 3; it may also be a single file, see
    `single_file`. Nothing is downloaded, and only
    headers are read. Raises `CheckpointError` when the folder is incomplete, holds another model or does not fit the
    checkpoint, and when the checkpoint's projectors do not fit its header.
    """
    from sonolora.ltx.text.language_model import (
        open_language_model,  # imported here: it takes a second, which tokenizing alone does not need
    )

    tokenizer = load_tokenizer(checkpoint, folder)
    language_model = open_language_model(folder, device=device, dtype=dtype)
    projectors = empty_projectors(checkpoint, video=video)
    for stream, projector in projectors.items():
        check_module(projector, checkpoint, **projector_names(checkpoint, stream))
        aggregate = projector.aggregate_embed
        actual = language_model.state_count, language_model.config.hidden_size
        if actual != (aggregate.states, aggregate.text_channels):
            raise CheckpointError(
                f"{folder}: this text encoder has {actual[0]} hidden states of width {actual[1]}; "
                f"{checkpoint.path.name} needs {aggregate.states} of width {aggregate.text_channels}"
            )
    return TextEncoder(tokenizer, language_model, checkpoint, projectors)


def load_tokenizer(checkpoint: Checkpoint, folder: Path) -> Tokenizer:
    """Load the tokenizer of a base. Raises `CheckpointError` when it is missing or does not fit."""
    inner = open_tokenizer(folder) if folder.is_file() else _tokenizer_in(folder)
    registers = TransformerConfig.from_header(checkpoint.section("transformer")).audio_connector.registers
    max_tokens = min(PUBLISHED_TOKENS, inner.model_max_length)
    if max_tokens % registers:
        raise CheckpointError(
            f"{folder}: the context length, {max_tokens} tokens, is not a multiple of the {registers} registers of "
            f"{checkpoint.path.name}"
        )
    return Tokenizer(inner, max_tokens)


def _tokenizer_in(folder: Path) -> Any:
    # Without this file transformers silently builds a tokenizer with an empty vocabulary.
    if not (folder / "tokenizer.json").is_file():
        raise _unreadable(folder, "there is no tokenizer.json")
    from transformers import AutoTokenizer  # takes a second to import

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, reason: object) -> CheckpointError:
    return CheckpointError(f"{folder}: not a readable text encoder: {reason}")
