"""Stage: one raw corpus → WebDataset shards in the storage, manifests in data/shards/CORPUS.

    python -m pipelines.shards {voxceleb2,speech,wham,dns} [--params params.yaml]

Shards go to $DAVSS_STORAGE (or ./storage); the stage's outputs name them by sha256.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from davss.config import SPEECH_CORPUS, Corpus, CorpusConfig, ShardsConfig, load_section
from davss.corpora import RawClip, dns, speech, voxceleb2, wham
from davss.shards.build import build_shards
from davss.shards.encoders import given_encoder
from davss.shards.sheets import Watched, write_sheets
from davss.storage import open_storage
from pipelines import run, stage_parser


def scan(corpus: str, corpus_config: CorpusConfig, config: ShardsConfig) -> Iterator[RawClip]:
    """Clips of one of the corpora."""
    root = corpus_config.root
    if corpus == SPEECH_CORPUS:
        by, without_video = config.validation_by, corpus_config.without_video
        return voxceleb2.scan(root, config.validation_fraction, by, without_video)
    if corpus == "wham":
        return wham.scan(root, corpus_config.augmented)
    if corpus == "speech":
        return speech.scan(root, corpus_config.split_fractions)
    return dns.scan(root, corpus_config.split_fractions)


def main(argv: list[str] | None = None) -> None:
    """Build the shards of one corpus."""
    parser = stage_parser("shards", __doc__)
    parser.add_argument("corpus", choices=get_args(Corpus))
    arguments = parser.parse_args(argv)
    corpus = arguments.corpus
    corpus_config = load_section(arguments.params, f"corpora.{corpus}", CorpusConfig)
    config = load_section(arguments.params, "shards", ShardsConfig)
    if corpus == SPEECH_CORPUS:
        given_encoder(config)  # before a million files are listed
    clips = Watched(scan(corpus, corpus_config, config))
    manifest_dir = Path("data/shards") / corpus
    summary = build_shards(corpus, clips, config, manifest_dir, open_storage())
    write_sheets(clips, config, manifest_dir)
    print(
        f"{corpus}: {summary.clips} clips ({summary.seconds / 3600:.2f} h) in {summary.shards} "
        f"shards, {summary.rejects} rejected"
    )
    if summary.rejects:
        print(f"why: {manifest_dir / 'rejects.parquet'}")


if __name__ == "__main__":
    run(main)
