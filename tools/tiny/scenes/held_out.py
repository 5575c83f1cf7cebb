"""Kinds of film that the base never sees in training: a hammer, dominoes, a rally."""

from __future__ import annotations

import math

import numpy as np
from sounds.kind import Rng, log_uniform, pick
from sounds.materials import MATERIALS, Material, make_body, strike
from sounds.mix import add_at
from sounds.words import many, number

from scenes.canvas import Canvas, mixed
from scenes.scene import LOOKS, Event, FilmKind, Scene, ball, block, flash, wall_and_floor

_FLOOR = 0.86
_IRON = (0.3, 0.31, 0.34)


def hammering(rng: Rng, seconds: float, width: float) -> Scene:
    """A hammer swings about its handle's end down on an anvil or on a nail, which goes in."""
    nail = bool(rng.integers(2))
    period, side = log_uniform(rng, 0.4, 1.1), pick(rng, (-1.0, 1.0))
    blows = np.arange(rng.uniform(0.2, 0.9) * period, seconds - 0.08, period)
    target_x, raised = width / 2 + side * rng.uniform(0.0, 0.2), rng.uniform(0.8, 1.2)
    length, head = rng.uniform(0.42, 0.52), rng.uniform(0.1, 0.14)
    base = MATERIALS["wooden" if nail else "metal"]
    body = make_body(rng, Material(base.name, base.ratios, 520 if nail else 1500, 0.05 if nail else 0.5, base.damping,
                                   0.5, 7000), 0.8 + 2 * (head - 0.1) / 0.04 * 0.2)  # fmt: skip
    ping = make_body(rng, MATERIALS["metal"], 0.5)
    sounds = [strike(rng, body, rng.uniform(0.8, 1.0)) for _ in blows]
    if nail:
        for sound in sounds:
            add_at(sound, 0.4 * strike(rng, ping, 0.6, 0.12), 0.0)
    events = [Event(float(at), target_x, sound) for at, sound in zip(blows, sounds, strict=True)]
    colour = pick(rng, LOOKS["wooden"])

    def top(at: float) -> float:
        """The height at which the hammer meets its target."""
        return 0.5 + (0.14 * float(np.sum(blows <= at)) / len(blows) if nail else 0.1)

    def draw(canvas: Canvas, at: float) -> None:
        phase = (at - blows[0]) / period % 1  # 0 at the blow
        lift = raised * (math.sin(math.pi * phase / 1.5) if phase < 0.75 else 1 - ((phase - 0.75) / 0.25) ** 2)
        y = top(at)
        if nail:
            block(canvas, target_x, (_FLOOR + 0.66) / 2, 0.5, _FLOOR - 0.66, "wooden", colour)
            canvas.box(target_x, (y + 0.7) / 2, 0.025, 0.7 - y, (0.6, 0.62, 0.66))
            canvas.box(target_x, y + 0.01, 0.07, 0.02, (0.6, 0.62, 0.66))
        else:
            canvas.box(target_x, 0.66, 0.44, 0.12, _IRON)
            canvas.box(target_x, 0.74, 0.18, 0.1, _IRON)
            canvas.box(target_x, 0.82, 0.3, 0.08, _IRON)
        pivot = (target_x + side * length, y - head / 2)
        angle = side * lift
        x_head, y_head = pivot[0] - side * length * math.cos(lift), pivot[1] - length * math.sin(lift)
        canvas.stroke(*pivot, x_head, y_head, 0.04, (0.6, 0.4, 0.2))
        canvas.box(x_head, y_head, 0.085, head, mixed(_IRON, (1, 1, 1), 0.25), angle)
        done = int(np.sum(blows <= at))
        if done:
            flash(canvas, target_x, y, at - blows[done - 1], 1.0)

    facts = {"target": "a nail" if nail else "an anvil", "blows": many(len(blows), "blow")}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


def dominoes(rng: Rng, seconds: float, width: float) -> Scene:
    """Each domino falls against the next one, a little faster than the one before."""
    material = pick(rng, ("plastic", "wooden"))
    side, height, gap = pick(rng, (-1.0, 1.0)), rng.uniform(0.26, 0.36), rng.uniform(0.1, 0.15)
    count = min(int((width - 0.3 - height) / gap), int(rng.integers(6, 12)))
    thick = 0.3 * gap
    lean = math.asin((gap - thick) / height)  # the angle at which one touches the next
    start, interval = rng.uniform(0.2, 0.5), min(rng.uniform(0.13, 0.3), (seconds - 1.2) / count)
    begins = start + np.concatenate([[0.0], np.cumsum(interval * 0.95 ** np.arange(count))])
    flat = float(begins[-1])  # the last one reaches the floor
    places = [width / 2 - side * (gap * (count - 1) / 2 + 0.1) + side * gap * at for at in range(count)]
    body = make_body(rng, MATERIALS[material], height / 0.45)
    events = [Event(float(at), x, strike(rng, body, 0.7)) for at, x in zip(begins[1:-1], places[1:], strict=True)]
    events.append(Event(flat, places[-1] + side * height / 2, strike(rng, body, 1.0)))
    colour = pick(rng, LOOKS["wooden"]) if material == "wooden" else pick(rng, ((0.95, 0.95, 0.92), (0.12, 0.12, 0.14)))

    def tilt(which: int, at: float) -> float:
        """How far a domino leans at a moment: on its neighbour, and in the end on what lies before it."""
        last = which == count - 1
        goal = math.pi / 2 - 0.05 if last else lean
        share = (at - float(begins[which])) / float(begins[which + 1] - begins[which])
        if share < 1 or last:
            return goal * math.pow(min(max(share, 0.0), 1.0), 1.6)
        rest = 1.15 if which < count - 2 else 1.3
        return lean + (rest - lean) * float(np.clip((at - begins[which + 1]) / (2.5 * interval), 0, 1))

    def draw(canvas: Canvas, at: float) -> None:
        for which in reversed(range(count)):
            angle = side * tilt(which, at)
            x = places[which] + math.sin(angle) * height / 2
            block(canvas, x, _FLOOR - math.cos(angle) * height / 2, thick, height, material, colour, angle)
        done = int(np.sum(begins[1:] <= at))
        if done:
            foot = (events[done - 1].x, _FLOOR - (height * math.cos(lean) if done < count else 0.0))
            flash(canvas, *foot, at - begins[done], 0.8)

    facts = {"dominoes": f"{number(count)} {material} dominoes", "material": material}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


def rally(rng: Rng, seconds: float, width: float) -> Scene:
    """Table tennis: bat, table, bat, table. Each flight is an arc between two of the four places."""
    table_y, reach, radius = 0.68, 0.38 * width, 0.035
    period = log_uniform(rng, 0.7, 1.3)  # from one bat to the other, the table at two thirds of it
    bats = (width / 2 - reach, width / 2 + reach)
    begin = rng.uniform(0.0, 0.8) * period
    plastic = MATERIALS["plastic"]
    on_table = make_body(rng, Material("plastic", plastic.ratios, 1100, 0.014, 0.5, 0.55, 4500), 1.0)
    on_bat = make_body(rng, Material("wooden", plastic.ratios, 620, 0.02, 0.6, 0.6, 2500), 1.0)
    # Every contact as (seconds, x, y, whether a bat), one before the film begins and one after it ends.
    contacts = []
    for stroke in range(-1, int(seconds / period) + 3):
        at, left = begin + (stroke - 1) * period, stroke % 2 == 0
        x, other = (bats[0], bats[1]) if left else (bats[1], bats[0])
        contacts.append((at, x, 0.48, True))
        contacts.append((at + 0.62 * period, x + 0.72 * (other - x), table_y - radius, False))
    heard = [contact for contact in contacts if 0 <= contact[0] < seconds - 0.05]
    events = [Event(at, x, strike(rng, on_bat if bat else on_table, 0.9 if bat else 0.7)) for at, x, _, bat in heard]
    colours = (pick(rng, LOOKS["rubber"]), (0.1, 0.35, 0.3))

    def draw(canvas: Canvas, at: float) -> None:
        canvas.box(width / 2, table_y + 0.02, 0.68 * width, 0.04, colours[1])
        canvas.box(width / 2, table_y - 0.04, 0.015, 0.08, (0.95, 0.95, 0.95))
        for leg in (-0.28, 0.28):
            canvas.box(width * (0.5 + leg), (table_y + _FLOOR) / 2 + 0.02, 0.03, _FLOOR - table_y, (0.2, 0.2, 0.2))
        now = max(which for which, contact in enumerate(contacts) if contact[0] <= at)
        (t0, x0, y0, bat), (t1, x1, y1, _) = contacts[now], contacts[now + 1]
        share = (at - t0) / (t1 - t0)
        x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0) - 2.2 * (t1 - t0) ** 2 * share * (1 - share)
        for which, bat_x in enumerate(bats):
            strokes = [abs(at - contact[0]) for contact in contacts if contact[3] and contact[1] == bat_x]
            back = min(0.08, 0.3 * min(strokes)) * (1 if which else -1)
            canvas.stroke(bat_x + back * 1.5, 0.5, bat_x + back * 2, 0.62, 0.03, (0.6, 0.4, 0.2))
            canvas.ellipse(bat_x + back + (radius + 0.015) * (1 if which else -1), 0.47, 0.03, 0.09, colours[0])
        ball(canvas, x, y, radius, "rubber", (0.98, 0.95, 0.85))
        flash(canvas, x0, y0 if bat else table_y, at - t0, 0.8)

    facts = {"pace": "fast" if period < 0.85 else "slow" if period > 1.1 else "", "hits": many(len(events), "hit")}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


KINDS = (
    FilmKind(
        "hammering",
        hammering,
        (
            "a hammer strikes {target}",
            "a hammer hits {target}, {blows}",
            "hammering on {target}",
            "{blows} of a hammer on {target}",
        ),
    ),
    FilmKind(
        "dominoes",
        dominoes,
        (
            "{dominoes} fall one after the other",
            "a row of {material} dominoes falls",
            "dominoes topple",
            "{dominoes} topple",
        ),
    ),
    FilmKind(
        "rally",
        rally,
        (
            "a {pace} table tennis rally",
            "a ping-pong ball flies back and forth, a rally",
            "a {pace} rally of table tennis",
        ),
    ),
)
