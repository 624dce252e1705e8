"""The recordings of one separation: cut into windows, sampled in batches, put together again.

Shapes: B batch · L speakers with lips · M sources · T samples · P windows sampled together ·
W samples of a window · V video frames · D visual feature size · F bins · N frames or steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from davss.media.resampling import resample_blocks
from davss.posterior.spread import hop_length
from davss.posterior.trace import average
from davss.posterior.windows import Assembly, Windows

QUIET = 10 ** (-10 / 20)  # a window counts as loud as the recording less 10 dB, at least
NOTHING = 1e-3  # a window below this part of the level of the recording (−60 dB) is silent


@dataclass(frozen=True)
class Excerpt:
    """One window of one item."""

    item: int
    window: int
    key: str
    mixture: Tensor  # (W,)
    lips: Tensor | None  # (L, V, D)
    level: float  # standard deviation that is brought to the priors' level


@dataclass(frozen=True)
class Outcome:
    """What sampling P windows together gave; those in `failed` diverged twice."""

    sources: Tensor  # (P, M, W)
    trace: dict[str, Tensor]
    retried: set[int]
    failed: dict[int, str]
    spread: Tensor | None  # (P, M, F, N)


@dataclass(frozen=True)
class Separation:
    """What a separator returns, on the mixture's device; a diverged item is silent and `errors`
    says why.
    """

    speech: Tensor  # (B, K, T)
    noise: Tensor  # (B, T)
    trace: dict[str, Tensor]  # sigma (N,), likelihood (N, B), {prior,likelihood}_step (N, B, M),
    # retries (B,): windows sampled again with half of zeta because they had diverged
    errors: list[str | None]  # per item
    warnings: list[list[str]]  # per item: windows of it that diverged, left in the noise
    num_evaluations: int  # calls of each prior's network, for every window
    spread: Tensor | None = None  # (B, M, F, N) with several draws, see davss.posterior.spread

    def to(self, device: torch.device) -> "Separation":
        """The same with every tensor on `device`."""
        return replace(
            self,
            speech=self.speech.to(device),
            noise=self.noise.to(device),
            trace={name: values.to(device) for name, values in self.trace.items()},
            spread=None if self.spread is None else self.spread.to(device),
        )


class Recordings:
    """Mixtures (B, T) on their way through the sampler.

    lips: (B, L, V, D) or None, of whole recordings; `grid` is a video frame in samples.
    """

    def __init__(
        self,
        signal: Tensor,
        lips: Tensor | None,
        keys: Sequence[str],
        windows: Windows,
        num_sources: int,
        sample_rate: int,
        grid: int,
    ) -> None:
        rest = windows.total - signal.shape[-1]
        self.signal = torch.nn.functional.pad(signal, (0, rest)) if rest > 0 else signal
        self.lips, self.keys, self.windows = lips, keys, windows
        self.num_samples, self.sample_rate, self.grid = signal.shape[-1], sample_rate, grid
        self.levels = [item.std().item() for item in signal]
        self.assemblies = [Assembly(windows, (num_sources,)) for _ in keys]
        self.spreads: list[Assembly] = []
        self.traces: list[list[tuple[dict[str, Tensor], int]]] = [[] for _ in keys]
        self.retries = torch.zeros(len(keys), dtype=torch.long)
        self.failures: list[list[tuple[int, str]]] = [[] for _ in keys]

    def batches(self, wave: Sequence[int], batch_size: int) -> Iterator[list[Excerpt]]:
        """The windows of a wave, in batches. Silent windows are done with at once: they are
        noise.
        """
        excerpts = []
        for window in wave:
            for item in range(len(self.keys)):
                excerpt = self._cut(item, window)
                if excerpt.mixture.std().item() > NOTHING * self.levels[item]:
                    excerpts.append(excerpt)
                else:
                    self._add_noise(excerpt)
        for first in range(0, len(excerpts), batch_size):
            yield excerpts[first : first + batch_size]

    def _cut(self, item: int, window: int) -> Excerpt:
        start, length = self.windows.starts[window], self.windows.length
        mixture = self.signal[item, start : start + length]
        key, lips = self.keys[item], None
        if self.lips is not None:
            lips = self.lips[item]
        if len(self.windows) > 1:
            key = f"{key}/{window}"
            if lips is not None:
                frames = torch.arange(start // self.grid, (start + length) // self.grid)
                lips = lips[:, frames.clamp_max(lips.shape[1] - 1)]
        level = max(mixture.std().item(), QUIET * self.levels[item])
        return Excerpt(item, window, key, mixture, lips, level)

    def _add_noise(self, excerpt: Excerpt) -> None:
        assembly = self.assemblies[excerpt.item]
        sources = torch.zeros(*assembly.sum.shape[:-1], self.windows.length)
        sources[-1] = excerpt.mixture
        assembly.add(excerpt.window, sources)

    def known(self, excerpts: Sequence[Excerpt]) -> tuple[Tensor, Tensor]:
        """What is known of the windows' sources (P, M, W), and where (P, W)."""
        known, settled = zip(
            *(self.assemblies[excerpt.item].known(excerpt.window) for excerpt in excerpts),
            strict=True,
        )
        return torch.stack(known), torch.stack(settled)

    def add(self, excerpts: Sequence[Excerpt], outcome: Outcome) -> None:
        """Put the outcome of a batch in its place; a window that failed is noise."""
        for index, excerpt in enumerate(excerpts):
            self.traces[excerpt.item].append((outcome.trace, index))
            self.retries[excerpt.item] += index in outcome.retried
            if index in outcome.failed:
                self.failures[excerpt.item].append((excerpt.window, outcome.failed[index]))
                self._add_noise(excerpt)
                continue
            self.assemblies[excerpt.item].add(excerpt.window, outcome.sources[index])
            if outcome.spread is not None:
                self._add_spread(excerpt, outcome.spread[index])

    def _add_spread(self, excerpt: Excerpt, spread: Tensor) -> None:
        if not self.spreads:
            frames = self.windows.in_frames(hop_length(self.sample_rate))
            self.spreads = [Assembly(frames, tuple(spread.shape[:-1])) for _ in self.keys]
        self.spreads[excerpt.item].add(excerpt.window, spread)

    def sources(self) -> Tensor:
        """All sources, (B, M, T)."""
        return _stack([assembly.result(self.num_samples) for assembly in self.assemblies])

    def spread(self) -> Tensor | None:
        """The spread of all sources, (B, M, F, N), if there were several draws."""
        frames = -(-self.num_samples // hop_length(self.sample_rate))
        return _stack([one.result(frames) for one in self.spreads]) if self.spreads else None

    def trace(self) -> dict[str, Tensor]:
        """Means over the windows of each item, and its `retries` (B,); empty if all was silent."""
        found = [average(traces) if traces else {} for traces in self.traces]
        if not all(found):
            return {"retries": self.retries}
        stacked = {
            name: torch.stack([one[name] for one in found], dim=1)
            for name in found[0]
            if name != "sigma"
        }
        return {"sigma": found[0]["sigma"], **stacked, "retries": self.retries}

    def errors(self) -> list[str | None]:
        """Per item why there is no estimate: every one of its windows diverged; or None."""
        return [
            f"{key}: {failures[0][1]}" if len(failures) == len(self.windows) else None
            for key, failures in zip(self.keys, self.failures, strict=True)
        ]

    def warnings(self) -> list[list[str]]:
        """Per item the stretches that diverged while others did not; all of them is noise."""
        texts: list[list[str]] = []
        for key, failures in zip(self.keys, self.failures, strict=True):
            starts = [self.windows.starts[window] / self.sample_rate for window, _ in failures]
            length = self.windows.length / self.sample_rate
            texts.append(
                [
                    f"{key}: from {start:.1f} to {start + length:.1f} s left in the noise: {why}"
                    for start, (_, why) in zip(starts, failures, strict=True)
                ]
                if len(failures) < len(self.windows)
                else []
            )
        return texts


def _stack(items: Sequence[Tensor]) -> Tensor:
    """All items in one tensor; a single one, which may be an hour long, is not copied."""
    return torch.stack(list(items)) if len(items) > 1 else items[0][None]


def blocks_at_rate(source: Tensor, rate: int, new_rate: int, length: int) -> Iterator[Tensor]:
    """A source (T,) at another rate, (length,) in blocks: there and back may differ by a sample."""
    for start, part in resample_blocks(source, rate, new_rate):
        yield part[: length - start]


def at_rate(sources: Tensor, rate: int, new_rate: int, length: int) -> Tensor:
    """Sources (B, M, T) as `blocks_at_rate` has one, (B, M, length)."""
    if rate == new_rate:
        return sources[..., :length]
    found = sources.new_zeros(*sources.shape[:2], length)
    for source, row in zip(sources.flatten(0, 1), found.flatten(0, 1), strict=True):
        at = 0
        for part in blocks_at_rate(source, rate, new_rate, length):
            row[at : at + len(part)] = part
            at += len(part)
    return found
