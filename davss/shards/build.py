"""The driver of the shards stage: clips → pieces → shards in Ray tasks, then manifests.

A corpus is cut into shards and handfuls before anything is decoded, so tasks need no coordination.
What is finished is found again by its note: an interrupted build goes on where it stopped and
repeats at most a handful of clips per worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from davss import cores
from davss.code import code_digest
from davss.config import ShardsConfig, digest
from davss.corpora import RawClip
from davss.errors import DavssError
from davss.media import FPS, audio
from davss.networks.eigenlips import VisualEncoder
from davss.networks.visual import save_visual_encoder
from davss.ray_session import ray_running
from davss.shards import contract, tasks
from davss.shards.encoders import fitted_encoder, given_encoder
from davss.shards.manifests import write_manifests
from davss.shards.plan import ClipTable, PlannedShard, plan_shards
from davss.shards.sources import on_this_machine
from davss.shards.writer import ShardResult, read_note
from davss.storage import Store, open_store, publish

_SAMPLED = 32  # clips whose length is looked at to say how many fill a shard


@dataclass
class Summary:
    """What a build has come to."""

    shards: int = 0
    clips: int = 0
    seconds: float = 0.0
    rejects: int = 0
    first_reason: str = ""

    def add(self, result: ShardResult) -> ShardResult:
        """Count one shard in, and return it."""
        self.shards += result.shard is not None
        self.clips += len(result.clips)
        self.seconds += sum(row["seconds"] for row in result.clips)
        self.rejects += len(result.rejects)
        if result.rejects and not self.first_reason:
            self.first_reason = result.rejects[0]["reason"]
        return result


def build_shards(
    corpus: str,
    clips: Iterable[RawClip],
    config: ShardsConfig,
    manifest_dir: Path,
    storage: Path | Store,
) -> Summary:
    """Build or reuse all shards of a corpus in `storage`, then publish its manifests as
    `manifest_dir`.

    Clips that cannot be used are listed in rejects.parquet; DavssError when no clip is left.
    """
    contract.samples_per_frame(config.sample_rate)
    store = open_store(storage)
    store.stat(f"shards/{corpus}")  # a bucket that cannot be used is told before any work
    table = ClipTable(clips)
    with_video = bool(table.has_video().any())
    known = given_encoder(config) if with_video else None
    settings = replace(config, braven_checkpoint=known.sha256 if known else None)
    folder = f"shards/{corpus}"
    # Shards made by other code are made again; the manifests change only if the shards do.
    code = code_digest("davss.shards.encoders", "davss.shards.tasks")
    notes = f"{folder}/build-{digest(settings, table.digest(), code)}"
    with store.scratch(notes):
        pass  # and so is a folder that may not be written to
    with ray_running(cores.count()):
        encoder = known or (fitted_encoder(table, config, store, notes) if with_video else None)
        shards = plan_shards(table, _clips_per_shard(table, config, encoder))
        tasks.Build(table, config, encoder, store, folder, notes).run(shards)
    return _publish_manifests(corpus, shards, store, notes, encoder, manifest_dir)


def _publish_manifests(
    corpus: str,
    shards: list[PlannedShard],
    store: Store,
    notes: str,
    encoder: VisualEncoder | None,
    manifest_dir: Path,
) -> Summary:
    summary = Summary()
    with publish(manifest_dir) as temporary:
        temporary.mkdir()
        results = (read_note(store, f"{notes}/{shard.name}.json") for shard in shards)
        write_manifests((summary.add(result) for result in results if result), temporary)
        if not summary.clips:
            raise DavssError(
                f"corpora.{corpus}: all {summary.rejects} clips were rejected; the first: "
                f"{summary.first_reason}"
            )
        if encoder is not None:
            save_visual_encoder(encoder, temporary)
    return summary


def _clips_per_shard(table: ClipTable, config: ShardsConfig, encoder: VisualEncoder | None) -> int:
    """Clips that make a shard of about shard_megabytes."""
    seconds = np.mean(list(_durations(table)) or [config.min_seconds])
    rate = 1.2 * config.sample_rate + (2 * FPS * encoder.dim if encoder else 0)  # flac saves 40 %
    return max(1, round(config.shard_megabytes * 1e6 / (seconds * rate)))


def _durations(table: ClipTable) -> Iterator[float]:
    for clip in table.clips(range(min(_SAMPLED, len(table)))):
        with TemporaryDirectory() as scratch:
            try:
                with on_this_machine(clip, Path(scratch)) as local:
                    samples, rate = audio.read_audio(local.audio)
                    yield len(samples) / rate
            except DavssError:
                continue
