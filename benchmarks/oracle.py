"""Calibration of every sampler against exact posterior samples of three stationary Gaussian
sources, whose denoisers and posterior are known in closed form (tests/posterior/oracle.py).

    python -m benchmarks.oracle [--steps 200] [--mixtures 8] [--seed 1]

A calibrated sampler has the SI-SDR of an exact posterior sample, no more and no less, the sources'
true levels, and adds up to the mixture. The table goes to standard output, progress to standard
error.

Shapes: B mixtures · 3 sources · T samples.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from davss import si_sdr
from davss.config import PRESETS, SamplerConfig, to_dict
from davss.posterior import sample
from davss.posterior.sampling import evaluations
from tests.posterior import oracle

# Several exact samples of every mixture: their scatter is the error of each row, drawn once.
EXACT_DRAWS = 32
# Apart from the seeds that draw sources, or a sampler would start from the noise in them.
SAMPLER_SEED, EXACT_SEED = 1_000_000, 2_000_000

HEADER = (
    "| sampler | SI-SDR [dB] | minus exact [dB] | level / true level | residual [dB] "
    "| evaluations | gradients | CPU s |\n|---|---|---|---|---|---|---|---|"
)

Settings = dict[str, Any]


def settings(steps: int) -> dict[str, Settings]:
    """The rows: name → settings of the sampler."""
    dps, daps = {"num_steps": steps}, {"num_steps": steps, "name": "daps"}
    measured = {**daps, "shares": "measured"}
    churned, few = {**dps, "s_churn": 10.0}, {"num_steps": max(2, steps // 5)}
    return {
        "dps, Euler": dps,
        "dps, Euler, churn 10": churned,
        "dps, Euler, churn 30": {**dps, "s_churn": 30.0},
        "dps, Heun": {**dps, "order": 2},
        "dps, Heun, churn 10": {**churned, "order": 2},
        "dps, churn 10, ζ 0.25": {**churned, "zeta": 0.25},
        "dps, churn 10, ζ 1": {**churned, "zeta": 1.0},
        "dps, churn 10, consistency": {**churned, "consistency": True},
        "dps, churn 10, mean of 4": {**churned, "num_samples": 4},
        "dps, churn 10, a fifth of the steps": {**churned, **few},
        "daps": daps,
        "daps, η 0.85": {**daps, "eta": 0.85},
        "daps, mean-seeking": {**daps, "inner_noise": 0.0},
        "daps, mean of 4": {**daps, "num_samples": 4},
        "daps, a fifth of the steps": {**daps, **few},
        "daps, measured": measured,
        "daps, measured, a fifth of the steps": {**measured, **few},
        "daps, measured, mean-seeking": {**measured, "inner_noise": 0.0},
        "daps, offer": {**daps, "shares": "offer"},
        "daps, offer, mean-seeking": {**daps, "shares": "offer", "inner_noise": 0.0},
        "preset fast": to_dict(PRESETS["fast"]),
        "pseudo": {**dps, "name": "pseudo"},
        "pseudo, churn 20": {**dps, "name": "pseudo", "s_churn": 20.0},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="noise levels (default: 200)")
    parser.add_argument("--mixtures", type=int, default=8, help="of 8000 samples (default: 8)")
    parser.add_argument("--seed", type=int, default=1, help="of the mixtures (default: 1)")
    parser.add_argument("--rows", default="", help="only those whose name begins like this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # one core, so that the seconds compare
    for line in table(arguments.steps, arguments.mixtures, arguments.seed, arguments.rows):
        print(line, flush=True)


def table(steps: int, mixtures: int, seed: int, beginning: str = "") -> Iterable[str]:
    """The table's lines, as they are known, of the rows whose name has this `beginning`."""
    sources = oracle.draw_sources(mixtures, seed)
    mixture = sources.sum(dim=1)
    exact = [oracle.posterior_sample(mixture, EXACT_SEED + i) for i in range(EXACT_DRAWS)]
    scores = torch.stack([si_sdr(draw, sources).mean(dim=0) for draw in exact])
    levels = torch.stack([level_ratio(draw) for draw in exact])
    best = scores.mean(dim=0)
    yield HEADER
    scatter = triple(scores.std(dim=0), ".2f"), triple(levels.std(dim=0), ".3f")
    yield (
        f"| exact posterior sample, mean of {EXACT_DRAWS} sets ± scatter of one "
        f"| {triple(best, '.2f')} | ± {scatter[0]} "
        f"| {triple(levels.mean(dim=0), '.3f')} ± {scatter[1]} | −∞ | | | |"
    )
    mean = oracle.posterior_mean(mixture)
    yield f"| posterior mean | {quality(mean, sources, best)} | | | |"
    every = settings(steps).items()
    rows = {name: SamplerConfig(**row) for name, row in every if name.startswith(beginning)}
    with tqdm(total=sum(map(evaluations, rows.values())), unit="call", mininterval=1) as bar:
        for name, config in rows.items():
            bar.set_description(name)
            drawn, cost = count(config, mixture, bar.update)
            yield f"| {name} | {quality(drawn, sources, best)} | {cost} |"


def quality(drawn: Tensor, sources: Tensor, best: Tensor) -> str:
    """Cells of what was drawn (B, 3, T): SI-SDR, the same minus `best` (3,), levels, residual."""
    score = si_sdr(drawn, sources).mean(dim=0)
    mixture = sources.sum(dim=1)
    missing = (mixture - drawn.sum(dim=1)).square().sum() / mixture.square().sum()
    # what adds up but for rounding has a residual of no interest
    residual = f"{10 * missing.log10():.1f}".replace("-", "−") if missing > 1e-20 else "−∞"
    return (
        f"{triple(score, '.2f')} | {triple(score - best, '+.2f')} "
        f"| {triple(level_ratio(drawn), '.3f')} | {residual}"
    )


def count(config: SamplerConfig, mixture: Tensor, tick: Callable[[], object]) -> tuple[Tensor, str]:
    """A draw of the sources (B, 3, T) and the cells of what it cost."""
    calls = {"forward": 0, "backward": 0}

    def denoise(u: Tensor, sigma: Tensor) -> Tensor:
        calls["forward"] += 1
        if u.requires_grad:
            u.register_hook(lambda _: calls.update(backward=calls["backward"] + 1))
        tick()
        return oracle.denoise(u, sigma)

    seeded = [torch.Generator().manual_seed(SAMPLER_SEED + b) for b in range(len(mixture))]
    begin = time.process_time()  # not the wall's: the machine may have other work
    drawn = sample(denoise, mixture, len(oracle.LEVELS), config, seeded)
    seconds = time.process_time() - begin
    return drawn, f"{calls['forward']} | {calls['backward']} | {seconds:.1f}"


def level_ratio(drawn: Tensor) -> Tensor:
    """RMS of every source of (B, 3, T) over its prior's, (3,)."""
    return drawn.square().mean(dim=(0, 2)).sqrt() / drawn.new_tensor(oracle.LEVELS)


def triple(values: Tensor, form: str) -> str:
    """One number per source."""
    return " / ".join(format(value, form) for value in values.tolist()).replace("-", "−")


if __name__ == "__main__":
    main()
