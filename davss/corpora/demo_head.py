"""The still part of a drawn face: who it is, and head, hair, features and room as soft shapes.

Enough light and shadow for networks trained on photographs to find a face, nothing more. Canvas
coordinates are pixels of a 448×448 drawing, twice the size of the video.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SIZE = 224  # of the video
CANVAS = 448
CENTRE = 224.0
EYES_Y, NOSE_Y, MOUTH_Y, CHIN_Y = 192.0, 264.0, 308.0, 372.0
EYE_X = 48.0

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Identity:
    """What makes a face this person's: proportions (1 = average) and colours (RGB, 0–255)."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    head_width: float
    jaw: float
    eye_size: float
    brow_height: float
    nose_width: float
    lip_thickness: float
    mouth_width: float
    long_hair: bool
    fringe: float


def draw_identity(rng: np.random.Generator, feminine: bool) -> Identity:
    """An identity drawn by `rng`; `feminine` decides hair, jaw and fullness of the lips."""
    skins = [(236, 196, 170), (222, 178, 148), (205, 158, 126), (178, 128, 98), (141, 98, 74)]
    hairs = [(38, 28, 24), (72, 48, 32), (110, 78, 46), (168, 132, 84), (90, 88, 88), (104, 50, 30)]
    irises = [(70, 48, 30), (84, 102, 128), (86, 110, 76), (52, 38, 28)]
    skin = np.array(skins[rng.integers(len(skins))]) * rng.uniform(0.94, 1.05)
    lips = 0.55 * skin + 0.45 * np.array((176, 66, 72)) * rng.uniform(0.85, 1.1)
    return Identity(
        skin=rgb(skin),
        hair=hairs[rng.integers(len(hairs))],
        iris=irises[rng.integers(len(irises))],
        lips=rgb(lips),
        head_width=float(rng.uniform(0.94, 1.06)),
        jaw=float(rng.uniform(0.10, 0.20) if feminine else rng.uniform(0.02, 0.12)),
        eye_size=float(rng.uniform(0.92, 1.12)),
        brow_height=float(rng.uniform(-3, 5)),
        nose_width=float(rng.uniform(0.85, 1.15)),
        lip_thickness=float(rng.uniform(0.9, 1.3) if feminine else rng.uniform(0.7, 1.0)),
        mouth_width=float(rng.uniform(0.92, 1.10)),
        long_hair=feminine,
        fringe=float(rng.uniform(0, 1)),
    )


def draw_head(who: Identity, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """All that does not move by itself: float RGB (448, 448, 3) and alpha (448, 448)."""
    picture = np.full((CANVAS, CANVAS, 3), shade(who.hair, 0.8), np.float32)
    alpha = np.zeros((CANVAS, CANVAS), np.float32)

    def paint(points: np.ndarray, colour: Colour, blur: float = 1.0, strength: float = 1.0) -> None:
        place, mask = soft_mask(points, blur)
        mask = mask * strength
        picture[place] += mask[:, :, None] * (np.array(colour, np.float32) - picture[place])
        alpha[place] = np.maximum(alpha[place], mask)

    clothes = rgb(rng.uniform(30, 200, 3))
    if who.long_hair:
        paint(oval(CENTRE, 235, 134, 178), shade(who.hair, 0.8), 3)
    paint(oval(CENTRE, 500, 215, 105), clothes, 2)
    paint(oval(CENTRE, 395, 56, 70), shade(who.skin, 0.72), 4)
    for side in (-1, 1):
        paint(oval(CENTRE + side * 106 * who.head_width, 215, 14, 28), shade(who.skin, 0.8), 2)
    head = _head_outline(who)
    paint(head, who.skin, 1.2)
    _shade_head(picture, head, rng)
    _draw_features(picture, who)
    hairline = 92 + 22 * who.fringe
    t = np.linspace(np.pi, 2 * np.pi, 40)
    cap = np.stack([CENTRE + 116 * who.head_width * np.cos(t), 205 + 158 * np.sin(t)], 1)
    edge = np.stack(
        [CENTRE - 108 * who.head_width * np.cos(t), hairline - 70 * np.sin(t) ** 3 * 0.3], 1
    )
    edge[:, 1] += 70 * np.abs(np.cos(t)) ** 6
    paint(np.concatenate([cap, edge]), who.hair, 3)
    paint(oval(CENTRE - 30, 75, 60, 22), shade(who.hair, 1.35), 14, 0.5)
    return picture, alpha


def _head_outline(who: Identity) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    down = np.clip(np.sin(t), 0, 1)
    x = CENTRE + 106 * who.head_width * np.cos(t) * (1 - who.jaw * down**2)
    y = 212 + np.where(np.sin(t) > 0, CHIN_Y - 212, 152) * np.sin(t)
    return np.stack([x, y], 1)


def _shade_head(picture: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> None:
    # Round by darkening towards the outline; light falls from one side and above.
    place, inside = soft_mask(head, 1.0, margin=96)
    _, depth = soft_mask(head, 32.0, margin=96)
    x = (np.arange(CANVAS, dtype=np.float32) - CENTRE) / CENTRE
    light = 1 + rng.uniform(-0.16, 0.16) * x[None] - 0.10 * x[:, None]
    factor = (0.60 + 0.44 * np.clip(depth * 1.25 - 0.2, 0, 1)) * light[place]
    picture[place] *= (1 + inside * (factor - 1))[:, :, None]


def _draw_features(picture: np.ndarray, who: Identity) -> None:
    """Brows, eye sockets, nose, cheeks and the folds around the mouth, as soft light and shadow."""

    def tone(points: np.ndarray, factor: float, blur: float) -> None:
        place, mask = soft_mask(points, blur)
        picture[place] *= (1 + (factor - 1) * mask)[:, :, None]

    width = who.nose_width
    for side in (-1, 1):
        x = CENTRE + side * EYE_X
        tone(oval(x, EYES_Y - 4, 34, 21), 0.80, 8)
        tone(oval(x - side * 26, EYES_Y + 6, 8, 16), 0.86, 6)
        tone(oval(x, EYES_Y + 22, 24, 5), 0.90, 4)
        tone(oval(CENTRE + side * 62, 262, 26, 20), 1.07, 14)
        tone(oval(CENTRE + side * 17 * width, 240, 7, 34), 0.86, 7)
        tone(oval(CENTRE + side * 20 * width, NOSE_Y - 6, 9, 10), 0.88, 4)
        tone(oval(CENTRE + side * 11 * width, NOSE_Y + 4, 6.5, 3.6), 0.38, 1.6)
        tone(oval(CENTRE + side * 50, 292, 4, 24), 0.91, 6)
        brow_y = EYES_Y - 31 - who.brow_height
        t = np.linspace(-1, 1, 12)
        over = np.stack([x + 31 * t, brow_y - 6 * (1 - t**2) - 2 - side * t], 1)
        under = np.stack([x + 31 * t, brow_y - 3 * (1 - t**2) + 4 - side * t], 1)
        place, brow = soft_mask(np.concatenate([over, under[::-1]]), 1.6)
        colour = np.array(shade(who.hair, 0.75), np.float32)
        picture[place] += 0.85 * brow[:, :, None] * (colour - picture[place])
    tone(oval(CENTRE, 222, 6, 40), 1.10, 5)
    tone(oval(CENTRE, NOSE_Y - 10, 10 * width, 8), 1.13, 5)
    tone(oval(CENTRE, NOSE_Y + 7, 22 * width, 5), 0.74, 4)
    tone(oval(CENTRE, NOSE_Y + 18, 5, 10), 0.92, 3)
    tone(oval(CENTRE, MOUTH_Y + 26, 26, 5), 0.86, 5)
    tone(oval(CENTRE, CHIN_Y - 18, 22, 13), 1.07, 8)
    tone(oval(CENTRE, 130, 56, 24), 1.06, 16)


def draw_room(rng: np.random.Generator) -> np.ndarray:
    """A blurred room: uint8 RGB (224, 224, 3)."""
    corners = rng.uniform(40, 190, (3, 3, 3)).astype(np.float32)
    corners = corners.mean(2, keepdims=True) * 0.6 + corners * 0.4
    room = cv2.resize(corners, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        x, y, width, height = rng.integers(0, SIZE, 4)
        colour = rng.uniform(30, 210, 3).tolist()
        cv2.rectangle(room, (int(x), int(y)), (int(x + width / 2), int(y + height / 2)), colour, -1)
    return cv2.GaussianBlur(room, (0, 0), 7).clip(0, 255).astype(np.uint8)


def soft_mask(
    points: np.ndarray, blur: float, margin: float | None = None
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Where on the canvas a blurred polygon lies (`margin` pixels around it), and itself, 0…1."""
    margin = 3 * blur + 2 if margin is None else margin
    low = np.floor(points.min(0) - margin).clip(0, CANVAS).astype(int)
    high = np.ceil(points.max(0) + margin).clip(0, CANVAS).astype(int)
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(mask, [fixed(points - low)], 255, cv2.LINE_AA, 4)
    mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return (slice(low[1], high[1]), slice(low[0], high[0])), mask.astype(np.float32) / 255


def oval(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([x + half_width * np.cos(t), y + half_height * np.sin(t)], 1)


def fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * 16).astype(np.int32)  # fixed point, 4 fractional bits


def shade(colour: Colour, factor: float) -> Colour:
    return rgb(np.array(colour) * factor)


def rgb(values: np.ndarray) -> Colour:
    red, green, blue = (float(value) for value in np.clip(values, 0, 255))
    return red, green, blue
