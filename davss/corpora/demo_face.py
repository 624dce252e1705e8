"""Drawn talking faces for the demo corpus: a portrait per session, set in motion frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from davss.corpora.demo_head import (
    CANVAS,
    CENTRE,
    CHIN_Y,
    EYE_X,
    EYES_Y,
    MOUTH_Y,
    SIZE,
    Colour,
    Identity,
    draw_head,
    draw_room,
    fixed,
    rgb,
    shade,
)

EYE_HALF = 23.0
MAX_GAP = 34.0  # between the lips
MOUTH_HALF = 37.0
PATCH = (slice(255, 385), slice(150, 298))  # rows and columns the mouth may touch
BLINK_LEVELS = 6


@dataclass(frozen=True)
class Motion:
    """Frame by frame: `opening` and `spread` of the mouth, `blink`, all (V,) in 0…1, and `pose`.

    `pose` is (V, 4): angle in radians, shift right and down in pixels of the video, and scale.
    """

    opening: np.ndarray
    spread: np.ndarray
    blink: np.ndarray
    pose: np.ndarray


class Portrait:
    """One identity in one session: clothes, light and room are drawn once, `render` moves it."""

    def __init__(self, identity: Identity, rng: np.random.Generator) -> None:
        self.identity = identity
        self._background = draw_room(rng)
        picture, alpha = draw_head(identity, rng)
        self._canvas = picture.round().clip(0, 255).astype(np.uint8)
        self._alpha = alpha
        self._eyes = [self._draw_eyes(level / (BLINK_LEVELS - 1)) for level in range(BLINK_LEVELS)]
        noise = rng.normal(128, 2.2, (SIZE + 64, SIZE + 64, 3))
        self._noise = noise.round().clip(0, 255).astype(np.uint8)

    def render(self, motion: Motion, rng: np.random.Generator) -> np.ndarray:
        """Draw `motion` as RGB frames uint8 (V, 224, 224, 3)."""
        frames = np.empty((len(motion.opening), SIZE, SIZE, 3), np.uint8)
        offsets = rng.integers(0, 64, (len(frames), 2))
        canvas = self._canvas.copy()
        for index in range(len(frames)):
            level = int(round(float(motion.blink[index]) * (BLINK_LEVELS - 1)))
            for place, patch in self._eyes[level]:
                canvas[place] = patch
            opening = float(motion.opening[index])
            patch = np.ascontiguousarray(self._canvas[PATCH])
            _draw_mouth(patch, self.identity, opening, float(motion.spread[index]))
            canvas[PATCH] = patch
            frame = self._place(canvas, opening, motion.pose[index])
            y, x = offsets[index]
            noise = self._noise[y : y + SIZE, x : x + SIZE]
            frames[index] = cv2.addWeighted(frame, 1.0, noise, 1.0, -128.0)
        return frames

    def _place(self, canvas: np.ndarray, opening: float, pose: np.ndarray) -> np.ndarray:
        angle, shift_x, shift_y, scale = (float(value) for value in pose)
        step = CANVAS / SIZE / scale
        turn = step * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        middle = np.array([SIZE / 2 + shift_x, SIZE / 2 + shift_y])
        matrix = np.column_stack([turn, CENTRE - turn @ middle])  # video pixels → canvas pixels
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        head = cv2.warpAffine(canvas, matrix, (SIZE, SIZE), flags=flags, borderMode=border)
        alpha = cv2.warpAffine(self._alpha, matrix, (SIZE, SIZE), flags=flags, borderMode=border)
        frame = cv2.blendLinear(head, self._background, alpha, 1 - alpha)
        chin = np.linalg.solve(turn, np.array([0.0, CHIN_Y - CENTRE])) + middle
        _drop_jaw(frame, chin, 0.45 * MAX_GAP * opening / step)
        return cv2.GaussianBlur(frame, (3, 3), 0.6)

    def _draw_eyes(self, blink: float) -> list[tuple[tuple[slice, slice], np.ndarray]]:
        patches = []
        for side in (-1, 1):
            x = CENTRE + side * EYE_X
            rows, columns = (
                slice(int(EYES_Y) - 24, int(EYES_Y) + 24),
                slice(int(x) - 36, int(x) + 36),
            )
            patch = self._canvas[rows, columns].copy()
            _draw_eye(patch, self.identity, blink, side)
            patches.append(((rows, columns), patch))
        return patches


def _drop_jaw(frame: np.ndarray, chin: np.ndarray, distance: float) -> None:
    """Move the chin of a frame (changed in place) down by `distance` pixels, less so around it."""
    left, top = (int(value) for value in np.round(chin) + JAW_CORNER)
    rows, columns = JAW_WEIGHT.shape
    rows = min(rows, SIZE - top)
    above = 10  # pixels come from further up
    source = frame[top - above : top + rows, left : left + columns].copy()
    map_x = np.tile(np.arange(columns, dtype=np.float32), (rows, 1))
    map_y = np.arange(above, above + rows, dtype=np.float32)[:, None]
    map_y = map_y - np.float32(distance) * JAW_WEIGHT[:rows]
    frame[top : top + rows, left : left + columns] = cv2.remap(
        source, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _jaw_weight() -> np.ndarray:
    # 0 just below the mouth, 1 at the chin, 0 again on the throat and beside the jaw.
    down, across = np.mgrid[-31:25, -60:61] * (CANVAS / SIZE / 1.1)
    begin = CHIN_Y - MOUTH_Y - 10
    weight = np.clip((down + begin) / begin, 0, 1) * np.clip((45 - down) / 45, 0, 1)
    return (weight * np.clip(1 - np.square(across / 105), 0, 1)).astype(np.float32)


JAW_WEIGHT, JAW_CORNER = _jaw_weight(), (-60, -31)


def _draw_eye(patch: np.ndarray, who: Identity, blink: float, side: int) -> None:
    centre = np.array([36.0, 24.0])
    half, up = EYE_HALF * who.eye_size, 10.5 * who.eye_size
    t = np.linspace(-1, 1, 25)
    arch = np.sqrt(np.clip(1 - np.abs(t) ** 2.2, 0, 1))
    lower = arch * 6.0
    upper = -arch * up * (1 - blink) + arch * 5.0 * blink
    tilt = -side * t * 1.5
    top = np.stack([centre[0] + half * t, centre[1] + upper + tilt], 1)
    bottom = np.stack([centre[0] + half * t, centre[1] + lower + tilt], 1)
    almond = np.concatenate([top, bottom[::-1]])
    eye = np.empty_like(patch)
    eye[:] = (236, 232, 228)
    cv2.circle(eye, (36, 23), int(9.5 * who.eye_size), who.iris, -1, cv2.LINE_AA)
    cv2.circle(eye, (36, 23), 4, (12, 10, 10), -1, cv2.LINE_AA)
    cv2.circle(eye, (39, 20), 2, (250, 250, 250), -1, cv2.LINE_AA)
    cv2.polylines(eye, [fixed(top + (0, 2))], False, (150, 140, 138), 3, cv2.LINE_AA, 4)
    mask = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillPoly(mask, [fixed(almond)], 255, cv2.LINE_AA, 4)
    weight = mask[:, :, None] / 255
    patch[:] = (weight * eye + (1 - weight) * patch).astype(np.uint8)
    dark = rgb(np.array(who.skin) * 0.30)
    cv2.polylines(patch, [fixed(top)], False, dark, 3, cv2.LINE_AA, 4)
    cv2.polylines(patch, [fixed(bottom)], False, shade(who.skin, 0.66), 1, cv2.LINE_AA, 4)
    crease = top - (0, 6 - 3 * blink)
    cv2.polylines(patch, [fixed(crease[3:-3])], False, shade(who.skin, 0.68), 2, cv2.LINE_AA, 4)
    patch[:] = cv2.GaussianBlur(patch, (3, 3), 0.8)


def _draw_mouth(patch: np.ndarray, who: Identity, opening: float, spread: float) -> None:
    """Draw lips, dark interior, teeth and tongue into the patch (uint8 RGB, changed in place)."""
    t = np.linspace(-1, 1, 29)
    gap = MAX_GAP * opening
    half = MOUTH_HALF * who.mouth_width * (0.74 + 0.40 * spread)
    arch = 1 - t**2
    inner_top = -0.28 * gap * arch
    inner_bottom = 0.72 * gap * arch + 0.6
    bow = 1 - 0.22 * np.exp(-np.square(t / 0.13))
    pout = 1.18 - 0.36 * spread  # rounded lips are thick
    outer_top = inner_top - 9.5 * who.lip_thickness * pout * np.sqrt(arch) * bow
    outer_bottom = inner_bottom + 12.5 * who.lip_thickness * pout * arch**0.75
    x = CENTRE - PATCH[1].start + half * t
    y = MOUTH_Y - PATCH[0].start + 2.5 * t**2

    def between(top: np.ndarray, bottom: np.ndarray, colour: Colour, part: slice) -> None:
        over = np.stack([x, y + top], 1)[part]
        under = np.stack([x, y + bottom], 1)[part][::-1]
        cv2.fillPoly(patch, [fixed(np.concatenate([over, under]))], colour, cv2.LINE_AA, 4)

    everything, middle = slice(None), slice(4, -4)
    between(inner_top - 0.8, inner_bottom + 0.8, (46, 16, 18), everything)
    tongue = np.maximum(inner_bottom - 0.45 * gap * arch, inner_top + 0.5 * gap)
    between(np.minimum(tongue, inner_bottom), inner_bottom, (148, 74, 74), middle)
    teeth = np.minimum(inner_top + np.minimum(4 + 0.25 * gap, 11), inner_bottom)
    if gap > 2:
        between(inner_top, teeth, (218, 208, 196), middle)
    between(outer_top, inner_top, shade(who.lips, 0.88), everything)
    between(inner_bottom, outer_bottom, who.lips, everything)
    shine = 0.5 * (inner_bottom + outer_bottom)
    between(shine - 1.2, shine + 1.6, shade(who.lips, 1.14), slice(9, -9))
    patch[:] = cv2.GaussianBlur(patch, (5, 5), 1.1)
