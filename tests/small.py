"""A temporary folder of packaged priors, made from tiny untrained ones."""

from davss import small
from davss.diffusion.prior import save_prior
from tests.priors import make_noise_prior, make_speech_prior


def package_priors(folder):
    """Save all packaged priors into `folder`, in half precision."""
    save_prior(make_speech_prior(), folder / small.SPEECH, half=True)
    for name in (small.NOISE, small.NOISE_DNS):
        save_prior(make_noise_prior(), folder / name, half=True)
    return folder
