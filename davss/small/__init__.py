"""The packaged priors: `davss.load_prior("small-speech")` and the like.

Each is a directory of the ordinary format beside this file, described in MODEL_CARD.md; they are
made by `python -m pipelines.ship`, and none is read before it is asked for.
"""

from pathlib import Path

from davss.errors import DavssError

FOLDER = Path(__file__).parent
SPEECH, NOISE, NOISE_DNS = "small-speech", "small-noise", "small-noise-dns"
SPEECH_16, NOISE_16 = "small16-speech", "small16-noise"
NAMES = (SPEECH, NOISE, NOISE_DNS, SPEECH_16, NOISE_16)
# What speech priors are paired with unless told otherwise: whatever separates strangers best.
DEFAULT_NOISE = "gaussian"
MAX_MEGABYTES = 12.0  # of all of them together, so that the wheel stays small


def is_packaged(prior: str | Path) -> bool:
    """Whether `prior` means a packaged one: its name, unless a directory here bears the name."""
    return str(prior) in NAMES and not Path(prior).is_dir()


def preset_of(prior: str | Path | None) -> str:
    """The sampler's preset for a speech prior, if it is one."""
    return "direct" if prior and is_packaged(prior) and str(prior) == SPEECH_16 else "fast"


def folder_of(name: str) -> Path:
    """The directory of a packaged prior.

    Raises DavssError for an unknown name, and where this davss has come without weights.
    """
    if name not in NAMES:
        raise DavssError(f"{name}: no packaged prior of that name; there are {', '.join(NAMES)}")
    if not (FOLDER / name / "config.json").is_file():
        raise DavssError(
            f"{name}: davss was installed without its weights; install a release, make them with "
            "`python -m pipelines.ship`, or give directories of priors"
        )
    return FOLDER / name


def locate(prior: str | Path) -> Path:
    """The directory that `prior`, a path or the name of a packaged prior, means.

    Raises DavssError, listing the names, where there is neither.
    """
    path = Path(prior)
    if is_packaged(prior):
        return folder_of(str(prior))
    if len(path.parts) == 1 and not path.exists():
        raise DavssError(
            f"{path}: no prior here, and none of that name in davss; give a directory, such as "
            f"`dvc repro` makes, or one of {', '.join(NAMES)}"
        )
    return path


def size(folder: Path = FOLDER) -> int:
    """Bytes of the packaged priors, all files together."""
    return sum(file.stat().st_size for file in folder.glob("*/*") if file.parent.name in NAMES)
