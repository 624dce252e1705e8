"""Drawn people, one or several in a picture."""

from __future__ import annotations

import numpy as np

from davss.corpora.demo_face import Motion, Portrait
from davss.corpora.demo_head import draw_identity


def person(num: int, seed: int, speaks: bool = True, pace: float = 2.0) -> np.ndarray:
    """Frames (V, 224, 224, 3) of one of them, talking at a `pace` of their own."""
    rng = np.random.default_rng(seed)
    time = np.arange(num)
    still = np.zeros((num, 4)) + (0, 0, 0, 1)
    pose = [0.05 * np.sin(time / 9), 4 * np.sin(time / 11), 3 * np.cos(time / 13), 1 + 0 * time]
    gap = 0.5 - 0.5 * np.cos(time / pace)
    motion = Motion(
        gap if speaks else 0.1 + 0 * time,
        0.5 + 0 * time,
        0.0 * time,
        np.stack(pose, 1) if speaks else still,
    )
    return Portrait(draw_identity(rng, feminine=seed % 2 == 0), rng).render(motion, rng)


def beside(*people: np.ndarray) -> np.ndarray:
    """All in one picture, from the left to the right."""
    return np.concatenate(people, axis=2)
