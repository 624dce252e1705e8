"""Does a prior know what is not its own? Denoising gain of each prior on each kind of sound.

    python -m benchmarks.confusion [--priors small-speech small-noise …] [--corpora speech wham …]

Validation clips of corpora in data/shards, the middles of 2.8 s, with the white noise of training's
validation; gains in dB over a white Wiener filter, speech without lips. What a prior denoises as
well as the sounds it was trained on, it takes for its own when sources are sampled together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas

from davss.diffusion.prior import load_prior
from davss.errors import DavssError
from davss.evaluation.tables import markdown
from davss.shards.reader import ShardReader
from davss.storage import shard_store
from davss.training.validation import load_clips, validate
from pipelines import run

SECONDS, SIGMAS = 2.8, (0.016, 0.063, 0.25)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--priors", nargs="+", default=["small-speech", "small-noise"])
    parser.add_argument("--corpora", nargs="+", default=["speech", "wham"])
    parser.add_argument("--clips", type=int, default=24, help="of each corpus (default: 24)")
    arguments = parser.parse_args(argv)
    lines = []
    for corpus in arguments.corpora:
        reader = ShardReader(Path("data/shards") / corpus, shard_store(), "valid")
        for name in arguments.priors:
            lines.append({"sound": corpus, "prior": name, **gains(name, reader, arguments.clips)})
    print(markdown(pandas.DataFrame(lines)))


def gains(name: str, reader: ShardReader, count: int) -> dict[str, float]:
    """Gain (dB) of a prior at each of SIGMAS on `count` clips."""
    prior = load_prior(name)
    if reader.sample_rate != prior.sample_rate:
        raise DavssError(
            f"{reader.manifest}: clips at {reader.sample_rate} Hz, {name} works at "
            f"{prior.sample_rate} Hz; give --corpora of that rate"
        )
    clips = load_clips(
        reader,
        count=count,
        crop_samples=round(SECONDS * prior.sample_rate),
        sigma_data=prior.sigma_data,
        with_lips=False,
    )
    found = validate(prior, clips, prior.sigma_data, batch_size=4)
    return {f"σ {sigma:g} (dB)": found[f"valid/gain_sigma_{sigma:g}"] for sigma in SIGMAS}


if __name__ == "__main__":
    run(main, reads_params=False)
