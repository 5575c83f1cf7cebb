"""The kinds of film, by name: those for training, and those held apart, never trained on."""

from __future__ import annotations

from scenes import bouncing, colliding, drops, held_out, pendulum, walking
from scenes.scene import FilmKind

KINDS: dict[str, FilmKind] = {
    module.KIND.name: module.KIND for module in (bouncing, colliding, pendulum, drops, walking)
}
HELD_OUT_KINDS: dict[str, FilmKind] = {kind.name: kind for kind in held_out.KINDS}
