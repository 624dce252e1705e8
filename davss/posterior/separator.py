"""The separator: a mixture and lips in, each person's voice and the noise out.

It brings a recording to the priors' rate and level, builds the denoiser of all sources from a
speech and a noise prior, samples the posterior, and undoes the scaling.

Shapes: B batch · K speakers · L speakers with lips · M = K + 1 sources · T samples ·
V video frames · D visual feature size · N steps.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio.functional
from torch import Tensor

from davss.config import SamplerConfig
from davss.diffusion.guidance import guided_denoise
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.errors import DavssError
from davss.posterior.dps import Denoise, Step, sample

VIDEO_RATE = 25
SILENCE_RMS = 1e-6


@dataclass(frozen=True)
class Separation:
    """What a separator returns; a diverged item is silent and `errors` says why."""

    speech: Tensor  # (B, K, T)
    noise: Tensor  # (B, T)
    trace: dict[str, Tensor]  # sigma (N,), likelihood (N, B), {prior,likelihood}_step (N, B, M)
    errors: list[str | None]  # per item
    num_evaluations: int  # calls of each prior's network


class Separator:
    """Separates mixtures with a speech prior and a noise prior (Algorithm 1 of DAVSS-NM).

    device: where to compute, by default the GPU if there is one. Raises DavssError if the priors
    do not fit each other.
    """

    def __init__(
        self,
        speech_prior: SpeechPrior,
        noise_prior: NoisePrior,
        sampler: SamplerConfig | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if speech_prior.sample_rate != noise_prior.sample_rate:
            raise DavssError(
                f"priors: the speech prior works at {speech_prior.sample_rate} Hz, the noise prior "
                f"at {noise_prior.sample_rate} Hz; give two priors of one rate"
            )
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or default)
        # channels-last convolutions are about a quarter faster, see benchmarks/
        for prior in (speech_prior, noise_prior):
            prior.to(self.device).to(memory_format=torch.channels_last)
            prior.eval().requires_grad_(False)
        self.speech_prior, self.noise_prior = speech_prior, noise_prior
        self.sampler = sampler or SamplerConfig()
        self.sample_rate = speech_prior.sample_rate

    def __call__(
        self,
        mixture: Tensor,
        lips: Tensor | None = None,
        num_speakers: int | None = None,
        sample_rate: int = 16000,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        callback=None,
    ) -> Separation:
        """Separate mixtures (B, T) sampled at `sample_rate`; the output has the same rate and
        length.

        lips: (B, L, V, D) features of the speakers in view, 25 frames per second, or None;
        num_speakers: speakers in all, default L or 1, those beyond L are off-screen (null
        condition); keys: one name per item, which with `seed` fixes the item's random numbers, by
        default its index; callback: called with every `davss.posterior.Step`.
        Raises DavssError for non-finite or silent mixtures and for lips that do not cover the
        mixture.
        """
        mixture = torch.as_tensor(mixture, dtype=torch.float32)
        keys = [str(k) for k in (keys if keys is not None else range(len(mixture)))]
        check_mixture(mixture, keys)
        signal = torchaudio.functional.resample(mixture, sample_rate, self.sample_rate)
        signal = signal.to(self.device)
        if lips is not None:
            lips = torch.as_tensor(lips, dtype=torch.float32, device=self.device)
            check_lips(lips, len(mixture), signal.shape[-1] / self.sample_rate)
        num_speakers = count_speakers(lips, num_speakers)

        num_sources = num_speakers + 1
        spread = torch.stack([item.std() for item in signal])[:, None]
        scale = self.speech_prior.sigma_data * num_sources**0.5 / spread
        trace = Trace(self.sampler.num_steps, callback)
        sources = sample(
            self.denoiser(lips, num_speakers),
            scale * signal,
            num_sources,
            self.sampler,
            [generator(seed, key) for key in keys],
            trace,
        )
        sources = (sources / scale[:, None]).cpu()
        errors = [trace.explain(b, key) for b, key in enumerate(keys)]
        for b, error in enumerate(errors):
            if error:
                sources[b] = 0
        sources = torchaudio.functional.resample(sources, self.sample_rate, sample_rate)
        sources = match_length(sources, mixture.shape[-1])
        return Separation(
            sources[:, :-1], sources[:, -1], trace.tensors(), errors, self.num_evaluations
        )

    @property
    def num_evaluations(self) -> int:
        """Calls of each prior's network that one separation takes."""
        corrections = self.sampler.num_steps - 1 if self.sampler.order == 2 else 0
        return self.num_draw_steps + self.sampler.num_samples * corrections

    @property
    def num_draw_steps(self) -> int:
        """Steps of all draws of one separation: how often the callback is called."""
        return self.sampler.num_samples * self.sampler.num_steps

    def denoiser(self, lips: Tensor | None, num_speakers: int) -> Denoise:
        """The denoiser of all sources, (u (B, M, T), sigma (B,)) → (B, M, T): one call of each
        prior.
        """
        weight, form = self.sampler.guidance_weight, self.sampler.guidance_form

        def denoise(u: Tensor, sigma: Tensor) -> Tensor:
            noise = self.noise_prior(u[:, -1], sigma)[:, None]
            if num_speakers == 0:
                return noise
            speech = guided_denoise(self.speech_prior, u[:, :-1], sigma, lips, weight, form)
            return torch.cat([speech, noise], dim=1)

        return denoise


class Trace:
    """Records the steps of the first draw, and which items stopped being finite."""

    def __init__(self, num_steps: int, callback=None) -> None:
        self.num_steps, self.callback = num_steps, callback
        self.steps: list[tuple[float, Tensor, Tensor, Tensor]] = []
        self.diverged: dict[int, tuple[int, float]] = {}

    def __call__(self, step: Step) -> None:
        if len(self.steps) < self.num_steps:
            likelihood, move, pull = step.likelihood, step.prior_step, step.likelihood_step
            self.steps.append((step.sigma, likelihood.cpu(), move.cpu(), pull.cpu()))
        finite = torch.isfinite(step.denoised).flatten(1).all(dim=1).tolist()
        for item in (b for b, good in enumerate(finite) if not good):
            self.diverged.setdefault(item, (step.step, step.sigma))
        if self.callback:
            self.callback(step)

    def explain(self, item: int, key: str) -> str | None:
        """Why an item has no estimate, or None."""
        if item not in self.diverged:
            return None
        step, sigma = self.diverged[item]
        return (
            f"{key}: the sampler diverged at step {step} of {self.num_steps} (sigma {sigma:.2g}); "
            f"lower sampler.zeta or raise sampler.num_steps"
        )

    def tensors(self) -> dict[str, Tensor]:
        """sigma (N,), likelihood (N, B), prior_step and likelihood_step (N, B, M)."""
        sigma, likelihood, prior_step, likelihood_step = zip(*self.steps, strict=True)
        return {
            "sigma": torch.tensor(sigma),
            "likelihood": torch.stack(likelihood),
            "prior_step": torch.stack(prior_step),
            "likelihood_step": torch.stack(likelihood_step),
        }


def generator(seed: int, key: str) -> torch.Generator:
    """The random generator of one item: it depends on (seed, key) and on nothing else."""
    value = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(value % 2**63)


def check_mixture(mixture: Tensor, keys: Sequence[str]) -> None:
    """Raise DavssError naming the first item that is misshapen, non-finite or silent."""
    if mixture.ndim != 2 or len(keys) != len(mixture):
        raise DavssError(
            f"mixture: shape {tuple(mixture.shape)} with {len(keys)} keys; give (B, T) and B keys"
        )
    for item, key in zip(mixture, keys, strict=True):
        if not torch.isfinite(item).all():
            raise DavssError(f"{key}: the mixture has NaN or infinite samples; repair it")
        if item.std() < SILENCE_RMS:
            raise DavssError(f"{key}: the mixture is silent; there is nothing to separate")


def check_lips(lips: Tensor, batch: int, seconds: float) -> None:
    """Raise DavssError unless lips are (B, L, V, D) and last as long as the mixture, to a frame."""
    if lips.ndim != 4 or len(lips) != batch:
        raise DavssError(f"lips: shape {tuple(lips.shape)}; give (B, L, V, D) with B = {batch}")
    if not torch.isfinite(lips).all():
        raise DavssError("lips: NaN or infinite features; compute them again")
    if abs(lips.shape[2] - seconds * VIDEO_RATE) > 1:
        raise DavssError(
            f"lips: {lips.shape[2]} frames are {lips.shape[2] / VIDEO_RATE:.2f} s, the mixture "
            f"lasts {seconds:.2f} s; cut both to the same stretch"
        )


def count_speakers(lips: Tensor | None, num_speakers: int | None) -> int:
    """Speakers in all: those with lips and those off-screen."""
    seen = lips.shape[1] if lips is not None else 0
    if num_speakers is None:
        return seen or 1
    if num_speakers < seen:
        raise DavssError(f"num_speakers = {num_speakers}, but lips of {seen} speakers were given")
    return num_speakers


def match_length(signal: Tensor, length: int) -> Tensor:
    """Cut or zero-pad the last dimension to `length` (resampling there and back may differ by a
    sample).
    """
    return torch.nn.functional.pad(signal, (0, length - signal.shape[-1]))
