"""The visual encoder of a build: given by the settings, or fitted to clips of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from davss.config import ShardsConfig
from davss.corpora import RawClip
from davss.errors import DavssError, StorageError
from davss.networks import visual
from davss.networks.eigenlips import Eigenlips, VisualEncoder
from davss.networks.lipsound import LipSound
from davss.networks.visual import BravenLips
from davss.shards import tasks
from davss.shards.plan import ClipTable
from davss.shards.sample import read_mouth, read_recording
from davss.shards.sources import on_this_machine
from davss.storage import Store

Pair = tuple[np.ndarray, np.ndarray]  # mouths and sound of a clip


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


def fitted_encoder(
    table: ClipTable, config: ShardsConfig, store: Store, notes: str
) -> VisualEncoder:
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
