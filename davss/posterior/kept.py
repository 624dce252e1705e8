"""Finished windows of a long recording, kept so that a second run goes on where the first stopped.

A file holds what sampling some windows together gave, and its name is a digest of all that decides
it: what was heard, seen and known of them, the priors, the settings and the code.

Shapes: P windows sampled together · M sources · W samples · F bins · N frames or steps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from davss.code import code_digest
from davss.errors import StorageError
from davss.posterior.recordings import Excerpt, Outcome
from davss.storage import publish


class Kept:
    """The outcomes of earlier runs in `folder`, which is made when there is something to keep.

    `found`, if given, is called with the number of windows that need not be separated again. What
    cannot be kept, for want of space, is not.
    """

    def __init__(self, folder: Path, found: Callable[[int], Any] | None = None) -> None:
        self.folder, self._found = folder, found or (lambda num: None)
        self._fixed = ""

    def decided_by(self, *parts: Any) -> None:
        """Say what all outcomes depend on: modules, and settings that say themselves in full."""
        state = hashlib.sha256(code_digest("davss.posterior.separator").encode())
        for part in parts:
            if isinstance(part, torch.nn.Module):
                for name, value in sorted(part.state_dict().items()):
                    state.update(name.encode())
                    state.update(_bytes(value))
            else:
                state.update(repr(part).encode())
        self._fixed = state.hexdigest()

    def path(
        self, excerpts: Sequence[Excerpt], known: Tensor, settled: Tensor, *rest: object
    ) -> Path:
        """The file of the outcome of some windows, of which (P, M, W) is known where settled."""
        state = hashlib.sha256(self._fixed.encode())
        for excerpt in excerpts:
            plain = replace(excerpt, mixture=excerpt.mixture[:0], lips=None)
            state.update(repr(plain).encode())
            state.update(_bytes(excerpt.mixture))
            if excerpt.lips is not None:
                state.update(_bytes(excerpt.lips))
        for tensor in (known, settled):
            state.update(_bytes(tensor))
        state.update(repr(rest).encode())
        return self.folder / f"{state.hexdigest()[:24]}.safetensors"

    def load(self, path: Path) -> Outcome | None:
        """What is kept there, if it is, and can be read."""
        try:
            with safe_open(path, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                notes = json.loads(stored.metadata()["notes"])
            sources, spread = tensors.pop("sources"), tensors.pop("spread", None)
            failed = {int(index): why for index, why in notes["failed"].items()}
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        self._found(len(sources))
        return Outcome(sources, tensors, set(notes["retried"]), failed, spread)

    def save(self, path: Path, outcome: Outcome) -> None:
        """Keep an outcome."""
        tensors = {"sources": outcome.sources, **outcome.trace}
        tensors |= {} if outcome.spread is None else {"spread": outcome.spread}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        notes = json.dumps({"retried": sorted(outcome.retried), "failed": outcome.failed})
        with suppress(StorageError), publish(path) as temporary:
            save_file(tensors, temporary, metadata={"notes": notes})


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes()
