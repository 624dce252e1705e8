"""The driver of the shards stage: clips → pieces → shards in Ray tasks, then manifests.

A corpus is cut into shards and handfuls before anything is decoded, so tasks need no coordination.
What is finished is found again by its note: an interrupted build goes on where it stopped and
repeats at most a handful of clips per worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from davss.config import ShardsConfig, changed, digest
from davss.corpora import RawClip, filters
from davss.errors import DavssError, StorageError
from davss.media import audio, decoding, faces, mouth, rois, tracks, video
from davss.networks import braven, eigenlips, lipsound, visual
from davss.networks.eigenlips import Eigenlips, VisualEncoder
from davss.networks.lipsound import LipSound
from davss.networks.visual import BravenLips, save_visual_encoder
from davss.ray_session import ray_running
from davss.shards import contract, plan, sample, sources, tasks, writer
from davss.shards.contract import FPS
from davss.shards.manifests import write_manifests
from davss.shards.plan import ClipTable, PlannedShard, plan_shards
from davss.shards.sample import read_mouth, read_recording
from davss.shards.sources import on_this_machine
from davss.shards.writer import ShardResult, read_note
from davss.storage import Store, code_digests, open_store, publish

# Shards made by other code are made again; the manifests change only if the shards do.
_MEDIA = (audio, decoding, faces, mouth, rois, tracks, video, filters)
_CODE = (*_MEDIA, eigenlips, lipsound, braven, visual, contract, plan, sample, sources, writer)
Pair = tuple[np.ndarray, np.ndarray]  # mouths and sound of a clip
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
    settings = changed(config, braven_checkpoint=known.sha256 if known else None)
    folder = f"shards/{corpus}"
    notes = f"{folder}/build-{digest(settings, table.digest(), code_digests(_CODE))}"
    with ray_running(len(os.sched_getaffinity(0))):
        encoder = known or (_fitted(table, config, store, notes) if with_video else None)
        shards = plan_shards(table, _clips_per_shard(table, config, encoder))
        tasks.Build(table, config, encoder, store, folder, notes).run(shards)
    return _publish_manifests(corpus, shards, store, notes, encoder, manifest_dir)


def given_encoder(config: ShardsConfig) -> BravenLips | None:
    """BRAVEn, where the settings want it, or None; DavssError when its checkpoint is not there."""
    if config.visual_encoder != "braven":
        return None
    if config.braven_checkpoint is None:
        raise DavssError(
            "shards.braven_checkpoint: BRAVEn needs its checkpoint; give the path of the file, or "
            "set shards.visual_encoder to eigenlips"
        )
    return BravenLips.of(config.braven_checkpoint)


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


def _fitted(table: ClipTable, config: ShardsConfig, store: Store, notes: str) -> VisualEncoder:
    """The encoder fitted to the first train clips (their order is random already), or as stored."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / visual.ENCODER_FILES[config.visual_encoder]
        name = f"{notes}/{path.name}"
        if store.stat(name) is None:
            rows = table.rows_of("train")
            rows = rows[table.has_video()[rows]][: config.encoder_fit_clips]
            mouths = (mouth for mouth, _ in _read_clips(table, rows, config, with_sound=False))
            basis = Eigenlips.fit(mouths, config.num_components)
            if config.visual_encoder == "lipsound":
                pairs = _read_clips(table, rows, config, with_sound=True)
                LipSound.fit(basis, pairs, config.sample_rate).save(path)
            else:
                basis.save(path)
            store.put(path, name)
        store.fetch(name, path)
        return visual.load_visual_encoder(Path(folder))


def _read_clips(
    table: ClipTable, rows: np.ndarray, config: ShardsConfig, *, with_sound: bool
) -> Iterator[Pair]:
    """Mouths (V, 96, 96) and sound (T,), which is empty where mouths alone are wanted."""
    chosen = ((clip, config, with_sound) for clip in table.clips(rows))
    label = f"{config.visual_encoder}: mouths" + (" and sounds" if with_sound else "")
    return _found(tasks.in_order(_read_or_reason, chosen, len(rows), label, _ended_the_process))


def _read_or_reason(clip: RawClip, config: ShardsConfig, with_sound: bool) -> Pair | str:
    with TemporaryDirectory() as scratch:
        try:
            with on_this_machine(clip, Path(scratch)) as local:
                if not with_sound:
                    return read_mouth(local, config).crops, np.empty(0, np.float32)
                read = read_recording(local, config, with_mouth=True)
                assert read.mouth is not None
                return read.mouth, read.audio
        except StorageError:
            raise
        except DavssError as error:
            return str(error)


def _ended_the_process(argument: tuple) -> str:
    return f"{argument[0].source}: decoding it ends the process"


def _found(clips: Iterable[Pair | str]) -> Iterator[Pair]:
    """The clips that could be read; the others become rejects, with their reason, later."""
    reason, count = "there are none", 0
    for clip in clips:
        if isinstance(clip, str):
            reason = clip
            continue
        count += 1
        yield clip
    if not count:
        raise DavssError(f"visual encoder: no training clip shows a mouth; the last: {reason}")


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
