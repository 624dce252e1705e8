"""Ready mouth crops in VisualVoice's format: one HDF5 file a clip with `data`, (V, 96, 96) gray."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from davss.errors import DavssError
from davss.media import CROP
from davss.media.decoding import require_file

ROI = ".h5"


def read_rois(path: str | Path) -> np.ndarray:
    """Mouth crops uint8 (V, 96, 96) at 25 fps; DavssError for a file of another kind or shape."""
    path = require_file(path)
    try:
        with h5py.File(path, "r") as file:
            crops = file["data"][()]
    except KeyError:
        raise DavssError(f"{path}: has no 'data'; give crops in VisualVoice's format") from None
    except (OSError, TypeError, RuntimeError):
        raise DavssError(
            f"{path}: not a readable HDF5 file (truncated?); make it or get it again"
        ) from None
    crops = np.asarray(crops)
    if crops.ndim != 3 or crops.shape[1:] != (CROP, CROP) or len(crops) == 0:
        raise DavssError(
            f"{path}: 'data' is {crops.shape}, expected (frames, {CROP}, {CROP}) in gray"
        )
    if crops.dtype != np.uint8:
        raise DavssError(f"{path}: 'data' is {crops.dtype}, expected uint8 gray levels")
    return crops
