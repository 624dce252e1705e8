"""The separator: a mixture and lips in, each person's voice and the noise out.

It brings a recording to the priors' rate and level, cuts it into windows if it is long, builds the
denoiser of all sources from a speech prior and a noise model, samples the posterior, and undoes
the scaling.

Shapes: B batch · K speakers · L speakers with lips · M = K + 1 sources (K without a noise model) ·
T samples · P windows sampled together · W samples of a window · V video frames · D visual feature
size.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor

from davss.config import PRESETS, NoiseModel, SamplerConfig, SeparationConfig
from davss.diffusion.guidance import GuidedSpeech
from davss.diffusion.prior import COLOURED, NoisePrior, SpeechPrior, load_prior
from davss.errors import DavssError
from davss.media import FPS
from davss.media.resampling import resample
from davss.networks.cpu import keep_freed_memory
from davss.networks.precision import resolve
from davss.posterior.inputs import check_lips, check_mixture, count_speakers
from davss.posterior.kept import Kept
from davss.posterior.mean_field import expected_power
from davss.posterior.noise_models import GaussianNoise, NmfNoise
from davss.posterior.recordings import Excerpt, Outcome, Recordings, Separation, at_rate
from davss.posterior.sampling import evaluations, generator, gentler, sample
from davss.posterior.spread import spread
from davss.posterior.steps import SIGMA_DATA, Callback, Denoise
from davss.posterior.trace import Trace, replace_items
from davss.posterior.windows import Windows, conditioned, plan_windows, waves
from davss.small import DEFAULT_NOISE, NOISE, SPEECH, folder_of

Prior = TypeVar("Prior", SpeechPrior, NoisePrior)


class Separator:
    """Separates mixtures with a speech prior and a noise prior (Algorithm 1 of DAVSS-NM).

    noise_prior: a prior, or "nmf", "gaussian" or "none", which need none (docs/method.md §6);
    device: where to compute, by default the GPU if there is one; execution: how, which changes
    results by rounding only. The separator has its own copies of the priors.
    Raises DavssError if the priors do not fit each other.
    """

    def __init__(
        self,
        speech_prior: SpeechPrior,
        noise_prior: NoisePrior | NoiseModel,
        sampler: SamplerConfig | None = None,
        device: str | torch.device | None = None,
        execution: SeparationConfig | None = None,
    ) -> None:
        priors = [prior for prior in (speech_prior, noise_prior) if not isinstance(prior, str)]
        rates = [prior.sample_rate for prior in priors]
        if len(set(rates)) > 1:
            raise DavssError(
                f"priors: the speech prior works at {rates[0]} Hz, the noise prior at {rates[1]} "
                f"Hz; give two priors of one rate"
            )
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or default)
        self.execution = execution or SeparationConfig()
        if self.device.type == "cpu":
            keep_freed_memory()
        self.dtype = resolve(self.execution.precision, self.device)
        self.speech_prior = self._own(speech_prior)
        self.noise_prior = noise_prior if isinstance(noise_prior, str) else self._own(noise_prior)
        self.sampler = sampler or SamplerConfig()
        if self.sampler.name == "udiffse" and noise_prior != "none":
            raise DavssError(
                "sampler udiffse: it models the noise itself; give the noise model none"
            )
        if self.sampler.name == "mean_field":
            self._check_coloured()
        self.sample_rate = speech_prior.sample_rate

    def _check_coloured(self) -> None:
        """Whether the mean field can be computed with what there is."""
        if self.noise_prior == "none":
            raise DavssError("sampler mean_field: it needs a noise model; give another than none")
        for prior in (self.speech_prior, self.noise_prior):
            if not isinstance(prior, str) and not prior.info.training.get(COLOURED):
                raise DavssError(
                    f"sampler mean_field: the {prior.kind} prior was trained for white noise "
                    "alone; choose another sampler, such as daps"
                )

    def _own(self, prior: Prior) -> Prior:
        """A copy of a prior, made ready to compute."""
        prior = copy.deepcopy(prior).eval().requires_grad_(False)
        prior.precision = self.dtype
        prior.network.checkpointing = self.execution.checkpointing
        if self.execution.compile:
            prior.network.compile_unet()
        # channels-last convolutions are faster, see docs/benchmarks.md
        return prior.to(self.device).to(memory_format=torch.channels_last)

    @classmethod
    def small(
        cls,
        device: str | torch.device | None = None,
        sampler: SamplerConfig | None = None,
        noise: str = DEFAULT_NOISE,
    ) -> "Separator":
        """A separator of the packaged priors, by default with the preset `fast`; noise: the name
        of a packaged noise prior or of a model without training. Raises DavssError for others.
        """
        model: NoisePrior | NoiseModel
        if noise in get_args(NoiseModel):
            model = cast(NoiseModel, noise)
        elif isinstance(prior := load_prior(folder_of(noise)), NoisePrior):
            model = prior
        else:
            raise DavssError(f"noise = {noise!r}: this is a speech prior; give {NOISE}")
        speech = load_prior(folder_of(SPEECH))
        assert isinstance(speech, SpeechPrior)
        return cls(speech, model, sampler or PRESETS["fast"], device)

    def __call__(
        self,
        mixture: Tensor,
        lips: Tensor | None = None,
        num_speakers: int | None = None,
        sample_rate: int = 16000,
        keys: Sequence[str] | None = None,
        seed: int = 0,
        callback: Callback | None = None,
        kept: Kept | None = None,
    ) -> Separation:
        """Separate mixtures (B, T) sampled at `sample_rate`; the output has the same rate, length
        and device, whatever the level and the offset of the input.

        lips: (B, L, V, D) features of the speakers in view, 25 frames per second, NaN in frames
        that do not show them, or None;
        num_speakers: speakers in all, default L or 1, those beyond L are off-screen (null
        condition); keys: one name per item, which with `seed` fixes the item's random numbers, by
        default its index; callback: called with every `davss.posterior.Step`; kept: where the
        windows of a long recording are kept, so that the same separation goes on there another
        time.
        Raises DavssError for non-finite or silent mixtures and for lips that do not cover the
        mixture.
        """
        given = mixture if isinstance(mixture, Tensor) else torch.as_tensor(mixture)
        mixture = given.to("cpu", torch.float32)  # where recordings are cut and put together
        keys = [str(k) for k in (keys if keys is not None else range(len(mixture)))]
        offset = check_mixture(mixture, keys, sample_rate)
        signal = resample(mixture - offset, sample_rate, self.sample_rate)
        if lips is not None:
            lips = torch.as_tensor(lips, dtype=torch.float32, device="cpu")
            check_lips(lips, len(mixture), signal.shape[-1] / self.sample_rate)
        num_speakers = count_speakers(lips, num_speakers)
        if num_speakers == 0 and self.noise_prior == "none":
            raise DavssError("num_speakers = 0 with noise model none: nothing is left to find")
        work = self._recordings(signal, lips, keys, num_speakers)
        seen = lips.shape[1] if lips is not None else 0
        if len(work.windows) == 1:
            kept = None
        if kept:
            settings = self.sampler, self.execution.precision, self.dtype, self.sample_rate
            kept.decided_by(self.speech_prior, self.noise_prior, settings)
        for wave in waves(len(work.windows), in_order=num_speakers - seen > 1):
            for excerpts in work.batches(wave, self.execution.batch_size):
                outcome = self._separate(excerpts, work, num_speakers, seed, callback, kept)
                work.add(excerpts, outcome)
        found = self._finish(work, signal, mixture.shape[-1], sample_rate, offset)
        return found.to(given.device)

    def _recordings(
        self, signal: Tensor, lips: Tensor | None, keys: Sequence[str], num_speakers: int
    ) -> Recordings:
        windows = self.plan(signal.shape[-1])
        num_sources = num_speakers + (self.noise_prior != "none")
        grid = round(self.sample_rate / FPS)
        return Recordings(signal, lips, keys, windows, num_sources, self.sample_rate, grid)

    def _finish(
        self, work: Recordings, signal: Tensor, length: int, sample_rate: int, offset: Tensor
    ) -> Separation:
        """Everything at the rate and length of the input."""
        sources = work.sources()
        if self.noise_prior == "none":  # noise is what the speech does not explain
            sources = torch.cat([sources, (signal - sources.sum(dim=1))[:, None]], dim=1)
        sources = at_rate(sources, self.sample_rate, sample_rate, length)
        sources[:, -1] += offset
        errors = work.errors()
        for b, error in enumerate(errors):
            if error:
                sources[b] = 0
        return Separation(
            speech=sources[:, :-1],
            noise=sources[:, -1],
            trace=work.trace(),
            errors=errors,
            warnings=work.warnings(),
            num_evaluations=self.num_evaluations,
            spread=work.spread(),
        )

    def plan(self, num_samples: int) -> Windows:
        """Windows for recordings of `num_samples` at the priors' rate."""
        rate, sampler = self.sample_rate, self.sampler
        longest = round(sampler.window_seconds * rate)
        overlap = round(sampler.overlap_seconds * rate)
        return plan_windows(num_samples, round(rate / FPS), longest, overlap)

    @property
    def num_evaluations(self) -> int:
        """Calls of each prior's network that one window takes."""
        return evaluations(self.sampler)

    @property
    def num_draw_steps(self) -> int:
        """Steps of all draws of one window: how often the callback is called for it."""
        return self.sampler.num_samples * self.sampler.num_steps

    def _separate(
        self,
        excerpts: Sequence[Excerpt],
        work: Recordings,
        num_speakers: int,
        seed: int,
        callback: Callback | None,
        kept: Kept | None = None,
    ) -> Outcome:
        """Sample windows together; those that diverge are sampled once more with half of zeta."""
        known, settled = work.known(excerpts)
        place = kept.path(excerpts, known, settled, num_speakers, seed) if kept else None
        if kept and place and (found := kept.load(place)):
            return found

        def attempt(chosen: list[int], sampler: SamplerConfig, seed: int) -> tuple[Tensor, Trace]:
            some = [excerpts[index] for index in chosen]
            return self._draw(
                some, known[chosen], settled[chosen], num_speakers, seed, sampler, callback
            )

        drawn, trace = attempt(list(range(len(excerpts))), self.sampler, seed)
        retried, steps = sorted(trace.diverged()), trace.tensors()
        failed: dict[int, str] = {}
        if retried:
            drawn[:, retried], second = attempt(retried, gentler(self.sampler), seed + 1)
            name = self.sampler.name
            failed = {retried[i]: second.explain(at, name) for i, at in second.diverged().items()}
            replace_items(steps, retried, second.tensors())
        outcome = Outcome(
            sources=drawn.mean(dim=0),
            trace=steps,
            retried=set(retried),
            failed=failed,
            spread=spread(drawn, self.sample_rate) if len(drawn) > 1 else None,
        )
        if kept and place:
            kept.save(place, outcome)
        return outcome

    def _draw(
        self,
        excerpts: Sequence[Excerpt],
        known: Tensor,
        settled: Tensor,
        num_speakers: int,
        seed: int,
        sampler: SamplerConfig,
        callback: Callback | None,
    ) -> tuple[Tensor, Trace]:
        """All draws of windows that are sampled together, (S, P, M, W), and how they went."""
        num_sources = known.shape[1]
        mixture = torch.stack([excerpt.mixture for excerpt in excerpts]).to(self.device)
        lips = [excerpt.lips for excerpt in excerpts if excerpt.lips is not None]
        seen = torch.stack(lips).to(self.device) if lips else None
        levels = torch.tensor([excerpt.level for excerpt in excerpts], device=self.device)[:, None]
        scale = sampler.level * SIGMA_DATA * num_sources**0.5 / levels
        mixture = scale * mixture
        trace = Trace(sampler.num_steps, mixture.abs().amax(dim=1), callback)
        known, settled = scale[:, None] * known.to(self.device), settled.to(self.device)
        generators = [generator(seed, excerpt.key) for excerpt in excerpts]
        one = replace(sampler, num_samples=1)
        denoisers = self.denoisers(mixture, seen, num_speakers, generators)
        draws = []
        for denoise in islice(denoisers, sampler.num_samples):
            denoise = conditioned(denoise, known, settled)
            draws.append(sample(denoise, mixture, num_sources, one, generators, trace))
        return (torch.stack(draws) / scale[:, None]).cpu(), trace

    def denoisers(
        self,
        mixture: Tensor,
        lips: Tensor | None,
        num_speakers: int,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Denoise]:
        """Denoisers of all sources of mixtures (B, T) at the samplers' level, (u (B, M, T), sigma
        (B,)) → (B, M, T), one call of each prior. A noise model remembers, so there is one for
        every draw; what the networks make of the lips they share.
        """
        shape = len(mixture), num_speakers, mixture.shape[-1]
        if num_speakers:
            guided = GuidedSpeech(self.speech_prior, lips, shape, self.sampler)
            speech = at_samplers_level(guided, self.speech_prior.sigma_data)
        while True:
            noise_model = self._noise_model(mixture, generators)

            def denoise(u: Tensor, sigma: Tensor, noise_model: Any = noise_model) -> Tensor:
                voices = speech(u[:, :num_speakers], sigma) if num_speakers else u[:, :0]
                if noise_model is None:
                    return voices
                residual = mixture - voices.detach().sum(dim=1)
                heard_in = sigma if sigma.ndim == 1 else expected_power(voices.sum(dim=1))
                noise = noise_model(u[:, -1], heard_in, residual)
                return torch.cat([voices, noise[:, None]], dim=1)

            yield denoise

    def _noise_model(self, mixture: Tensor, generators: Sequence[torch.Generator]):
        """(u (B, T), sigma (B,), residual of the speech (B, T)) → denoised (B, T), or None."""
        if self.noise_prior == "none":
            return None
        if self.noise_prior == "nmf":
            return NmfNoise(mixture, self.sample_rate, generators)
        if self.noise_prior == "gaussian":
            return GaussianNoise(mixture, self.sample_rate, generators)
        sigma_data = self.noise_prior.sigma_data
        prior = self.noise_prior.of_recording(sigma_data / SIGMA_DATA * mixture)
        denoise = at_samplers_level(prior, sigma_data)
        return lambda u, sigma, residual: denoise(u, sigma)


def at_samplers_level(denoise: Denoise, sigma_data: float) -> Denoise:
    """A denoiser of signals of RMS `sigma_data` as one of signals of the RMS that samplers know."""
    ratio = sigma_data / SIGMA_DATA
    if ratio == 1:
        return denoise

    def scaled(u: Tensor, sigma: Tensor) -> Tensor:
        power = 1 if sigma.ndim == 1 else 2  # levels, or variances
        return denoise(ratio * u, ratio**power * sigma) / ratio

    return scaled
