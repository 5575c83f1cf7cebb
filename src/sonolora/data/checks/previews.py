"""What makes a preview say less than it seems to. In: what previews are generated from. Out: warnings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from sonolora.analysis.compare import Fingerprint, similarities
from sonolora.data.checks.sets import NEAR_DUPLICATE


def prompt_warnings(prompts: Sequence[str], trigger: str) -> list[str]:
    """Validation prompts without the trigger phrase, which every caption begins with."""
    trigger = " ".join(trigger.split())
    return [
        f"validation.{index}.prompt lacks the trigger phrase '{trigger}', with which every caption is trained: the "
        "preview shows little of the LoRA. Add it to the prompt."
        for index, prompt in enumerate(prompts)
        if trigger.casefold() not in " ".join(prompt.split()).casefold()
    ]


def trained_input_warnings(
    inputs: Mapping[str, tuple[Path, Fingerprint | None]], trained: Mapping[str, tuple[Path, Fingerprint | None]]
) -> list[str]:
    """Inputs of previews that are trained on, too: the same file, or nearly the same sound.

    Both sides: the file, and the fingerprint of its sound where sounds are compared. `inputs` by request field,
    `trained` by name.
    """
    if not inputs or not trained:
        return []
    digests = {_digest(path): name for name, (path, _) in trained.items()}
    sounds = {name: sound for name, (_, sound) in trained.items() if sound is not None}
    warnings = []
    for field, (path, sound) in inputs.items():
        twin = digests.get(_digest(path))
        if twin is None and sound is not None and sounds:
            alike = similarities([sound, *sounds.values()])[0, 1:]
            twin = list(sounds)[int(alike.argmax())] if alike.max() >= NEAR_DUPLICATE else None
        if twin is not None:
            warnings.append(
                f"{field} is {twin}, which is trained on: the preview shows what the LoRA memorised, not what it "
                "learned. Use a clip that is not in the training data."
            )
    return warnings


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
