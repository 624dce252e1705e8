"""In which order an endless run takes the clips of its shards: a pure function of the position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Order:
    """Position in an endless run → (shard, clip in the shard); every epoch has each clip once.

    An epoch takes the shards in a new random order, some at a time: as many as hold about
    `shuffle_buffer` clips, and those clips are shuffled among each other. Nothing but the position
    has to be remembered, and few shards are in use at a time. `stream` tells orders of one seed
    apart. The number of clips in each shard is `counts`.
    """

    def __init__(
        self, counts: Sequence[int], shuffle_buffer: int, seed: int, stream: int = 0
    ) -> None:
        self.counts = np.asarray(counts)
        self.total = int(self.counts.sum())
        self.num_groups = min(max(self.total // shuffle_buffer, 1), len(counts))
        self.entropy = (seed, stream)
        self._epoch: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._group: tuple[tuple[int, int], np.ndarray] | None = None

    def locate(self, position: int) -> tuple[int, int]:
        """Shard and number of the clip at `position`, 0 or more."""
        epoch, group = self.group_at(position)
        groups, starts = self._groups(epoch)
        clips = self._clips(epoch, group, groups[group])
        shard, clip = clips[position % self.total - starts[group]]
        return int(shard), int(clip)

    def group_at(self, position: int) -> tuple[int, int]:
        """Epoch of a position, and which of its groups it lies in."""
        epoch, offset = divmod(position, self.total)
        _, starts = self._groups(epoch)
        return epoch, int(np.searchsorted(starts, offset, side="right")) - 1

    def shards_from(self, epoch: int, group: int) -> list[int]:
        """The shards of a group and those of the one after it, in the order in which they come."""
        groups, _ = self._groups(epoch)
        last = group + 1 == len(groups)
        after = self._groups(epoch + 1)[0][0] if last else groups[group + 1]
        return [int(shard) for shard in (*groups[group], *after)]

    def any(self, rng: np.random.Generator) -> tuple[int, int]:
        """Shard and number of a random clip."""
        clip = int(rng.integers(self.total))
        shard = int(np.searchsorted(np.cumsum(self.counts), clip, side="right"))
        return shard, clip - int(self.counts[:shard].sum())

    def _groups(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of each group of an epoch, and the offset at which each group starts."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((*self.entropy, epoch))
            groups = np.array_split(rng.permutation(len(self.counts)), self.num_groups)
            sizes = [int(self.counts[shards].sum()) for shards in groups]
            self._epoch = (epoch, groups, np.cumsum([0, *sizes[:-1]]))
        return self._epoch[1], self._epoch[2]

    def _clips(self, epoch: int, group: int, shards: np.ndarray) -> np.ndarray:
        """The clips (N, 2) of a group in their order: shard, number in the shard."""
        if self._group is None or self._group[0] != (epoch, group):
            rng = np.random.default_rng((*self.entropy, epoch, group))
            pairs = [
                np.stack([np.full(self.counts[shard], shard), np.arange(self.counts[shard])], 1)
                for shard in shards
            ]
            self._group = ((epoch, group), rng.permutation(np.concatenate(pairs)))
        return self._group[1]
