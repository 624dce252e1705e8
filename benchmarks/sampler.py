"""Seconds per step of the sampler against a straightforward reference, same machine, one run.

    python -m benchmarks.sampler [--nf 16] [--speakers 1 2 3] [--guidance-weights 0 0.5]

The reference is what one writes first: one mixture after the other, one network call per source and
guidance branch, default memory layout, layers as they are drawn (up-sampling, then convolution;
torch's own group normalisation), the estimate without gradients, and the likelihood's gradient by
a second forward. davss does the same arithmetic; the largest relative difference of the results
is printed beside the times. The last columns are of the sampler of the preset `fast`, whose steps
are other steps, without gradients. Reference and davss have processes of their own and take turns.

Shapes: B batch · M sources · T samples · V video frames · D visual feature size.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.drawn import as_drawn
from davss.config import PRESETS, DpsConfig, NetworkConfig, SamplerConfig, changed
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.diffusion.schedule import sigma_schedule
from davss.media import FPS
from davss.posterior import sample
from davss.posterior.likelihood import reconstruction_loss
from davss.posterior.separator import Separator
from davss.profiling import untrained_priors

SAMPLE_RATE = 8000
HEADER = "| K | guidance | reference s/step | davss | ratio | with daps | ratio | difference |"


@dataclass(frozen=True)
class Task:
    """One mixture, its sampler, and the size of the networks."""

    nf: int
    seconds: float
    num_speakers: int
    sampler: SamplerConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Time both samplers for every number of speakers and guidance weight asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nf", type=int, default=16, help="channels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="sampler steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="best of (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--speakers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--guidance-weights", type=float, nargs="+", default=[0.0, 0.5])
    arguments = parser.parse_args(argv)
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    context, threads = multiprocessing.get_context("spawn"), (arguments.threads,)
    with (
        context.Pool(1, torch.set_num_threads, threads) as plain,
        context.Pool(1, torch.set_num_threads, threads) as davss,
    ):
        for num_speakers in arguments.speakers:
            for weight in arguments.guidance_weights:
                sampler = DpsConfig(num_steps=arguments.steps, guidance_weight=weight)
                task = Task(arguments.nf, arguments.seconds, num_speakers, sampler)
                # in turn, so that a change of the machine's speed meets all; a first call is slower
                rounds = [
                    (
                        plain.apply(run_reference, (task,)),
                        davss.apply(run_davss, (task,)),
                        davss.apply(run_davss, (without_gradient(task),)),
                    )
                    for _ in range(arguments.repeats + 1)
                ]
                (_, a), (_, b), _ = rounds[0]
                best = [min(r[i][0] for r in rounds[1:]) / arguments.steps for i in range(3)]
                times = " | ".join(f"{s:.3f} | {best[0] / s:.2f}" for s in best[1:])
                row = f"| {num_speakers} | {weight:g} | {best[0]:.3f} | {times}"
                print(f"{row} | {(a - b).abs().max() / a.abs().max():.1e} |", flush=True)


def without_gradient(task: Task) -> Task:
    """The same mixture with as many steps of `fast`."""
    steps, weight = task.sampler.num_steps, task.sampler.guidance_weight
    fast = changed(PRESETS["fast"], num_steps=steps, num_samples=1, guidance_weight=weight)
    return replace(task, sampler=fast)


def make_mixture(task: Task) -> tuple[Tensor, Tensor]:
    """Noise in place of a mixture (1, T), and of lips (1, K, V, D)."""
    num_speakers, prior = task.num_speakers, make_priors(task.nf)[0]
    torch.manual_seed(0)
    mixture = torch.randn(1, round(task.seconds * SAMPLE_RATE))
    frames = round(task.seconds * FPS)
    lips = torch.randn(1, num_speakers, frames, prior.visual_encoder.dim)
    return 0.05 * (num_speakers + 1) ** 0.5 * mixture, lips


def run_davss(task: Task) -> tuple[float, Tensor]:
    """Seconds and sources of davss."""
    mixture, lips = make_mixture(task)
    separator = Separator(*make_priors(task.nf), task.sampler, device="cpu")

    def work() -> Tensor:
        seeded = [torch.Generator().manual_seed(0)]
        denoise = next(separator.denoisers(mixture, lips, task.num_speakers, seeded))
        return sample(denoise, mixture, task.num_speakers + 1, task.sampler, seeded)

    return timed(work)


def run_reference(task: Task) -> tuple[float, Tensor]:
    """Seconds and sources of the reference."""
    mixture, lips = make_mixture(task)
    speech, noise = make_priors(task.nf)
    as_drawn(speech)
    as_drawn(noise)
    return timed(lambda: straightforward(speech, noise, mixture, lips, task.sampler))


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of one call, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def make_priors(nf: int) -> tuple[SpeechPrior, NoisePrior]:
    """Untrained priors with weights that do something."""
    torch.manual_seed(1)
    network = NetworkConfig(nf=nf, n_fft=254, hop_length=128)
    priors = untrained_priors(network, SAMPLE_RATE)
    for prior in priors:
        for parameter in prior.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.03)
        prior.eval().requires_grad_(False)
    return priors


def straightforward(
    speech: SpeechPrior, noise: NoisePrior, mixture: Tensor, lips: Tensor, config: DpsConfig
) -> Tensor:
    """Algorithm 1 for one mixture (1, T) as one writes it first; sources (1, M, T)."""
    num_sources, length = lips.shape[1] + 1, mixture.shape[-1]
    w = config.guidance_weight
    generator = torch.Generator().manual_seed(0)

    def denoise(u: Tensor, j: int, sigma: Tensor) -> Tensor:
        if j == num_sources - 1:
            return noise(u[None], sigma)[0]
        with_lips = speech(u[None], sigma, lips[:, j])[0]
        if w == 0:
            return with_lips
        without = speech(u[None], sigma)[0]
        return (1 + w) * with_lips - w * without

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
        total = torch.stack([denoise(moving[j], j, level) for j in range(num_sources)]).sum(dim=0)
        loss = reconstruction_loss(mixture, total[None], config.compression)
        (gradient,) = torch.autograd.grad(loss.sum(), moving)
        pull = config.zeta * length**0.5 * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-8)
        u = u + (sigma_next - sigma) * ((u - denoised) / sigma + pull)
    return denoised[None]


if __name__ == "__main__":
    main()
