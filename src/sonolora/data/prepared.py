"""The data of a run, encoded: everything that training needs after the encoders are freed.

In: training examples and previews. Out: one file, `prepared.safetensors`, from which a run can continue without the
archive, the text encoder and the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from sonolora.conditioning import Example, Video, with_reference_positions
from sonolora.core.checked_tensors import load_checked, save_checked
from sonolora.core.errors import CheckpointError
from sonolora.core.frames import Span
from sonolora.data.encoding_cache import content_hash
from sonolora.data.held_out import Split
from sonolora.ltx.text.text_encoder import TextContext

_T = TypeVar("_T")


@dataclass(frozen=True)
class PreviewItem:
    """One validation sample: its prompt, its length, and the inputs of the model."""

    prompt: str
    seconds: float
    example: Example  # batch 1; its latents are meaningless where nothing is kept
    negative_context_BSD: Tensor  # of the negative prompt, for the audio stream
    regenerate: tuple[Span, ...] = ()
    gain: float = 1.0  # applied to the kept sound before it was encoded
    kept_CN: Tensor | None = None  # the kept sound at the output sample rate and its own level, at its place


@dataclass(frozen=True)
class HeldOut:
    """Clips that are not trained on. `recordings`: clips of one recording have the same number; `note`: why these, or
    why none."""

    examples: tuple[Example, ...] = ()
    names: tuple[str, ...] = ()
    recordings: tuple[int, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Prepared:
    """The data of a run. `digest` is a hash of the fitted clips and captions in order, and of what is held out.

    `examples` are trained on; `names` and `recordings` are theirs.
    """

    examples: tuple[Example, ...]
    names: tuple[str, ...]
    previews: tuple[PreviewItem, ...]
    digest: str
    recordings: tuple[int, ...] = ()
    held_out: HeldOut = HeldOut()
    foreign: tuple[TextContext, ...] = ()  # of captions that are not of the data, where the base is preserved

    def split(self, split: Split) -> Prepared:
        """The same data with the clips of a split held out; nothing may be held out yet."""
        digest = content_hash("held out", self.digest, repr(split.held_out))[:16] if split.held_out else self.digest
        return replace(
            self,
            examples=_at(self.examples, split.trained),
            names=_at(self.names, split.trained),
            recordings=_at(split.recordings, split.trained),
            digest=digest,
            held_out=HeldOut(
                _at(self.examples, split.held_out),
                _at(self.names, split.held_out),
                _at(split.recordings, split.held_out),
                split.note,
            ),
        )

    def with_reference_positions(self, positions: str) -> Prepared:
        """The same data with references at these positions. They are not saved, but follow from a run's settings."""

        def placed(examples: tuple[Example, ...]) -> tuple[Example, ...]:
            return tuple(with_reference_positions(example, positions) for example in examples)

        previews = (replace(item, example=with_reference_positions(item.example, positions)) for item in self.previews)
        held_out = replace(self.held_out, examples=placed(self.held_out.examples))
        return replace(self, examples=placed(self.examples), previews=tuple(previews), held_out=held_out)

    def save(self, path: Path) -> None:
        """Write it all to one file, atomically. Tensors that are shared, as one context often is, are stored once."""
        store: dict[str, Tensor] = {}
        seen: dict[int, str] = {}

        def key(tensor: Tensor) -> str:
            if id(tensor) not in seen:
                seen[id(tensor)] = name = f"tensor.{len(seen)}"
                store[name] = tensor.contiguous()
            return seen[id(tensor)]

        layout = {
            "examples": [_keys(example, key) for example in self.examples],
            "names": list(self.names),
            "recordings": list(self.recordings),
            "held_out": {
                "examples": [_keys(example, key) for example in self.held_out.examples],
                "names": list(self.held_out.names),
                "recordings": list(self.held_out.recordings),
                "note": self.held_out.note,
            },
            "foreign": [
                {name: key(tensor) for name, tensor in vars(text).items() if tensor is not None}
                for text in self.foreign
            ],
            "previews": [
                {
                    "prompt": item.prompt,
                    "seconds": item.seconds,
                    "example": _keys(item.example, key),
                    "negative": {"context_BSD": key(item.negative_context_BSD)},
                    "regenerate": item.regenerate,
                    "gain": item.gain,
                    "kept": None if item.kept_CN is None else key(item.kept_CN),
                }
                for item in self.previews
            ],
            "digest": self.digest,
        }
        save_checked(path, store, {"layout": json.dumps(layout)})

    @classmethod
    def load(cls, path: Path) -> Prepared:
        """Raises `CheckpointError` when the file is missing, `DamagedFileError` when it is damaged."""
        store, metadata = load_checked(path)
        if "layout" not in metadata:
            raise CheckpointError(f"{path}: not the prepared data of a run")
        layout = json.loads(metadata["layout"])
        held_out = layout.get("held_out", {"examples": [], "names": [], "recordings": [], "note": ""})  # not in 0.1
        return cls(
            tuple(_example(keys, store) for keys in layout["examples"]),
            tuple(layout["names"]),
            tuple(
                PreviewItem(
                    item["prompt"],
                    item["seconds"],
                    _example(item["example"], store),
                    store[item["negative"]["context_BSD"]],
                    tuple((start, end) for start, end in item["regenerate"]),
                    item["gain"],
                    None if item["kept"] is None else store[item["kept"]],
                )
                for item in layout["previews"]
            ),
            layout["digest"],
            tuple(layout.get("recordings", range(len(layout["names"])))),
            HeldOut(
                tuple(_example(keys, store) for keys in held_out["examples"]),
                tuple(held_out["names"]),
                tuple(held_out["recordings"]),
                held_out["note"],
            ),
            tuple(
                TextContext(store[keys["audio"]], store[keys["video"]] if "video" in keys else None)
                for keys in layout.get("foreign", [])
            ),
        )


def _at(values: tuple[_T, ...], indices: tuple[int, ...]) -> tuple[_T, ...]:
    return tuple(values[index] for index in indices)


def _keys(example: Example | Video, key: Callable[[Tensor], str]) -> dict[str, object]:
    keys: dict[str, object] = {}
    for field in fields(example):
        value = getattr(example, field.name)
        if isinstance(value, Tensor):
            keys[field.name] = key(value)
        elif isinstance(value, Video):
            keys[field.name] = _keys(value, key)
    return keys


def _example(keys: dict[str, object], store: dict[str, Tensor]) -> Example:
    parts: dict[str, object] = {}
    for name, value in keys.items():
        if isinstance(value, dict):
            parts[name] = Video(**{part: store[key] for part, key in value.items()})
        else:
            parts[name] = store[str(value)]
    return Example(**parts)  # type: ignore[arg-type]
