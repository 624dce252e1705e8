"""Seconds per step of the sampler against a straightforward reference, same network, same machine,
one run.

    python -m benchmarks.sampler [--nf 16] [--speakers 1 2 3] [--guidance-weights 0 0.5]

The reference is what one writes first: one network call per source and guidance branch, default
memory layout, the estimate without gradients, and the likelihood's gradient by a second forward.
Both do the same arithmetic; the largest relative difference of their results is printed beside the
times.

Shapes: M sources · T samples · V video frames · D visual feature size.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from davss.config import DiffusionConfig, NetworkConfig, SamplerConfig
from davss.diffusion.prior import NoisePrior, PriorInfo, SpeechPrior
from davss.diffusion.schedule import sigma_schedule
from davss.networks.eigenlips import Eigenlips
from davss.posterior import sample
from davss.posterior.likelihood import reconstruction_loss
from davss.posterior.separator import Separator

LIPS_DIM = 48


def main() -> None:
    """Time both samplers for every number of speakers and guidance weight asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nf", type=int, default=16, help="channels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="sampler steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="best of (default: %(default)s)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--guidance-weights", type=float, nargs="+", default=[0.0, 0.5])
    arguments = parser.parse_args()
    print("| K | guidance | reference s/step | davss s/step | ratio | difference |")
    print("|---|---|---|---|---|---|")
    for num_speakers in arguments.speakers:
        for weight in arguments.guidance_weights:
            print(compare(arguments, num_speakers, weight), flush=True)


def compare(arguments: argparse.Namespace, num_speakers: int, weight: float) -> str:
    """One row of the table."""
    sampler = SamplerConfig(num_steps=arguments.steps, guidance_weight=weight)
    num_samples = round(arguments.seconds * 8000)
    torch.manual_seed(0)
    mixture = 0.05 * (num_speakers + 1) ** 0.5 * torch.randn(1, num_samples)
    lips = torch.randn(1, num_speakers, round(arguments.seconds * 25), LIPS_DIM)
    plain = make_priors(arguments.nf)
    separator = Separator(*make_priors(arguments.nf), sampler, device="cpu")
    denoise = separator.denoiser(lips, num_speakers)

    def ours() -> Tensor:
        seeded = [torch.Generator().manual_seed(0)]
        return sample(denoise, mixture, num_speakers + 1, sampler, seeded)

    def theirs() -> Tensor:
        return straightforward(*plain, mixture, lips, sampler)

    # alternately, so that a change of the machine's speed meets both
    times = [(timed(theirs), timed(ours)) for _ in range(arguments.repeats)]
    reference, davss = (min(column) / arguments.steps for column in zip(*times, strict=True))
    a, b = theirs(), ours()
    difference = ((a - b).abs().max() / a.abs().max()).item()
    return (
        f"| {num_speakers} | {weight:g} | {reference:.3f} | {davss:.3f} "
        f"| {reference / davss:.2f} | {difference:.1e} |"
    )


def timed(function: Callable[[], Tensor]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def make_priors(nf: int) -> tuple[SpeechPrior, NoisePrior]:
    """Untrained priors at 8 kHz with weights that do something."""
    torch.manual_seed(1)
    network = NetworkConfig(nf=nf, n_fft=254, hop_length=128)
    info = PriorInfo(8000, network, DiffusionConfig())
    basis = np.eye(1024, LIPS_DIM // 2, dtype=np.float32)
    speech = SpeechPrior(info, Eigenlips(basis, np.ones(LIPS_DIM, np.float32)))
    noise = NoisePrior(info)
    for prior in (speech, noise):
        for parameter in prior.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.03)
        prior.eval().requires_grad_(False)
    return speech, noise


def straightforward(
    speech: SpeechPrior, noise: NoisePrior, mixture: Tensor, lips: Tensor, config: SamplerConfig
) -> Tensor:
    """Algorithm 1 for one mixture (1, T) as one writes it first; sources (1, M, T)."""
    num_sources, length = lips.shape[1] + 1, mixture.shape[-1]
    w = config.guidance_weight
    generator = torch.Generator().manual_seed(0)

    def denoise(u: Tensor, j: int, sigma: Tensor) -> Tensor:
        if j == num_sources - 1:
            return noise(u[None], sigma)[0]
        with_lips = speech(u[None], sigma, lips[:, j])[0]
        return (1 + w) * with_lips - w * speech(u[None], sigma)[0] if w else with_lips

    grid = sigma_schedule(config.num_steps, config.sigma_min, config.sigma_max, config.rho)
    sigmas = [*grid.tolist(), 0.0]
    u = sigmas[0] * torch.randn(num_sources, length, generator=generator)
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        level = torch.tensor([sigma])
        with torch.no_grad():
            denoised = torch.stack([denoise(u[j], j, level) for j in range(num_sources)])
        if sigma_next == 0:
            break
        moving = u.clone().requires_grad_(True)
        total = sum(denoise(moving[j], j, level) for j in range(num_sources))
        loss = reconstruction_loss(mixture, total[None], config.compression)
        (gradient,) = torch.autograd.grad(loss.sum(), moving)
        pull = config.zeta * length**0.5 * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-8)
        u = u + (sigma_next - sigma) * ((u - denoised) / sigma + pull)
    return denoised[None]


if __name__ == "__main__":
    main()
