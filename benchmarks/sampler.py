"""Seconds per step of the sampler against a straightforward reference, same network, same machine,
one run.

    python -m benchmarks.sampler [--nf 16] [--speakers 1 2 3] [--guidance-weights 0 0.5]

The reference is what one writes first: one network call per source and guidance branch, default
memory layout, the estimate without gradients, and the likelihood's gradient by a second forward.
Both do the same arithmetic; the largest relative difference of their results is printed beside the
times. A row marked "detached" takes no gradient through the null branch (`guidance_detached`), in
both. GFLOP/s are of the passes that davss makes, counted by `davss.profiling`; the line below the
table says what the machine's convolutions reach at this size, measured in the same run.

Shapes: B batch · M sources · T samples · V video frames · D visual feature size.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from davss.config import NetworkConfig, SamplerConfig
from davss.diffusion.guidance import plan_branches
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.diffusion.schedule import sigma_schedule
from davss.posterior import sample
from davss.posterior.inputs import VIDEO_RATE
from davss.posterior.likelihood import reconstruction_loss
from davss.posterior.separator import Separator
from davss.profiling import PassFlops, conv_peak, count_evaluations, pass_flops, untrained_priors
from davss.profiling.counting import feature_maps

SAMPLE_RATE = 8000
HEADER = "| K | guidance | reference s/step | davss s/step | ratio | GFLOP/s | difference |"


def main(argv: Sequence[str] | None = None) -> None:
    """Time both samplers for every number of speakers and guidance weight asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nf", type=int, default=16, help="channels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="sampler steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="best of (default: %(default)s)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--guidance-weights", type=float, nargs="+", default=[0.0, 0.5])
    text = (
        "with and without gradient through the null branch, or one of both (default: %(default)s)"
    )
    gradients = ["both", "exact", "detached"]
    parser.add_argument("--null-branch", choices=gradients, default="both", help=text)
    arguments = parser.parse_args(argv)
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    num_samples = round(arguments.seconds * SAMPLE_RATE)
    passes = [pass_flops(prior, num_samples) for prior in make_priors(arguments.nf)]
    reached = []
    for num_speakers in arguments.speakers:
        for sampler in plan_samplers(arguments):
            row = compare(arguments, num_speakers, sampler, passes)
            print(row.text(), flush=True)
            reached.append(row.gflops)
    peak = measure_peak(arguments)
    print(
        f"\nBest 3×3 convolution of these feature maps: {peak:.1f} GFLOP/s; davss reaches "
        f"{min(reached) / peak:.0%} to {max(reached) / peak:.0%} of it at nf {arguments.nf}."
    )


def plan_samplers(arguments: argparse.Namespace) -> list[SamplerConfig]:
    """A sampler for each row of a number of speakers."""
    samplers = []
    for weight in arguments.guidance_weights:
        if arguments.null_branch != "detached" or weight == 0:  # 0 has no null branch
            samplers.append((weight, False))
        if arguments.null_branch != "exact" and weight != 0:
            samplers.append((weight, True))
    return [
        SamplerConfig(num_steps=arguments.steps, guidance_weight=weight, guidance_detached=detached)
        for weight, detached in samplers
    ]


@dataclass(frozen=True)
class Row:
    """One row of the table; seconds are per step."""

    num_speakers: int
    sampler: SamplerConfig
    reference_seconds: float
    davss_seconds: float
    gflops: float
    difference: float

    def text(self) -> str:
        """In Markdown."""
        detached = " detached" if self.sampler.guidance_detached else ""
        return (
            f"| {self.num_speakers} | {self.sampler.guidance_weight:g}{detached} "
            f"| {self.reference_seconds:.3f} | {self.davss_seconds:.3f} "
            f"| {self.reference_seconds / self.davss_seconds:.2f} | {self.gflops:.1f} "
            f"| {self.difference:.1e} |"
        )


def compare(
    arguments: argparse.Namespace,
    num_speakers: int,
    sampler: SamplerConfig,
    passes: Sequence[PassFlops],
) -> Row:
    """Time both samplers on one mixture; `passes` are those of the speech and the noise prior."""
    num_samples = round(arguments.seconds * SAMPLE_RATE)
    plain = make_priors(arguments.nf)
    separator = Separator(*make_priors(arguments.nf), sampler, device="cpu")
    torch.manual_seed(0)
    mixture = 0.05 * (num_speakers + 1) ** 0.5 * torch.randn(1, num_samples)
    frames, lips_dim = round(arguments.seconds * VIDEO_RATE), plain[0].visual_encoder.dim
    lips = torch.randn(1, num_speakers, frames, lips_dim)

    def ours() -> Tensor:
        seeded = [torch.Generator().manual_seed(0)]
        denoise = separator.denoiser(mixture, lips, num_speakers, seeded)
        return sample(denoise, mixture, num_speakers + 1, sampler, seeded)

    def theirs() -> Tensor:
        return straightforward(*plain, mixture, lips, sampler)

    a, b = theirs(), ours()  # before the times: a first call is slower
    difference = ((a - b).abs().max() / a.abs().max()).item()
    # alternately, so that a change of the machine's speed meets both
    times = [(timed(theirs), timed(ours)) for _ in range(arguments.repeats)]
    reference, davss = (min(column) / arguments.steps for column in zip(*times, strict=True))
    flops = count_evaluations(separator, num_speakers).flops(*passes)
    gflops = flops / (davss * arguments.steps) / 1e9
    return Row(num_speakers, sampler, reference, davss, gflops, difference)


def measure_peak(arguments: argparse.Namespace) -> float:
    """GFLOP/s of the best 3×3 convolution of the network's own feature maps, in a batch as large
    as the largest of the table.
    """
    maps = feature_maps(make_priors(arguments.nf)[0], round(arguments.seconds * SAMPLE_RATE))
    speakers = max(arguments.speakers)
    branches = [plan_branches(speakers, speakers, s) for s in plan_samplers(arguments)]
    return conv_peak(*maps, "cpu", batch_size=max(b.lips + b.null for b in branches))


def timed(function: Callable[[], Tensor]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


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
        if w == 0:
            return with_lips
        with torch.set_grad_enabled(torch.is_grad_enabled() and not config.guidance_detached):
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
