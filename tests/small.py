"""A temporary folder of packaged priors, made from tiny untrained ones."""

from davss import small
from davss.diffusion.prior import save_prior
from tests.priors import COLOURED_16, INFO, make_noise_prior, make_speech_prior


def package_priors(folder):
    """Save all packaged priors into `folder`, in half precision."""
    for name in small.NAMES:
        info = COLOURED_16 if "16" in name else INFO
        prior = make_speech_prior(info) if "speech" in name else make_noise_prior(info)
        save_prior(prior, folder / name, half=True)
    return folder
