"""davss: diffusion-based unsupervised audio-visual speech separation in noise (DAVSS-NM, arXiv
2509.14379).

    separate = davss.Separator.small()  # the packaged priors, or others:
    prior = davss.load_prior("data/priors/speech")
    separate = davss.Separator(prior, davss.load_prior("data/priors/wham"))
    separation = separate(mixture, lips, sample_rate=16000)
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("davss")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

# Names are imported on first use, so that `import davss` and `davss --help` do not wait for torch.
_EXPORTS = {
    "DavssError": "davss.errors",
    "PRESETS": "davss.config",
    "SamplerConfig": "davss.config",
    "Separator": "davss.posterior.separator",
    "load_prior": "davss.diffusion.prior",
    "si_sdr": "davss.evaluation.metrics",
}
_MODULES = ["config", "diffusion", "evaluation", "media", "networks", "posterior", "shards"]

__all__ = [*_EXPORTS, *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'davss' has no attribute '{name}'")
    try:
        module = import_module(_EXPORTS.get(name, f"davss.{name}"))
    except ModuleNotFoundError as error:
        from davss.errors import how_to_install

        error.add_note(how_to_install())
        raise
    return getattr(module, name) if name in _EXPORTS else module


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
