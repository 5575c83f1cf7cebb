"""What is wrong with training data, in words, before any time is spent on training.

In: measurements, captions, spans. Out: warnings, each with what was found, why it matters, and what to do about it.
Nothing here leaves a file out: that is for the rules of the modes.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from sonolora.analysis.compare import lag_seconds, similarities
from sonolora.analysis.measure import Measured, loudness
from sonolora.core.errors import first_few
from sonolora.core.frames import FRAME_SECONDS, Span, complement
from sonolora.data.report import Fact
from sonolora.media.audio import SILENCE_DBFS, Waveform
from sonolora.media.video import VideoInfo

Warnings = list[tuple[str, str]]  # file, text

CLIPPED_SHARE = 1e-4  # some ten clipped peaks in 10 s: fewer pass for single clicks
SILENT_SHARE = 0.5  # more silence than sound
LEADING_SECONDS = 0.25  # heard as a pause; attacks and fades are shorter
DC_SHARE = 0.02  # of the peak: sound cards that are in order stay far below it
DULL = 0.9  # of what the codec hears: a cut below takes part of it away
NEAR_CODEC = 1.05  # a cut above is out of the codec's hearing

LOUDNESS_LU = 10.0  # twice as loud, or half
LOUDNESS_SPREADS = 3.0  # what differs more than the others do among themselves
FEWEST_TO_COMPARE = 4  # a median of fewer says little
NEAR_DUPLICATE = 0.87  # copies had 0.91 and more, different sentences of one voice up to 0.82; see `similarities`

LAG_SECONDS = FRAME_SECONDS  # the model's own resolution in time
LAG_CONFIDENCE = 0.2  # see `lag_seconds`
LEVEL_LU = 6.0  # beyond what one takes for the same loudness

MARKED_MOST, MARKED_LEAST = 0.8, 0.05  # beyond, a clip teaches generating from nothing, or hardly anything
SPAN_FRAMES = 4  # of shorter spans most is edge

PICTURE_SECONDS = 0.2  # five latent frames; containers and codecs round by less

_SAME = "both channels are the same (mono)"
_SHOWN = 3


def facts(measured: Measured) -> dict[str, Fact]:
    """What a report says of a sound besides its length, rate and channels."""
    figures: dict[str, float] = {
        "peak_dbfs": round(measured.peak_dbfs, 1),
        "lufs": round(measured.lufs, 1),
        "silence": round(measured.silent, 3),
        "bandwidth_hertz": round(measured.bandwidth_hertz),
    }
    finite = {name: value for name, value in figures.items() if math.isfinite(value)}
    return {**finite, "image": measured.image}


def clip_warnings(measured: Measured, codec_rate: int) -> list[str]:
    """Faults of a single sound, measured as it is in its file. `codec_rate`: what the base's codec reads, Hz."""
    if measured.peak_dbfs < SILENCE_DBFS:
        return [
            f"silent: nothing in it is louder than {SILENCE_DBFS:.0f} dBFS, so the LoRA learns silence. Remove it, "
            "or record it again."
        ]
    warnings = []
    if measured.clipped > CLIPPED_SHARE:
        warnings.append(
            f"clipped: {measured.clipped:.2%} of its samples lie in flat tops, and the LoRA learns the distortion. "
            "Record it at a lower level (turning it down mends nothing), or ignore this for a square wave."
        )
    if measured.silent > SILENT_SHARE:
        warnings.append(
            f"{measured.silent:.0%} of it is silent, and the LoRA learns the pauses as part of the sound. Cut them, "
            "or train on shorter clips."
        )
    if measured.leading_silence > LEADING_SECONDS:
        warnings.append(
            f"begins with {measured.leading_silence:.2f} s of silence, and so will what the LoRA makes. Trim it, "
            "unless that is wanted."
        )
    if abs(measured.dc) > DC_SHARE * 10 ** (measured.peak_dbfs / 20):
        warnings.append(
            f"DC offset of {measured.dc:+.1%} of full scale, which takes headroom and clicks where the clip is cut. "
            "High-pass it at 20 Hz."
        )
    return [*warnings, *_bandwidth_warnings(measured, codec_rate), *_channel_warnings(measured)]


def _bandwidth_warnings(measured: Measured, codec_rate: int) -> list[str]:
    heard, held = codec_rate / 2, measured.sample_rate / 2
    if held < DULL * heard:
        return [
            f"a sample rate of {measured.sample_rate} Hz holds nothing above {_khz(held)}, where the codec hears up "
            f"to {_khz(heard)}: the LoRA learns a dull sound. Use a recording at {codec_rate} Hz or more."
        ]
    cut = measured.bandwidth_hertz
    if cut >= min(held, NEAR_CODEC * heard):
        return []
    loss = (
        f"The codec hears up to {_khz(heard)}, so the LoRA learns a dull sound."
        if cut < DULL * heard
        else f"The codec hears no more than {_khz(heard)}, so little is lost, but it is not the original."
    )
    return [
        f"its spectrum is cut off at {_khz(cut)}, though its rate of {measured.sample_rate} Hz could hold up to "
        f"{_khz(held)}: it was converted from a lower rate or strongly compressed. {loss} Use the original, if there "
        "is one."
    ]


def _channel_warnings(measured: Measured) -> list[str]:
    if measured.image == "inverted":
        return [
            "its two channels are inverted to each other: played in mono it cancels out, and the LoRA learns that. "
            "Invert one channel."
        ]
    if measured.image == "one channel silent":
        return ["only one of its two channels has sound, and the LoRA learns to leave a side empty. Make it mono."]
    return []


def set_warnings(clips: Sequence[tuple[str, Measured]], *, peak_normalized: bool) -> Warnings:
    """How the sounds of a set fit together: duplicates, levels, mono among stereo.

    `clips`: what is learned, so without references. `peak_normalized`: whether training brings them to one peak,
    which evens out levels, too.
    """
    sounding = [(file, measured) for file, measured in clips if measured.peak_dbfs >= SILENCE_DBFS]
    return [*_duplicates(sounding), *_loudness_outliers(sounding, peak_normalized), *_mixed_images(sounding)]


def _duplicates(clips: Sequence[tuple[str, Measured]]) -> Warnings:
    """One warning for every sound that an earlier one repeats."""
    warnings: Warnings = []
    seen: dict[str, str] = {}
    distinct: list[tuple[str, Measured]] = []
    for file, measured in clips:
        if other := seen.get(measured.digest):
            warnings.append((file, f"the same sound as {other}, sample for sample: it counts double. Remove one."))
        else:
            seen[measured.digest] = file
            distinct.append((file, measured))
    if len(distinct) < 2:
        return warnings
    alike = similarities([measured.fingerprint for _, measured in distinct])
    for index in range(1, len(distinct)):
        earlier = int(alike[index, :index].argmax())
        if alike[index, earlier] >= NEAR_DUPLICATE:
            warnings.append(
                (
                    distinct[index][0],
                    f"nearly the same sound as {distinct[earlier][0]} ({alike[index, earlier]:.0%} alike): another "
                    "copy, cut or level of one recording counts double. Keep the better one.",
                )
            )
    return warnings


def _loudness_outliers(clips: Sequence[tuple[str, Measured]], peak_normalized: bool) -> Warnings:
    levels = [
        (file, measured.lufs - (measured.peak_dbfs if peak_normalized else 0))
        for file, measured in clips
        if math.isfinite(measured.lufs)
    ]
    if len(levels) < FEWEST_TO_COMPARE:
        return []
    middle = median(level for _, level in levels)
    spread = 1.4826 * median(abs(level - middle) for _, level in levels)  # the standard deviation, were they normal
    limit = max(LOUDNESS_LU, LOUDNESS_SPREADS * spread)
    at_one_peak = " when all have the same peak" if peak_normalized else ""
    remedy = "Compress it, or leave it out." if peak_normalized else "Bring it to their level, or set audio_normalize."
    return [
        (
            file,
            f"{abs(level - middle):.0f} LU {'louder' if level > middle else 'softer'} than the others{at_one_peak}: "
            f"the LoRA learns levels, too. {remedy}",
        )
        for file, level in levels
        if abs(level - middle) > limit
    ]


def _mixed_images(clips: Sequence[tuple[str, Measured]]) -> Warnings:
    """One warning, at the first sound of the fewer, where some are mono and some stereo; or where all are mono."""
    mono = [file for file, measured in clips if measured.image in ("mono", "dual mono")]
    twice = {file for file, measured in clips if measured.image == "dual mono"}
    wide = [file for file, measured in clips if measured.image not in ("mono", "dual mono")]
    if not mono:
        return []
    if not wide:
        remedy = "so is what the LoRA makes. If it should be wide, use stereo recordings."
        return [(mono[0], f"{_SAME if mono[0] in twice else 'mono'}, as are all: {remedy}")]
    fewer, kind = (mono, "mono") if len(mono) <= len(wide) else (wide, "stereo")
    kind = _SAME if fewer[0] in twice else kind
    others = f", and so are {first_few(fewer[1:], _SHOWN)}" if len(fewer) > 1 else ""
    return [
        (
            fewer[0],
            f"{kind}{others}, but {len(clips) - len(fewer)} of {len(clips)} are not: the LoRA learns both. Make them "
            "all one or the other.",
        )
    ]


def caption_warnings(
    captions: Sequence[tuple[str, str]], trigger: str, count_tokens: Callable[[str], int], most_tokens: int
) -> Warnings:
    """`captions`: files, and the texts as they are trained, the trigger phrase in front."""
    trigger = " ".join(trigger.split())
    warnings: Warnings = []
    same: defaultdict[str, list[str]] = defaultdict(list)
    for file, text in captions:
        if text == trigger:
            what = "the trigger phrase alone" if trigger else "an empty text, so no words will call it up"
            warnings.append((file, f"no caption: it is trained with {what}. Describe the sound in a .txt file."))
            continue
        same[text.casefold()].append(file)
        if trigger and re.match(rf"{re.escape(trigger)} {re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
            warnings.append(
                (
                    file,
                    f"is trained as '{_start(text)}', with the trigger phrase twice: it is put in front of every "
                    "caption that does not begin with exactly it. Take it out of this one.",
                )
            )
        if (tokens := count_tokens(text)) > most_tokens:
            warnings.append(
                (file, f"its text has {tokens} tokens; what follows the first {most_tokens} is not read. Shorten it.")
            )
    for files in same.values():
        if len(files) > 1:
            warnings.append((files[0], _same_caption(files, len(captions))))
    return [*warnings, *([] if trigger else _forgotten_trigger(captions))]


def _same_caption(files: Sequence[str], captions: int) -> str:
    if len(files) == captions:
        return (
            f"all {captions} captions are the same, so the LoRA cannot tell the sounds apart by words. Say in each "
            "what is particular to it."
        )
    others = first_few(files[1:], _SHOWN)
    return f"has the same caption as {others}: words will not tell them apart. Say what is particular to each."


def _forgotten_trigger(captions: Sequence[tuple[str, str]]) -> Warnings:
    """Where most captions begin with a made-up word, such as f0leyvox, those that lack it."""
    first = [text.split()[0].strip(",.:;").casefold() if text else "" for _, text in captions]
    word = max(set(first), key=first.count, default="")
    have = first.count(word)
    is_made_up = re.fullmatch(r"(?=.*\d)(?=.*[^\W\d_])\w+", word) is not None
    if not is_made_up or 2 * have <= len(captions) or have < FEWEST_TO_COMPARE - 1:
        return []
    return [
        (
            file,
            f"lacks '{word}', with which {have} of {len(captions)} captions begin. If that is the trigger phrase, "
            "give it as trigger_phrase: it is then put in front of each.",
        )
        for (file, _), begins in zip(captions, first, strict=True)
        if begins != word
    ]


def pair_warnings(reference: Waveform, target: Waveform) -> list[str]:
    """How a target fits its reference, both as they are trained."""
    if reference.samples.shape == target.samples.shape and (reference.samples == target.samples).all():
        return ["reference and target are the same sound, so the LoRA learns to change nothing. Check the pair."]
    warnings = []
    lag, confidence = lag_seconds(reference, target)
    if abs(lag) > LAG_SECONDS and confidence >= LAG_CONFIDENCE:
        warnings.append(
            f"the target comes {abs(lag) * 1000:.0f} ms {'after' if lag > 0 else 'before'} its reference, and the LoRA "
            "learns to shift what it hears. Align the two."
        )
    difference = loudness(target) - loudness(reference)
    if math.isfinite(difference) and abs(difference) > LEVEL_LU:
        warnings.append(
            f"the target is {abs(difference):.0f} LU {'louder' if difference > 0 else 'softer'} than its reference, "
            "and the LoRA learns that change of level. Even it out, unless it is wanted."
        )
    return warnings


def mask_warnings(spans: Sequence[Span], seconds: float) -> list[str]:
    """What is regenerated of a clip of `seconds`."""
    warnings = []
    marked = 1 - sum(end - start for start, end in complement(spans, seconds)) / seconds
    if marked > MARKED_MOST:
        warnings.append(
            f"{marked:.0%} of it is regenerated, which leaves little to blend with. Mark less, or train longer clips."
        )
    if marked < MARKED_LEAST:
        warnings.append(
            f"only {marked:.1%} of it is regenerated, and nothing else is learned from. Mark more, or train shorter "
            "clips."
        )
    shortest = SPAN_FRAMES * FRAME_SECONDS
    short = [(start, end) for start, end in spans if end - start < shortest - 1e-6]
    if short:
        named = first_few([f"{start:g}-{end:g} s" for start, end in short], _SHOWN)
        warnings.append(
            f"marks less than {SPAN_FRAMES} latent frames ({shortest:g} s) at a time, too little to learn from: "
            f"{named}. Make such spans longer."
        )
    return warnings


def video_warnings(info: VideoInfo) -> list[str]:
    """What of a video's timing can put its sound beside its picture."""
    warnings = []
    if info.audio_seconds is not None and abs(missing := info.seconds - info.audio_seconds) > PICTURE_SECONDS:
        what = "the rest is trained as silence" if missing > 0 else "the rest of the sound is not used"
        warnings.append(
            f"its picture lasts {info.seconds:.2f} s and its sound {info.audio_seconds:.2f} s: {what}. If one of them "
            "was cut or stretched, check that they still fit."
        )
    if info.variable_frame_rate:
        warnings.append(
            f"variable frame rate ({info.fps:.2f} on average): frames are repeated and dropped to even it out, so the "
            "picture may be up to a frame beside its sound. Export it at a constant rate, if you can."
        )
    return warnings


def _start(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40].rstrip()}…"


def _khz(hertz: float) -> str:
    return f"{hertz / 1000:.3g} kHz"
