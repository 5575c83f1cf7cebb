"""Distilled bases: trained by the publisher to be sampled in 8 steps without guidance.

In: a checkpoint. Out: whether it is one, by its header or by the names of its files; the tensors do not tell.
"""

from __future__ import annotations

import json
import re

from sonolora.ltx.weights.checkpoint import Checkpoint
from sonolora.ltx.weights.stored_tensor import files_of

HEADER_KEY = "distilled"  # a header may say it: "true" or "false"
# Metadata in which a distill LoRA that was merged leaves its name.
_MERGED = ("merged_loras", "modelspec.title", "modelspec.merged_from")
_NAMES = re.compile(r"(?i)(?P<distilled>distill)|(?:^|[-_.])(?P<dev>dev|base|tiny)(?:[-_.]|$)")
TRAINING_NOTE = (
    "the base is distilled: a LoRA trained on it learns to undo a part of the distillation, so that 8 steps without "
    "guidance get worse the longer it is trained. The publisher trains on the dev checkpoint and runs the LoRA on "
    "either; on a dev base --distill-lora previews what it sounds like in 8 steps"
)


def says_distilled(checkpoint: Checkpoint) -> bool | None:
    """What the header, else the file names say; None where neither says anything."""
    declared = str(checkpoint.metadata.get(HEADER_KEY, "")).lower()
    if declared in ("true", "false"):
        return declared == "true"
    if any("distill" in json.dumps(checkpoint.metadata.get(key, "")).lower() for key in _MERGED):
        return True
    found = {
        match.lastgroup
        for path in files_of(checkpoint.tensors, checkpoint.path)
        for match in _NAMES.finditer(path.stem)
    }
    return "distilled" in found if found else None
