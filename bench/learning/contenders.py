"""What the LoRA is compared with in each mode.

In: a mode's data, the base's sounds and the LoRA's. Out: `Contenders`, in the order of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baselines import noise, repetition, silence
from experiment import Data, through_codec
from judge import LORA, Contenders
from made_data import known_sounds

from sonolora.data.encode import Encoder
from sonolora.media.audio import Waveform
from sonolora.modes.mode import Mode

BASE = "base"
TRUE, CODEC = "the true sounds", "the true sounds through the codec"
CEILINGS = {TRUE, CODEC, "other true sounds of the kind"}  # upper bounds
_KNOWN_SEED = 1


def contenders(
    mode: Mode, encoder: Encoder, data: Data, base: Sequence[Waveform], lora: Sequence[Waveform]
) -> Contenders:
    """The base, baselines without a model, and upper bounds."""
    samples = data.held_out

    def each(make: Callable[..., Waveform], *more: Sequence[object]) -> list[tuple[Waveform]]:
        return [(make(*one),) for one in zip(samples, *more, strict=True)]

    named = {LORA: [(sound,) for sound in lora], BASE: [(sound,) for sound in base]}
    if mode.name == "t2a":
        known = known_sounds(_KNOWN_SEED, len(samples), samples[0].seconds)
        named["sounds of known kinds"] = [(made.true,) for made in known]
        named["sounds of known kinds through the codec"] = [
            # One of the known kinds is silence, which has no level to normalise the codec's output to.
            (through_codec(encoder, made, item) if made.true.samples.any() else made.true,)
            for made, item in zip(known, data.items, strict=False)
        ]
        named["noise"] = each(noise, range(len(samples)))
        named["other true sounds of the kind"] = [(made.true,) for made in data.training]
    elif mode.name == "a2a":
        named["the reference"] = [(made.reference,) for made in samples if made.reference is not None]
    elif mode.name == "v2a":
        named["the LoRA with other videos"] = [(*lora[:index], *lora[index + 1 :]) for index in range(len(lora))]
        named["silence"] = each(silence)
        named[TRUE] = [(made.true,) for made in samples]
    else:
        named["silence"] = each(silence)
        named["repetition"] = each(repetition)
    named[CODEC] = [(through_codec(encoder, made, item),) for made, item in zip(samples, data.items, strict=False)]
    return named
