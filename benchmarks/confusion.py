"""Does a prior know what is not its own? Denoising gain of each prior on each kind of sound.

    python -m benchmarks.confusion [--priors small-speech small-noise …] [--corpora speech wham …]

Validation clips of corpora in data/shards, 2.8 s at RMS 0.05, with white noise at four levels;
gains in dB over a white Wiener filter, speech without lips. What a prior denoises as well as the
sounds it was trained on, it takes for its own when sources are sampled together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas
import torch
from torch import Tensor

from davss.diffusion.prior import load_prior
from davss.errors import DavssError
from davss.evaluation.figures import markdown
from davss.shards.reader import ShardReader
from davss.storage import shard_store
from pipelines import run

SECONDS, LEVEL, SIGMAS = 2.8, 0.05, (0.016, 0.063, 0.125, 0.25)


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--priors", nargs="+", default=["small-speech", "small-noise"])
    parser.add_argument("--corpora", nargs="+", default=["speech", "wham"])
    parser.add_argument("--clips", type=int, default=24, help="of each corpus (default: 24)")
    arguments = parser.parse_args(argv)
    lines = []
    for corpus in arguments.corpora:
        for name in arguments.priors:
            prior = load_prior(name).eval()
            clips = read(corpus, prior.sample_rate, arguments.clips)
            gains = {f"σ {sigma:g} (dB)": gain(prior, clips, sigma) for sigma in SIGMAS}
            lines.append({"sound": corpus, "prior": name, **gains})
    print(markdown(pandas.DataFrame(lines)))


def read(corpus: str, rate: int, count: int) -> Tensor:
    """The middles of validation clips that are long enough, (B, T), spread over the corpus."""
    reader = ShardReader(Path("data/shards") / corpus, shard_store(), "valid")
    length = round(SECONDS * rate)
    keys = sorted(reader.clips.key[reader.clips.num_samples >= length])
    if reader.sample_rate != rate or not keys:
        raise DavssError(f"{reader.manifest}: no clips of {SECONDS} s at {rate} Hz")
    found = []
    for key in keys[:: max(len(keys) // count, 1)][:count]:
        audio = torch.from_numpy(reader[key].audio).float()
        begin = (len(audio) - length) // 2
        crop = audio[begin : begin + length]
        found.append(crop * LEVEL / crop.square().mean().sqrt().clamp_min(1e-8))
    return torch.stack(found)


@torch.no_grad()
def gain(prior: torch.nn.Module, clean: Tensor, sigma: float) -> float:
    """Denoising gain (dB) over a white Wiener filter, of clips (B, T) at noise level sigma."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = clean + sigma * noise
    found = torch.cat([prior(u[None], torch.tensor([sigma])) for u in noisy])
    white = noisy * (LEVEL**2 / (LEVEL**2 + sigma**2))
    return (
        10 * torch.log10((white - clean).square().mean() / (found - clean).square().mean()).item()
    )


if __name__ == "__main__":
    run(main, reads_params=False)
