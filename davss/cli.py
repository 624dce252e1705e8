"""The command line: `davss separate`, `davss validate`, `davss info`.

Bad input ends with one line on stderr and exit status 2; Ctrl-C with 130.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from davss.config import SamplerConfig, parse, to_dict
from davss.errors import DavssError, ending_in_one_line

SAMPLER_HELP = {
    "num_steps": "noise levels; each costs one call of both networks",
    "zeta": "pull of the likelihood: it moves a source by an RMS of zeta times the change of sigma",
    "guidance_weight": "strength of the lips; 0 is the plain conditional model, at half the cost",
    "sigma_max": "noise level to begin at, for signals of RMS 0.05",
    "sigma_min": "last noise level",
    "rho": "curvature of the noise levels",
    "s_churn": "noise put back in, spread over all steps; 10 to 30 calibrates the posterior",
    "order": "1 is Euler, 2 is Heun (two calls a step)",
    "num_samples": "draws to average; the mean is closer to the truth, at that many times the cost",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `davss`."""
    arguments = build_parser().parse_args(argv)
    with ending_in_one_line():
        arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and flags."""
    parser = argparse.ArgumentParser(prog="davss", description="Audio-visual speech separation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_separate(commands)
    validate = commands.add_parser("validate", help="check shards against their manifests")
    validate.add_argument("manifests", type=Path, help="a folder such as data/shards/voxceleb2")
    validate.add_argument(
        "--storage", type=Path, help="where shards lie (default: $DAVSS_STORAGE or ./storage)"
    )
    validate.set_defaults(run=_validate)
    info = commands.add_parser("info", help="what a prior is and how it was trained")
    info.add_argument("prior", type=Path, help="a folder such as data/priors/speech")
    info.set_defaults(run=_info)
    return parser


def _add_separate(commands: Any) -> None:
    command = commands.add_parser(
        "separate",
        help="take a recording apart into speakers and noise",
        description="Take a recording apart into speakers and noise. Writes speaker_1.wav …, "
        "noise.wav and separation.json; files are as long as the input.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = command.add_argument
    add("input", type=Path, help="recording: wav, flac, ogg, or the audio of an mp4")
    add(
        "--lips",
        type=Path,
        nargs="+",
        default=[],
        metavar="FACE.mp4",
        help="face video of each speaker in view, 25 fps, as long as the recording; an mp4 given "
        "as input with neither --lips nor --speakers is its own",
    )
    add("--speakers", type=int, metavar="K", help="number of speakers when there are no lips")
    add("--off-screen", type=int, default=0, metavar="N", help="speakers nobody sees, besides")
    add("--speech-prior", type=Path, required=True, metavar="DIR", help="directory of a prior")
    add("--noise-prior", type=Path, required=True, metavar="DIR", help="directory of a prior")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--seed", type=int, default=0, help="random seed")
    add("--device", help="cpu, cuda, cuda:1 …; by default the GPU if there is one")
    group = command.add_argument_group("sampler (Algorithm 1 of DAVSS-NM; the paper's defaults)")
    defaults = to_dict(SamplerConfig())
    for name, text in SAMPLER_HELP.items():
        kind = type(defaults[name])
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=kind, default=defaults[name], help=text)
    command.set_defaults(run=_separate)


def _separate(arguments: argparse.Namespace) -> None:
    settings = {name: getattr(arguments, name) for name in SAMPLER_HELP}
    sampler = parse(SamplerConfig, settings, "separate")
    from davss.application import separate_file  # torch is imported only when there is work

    report = separate_file(
        arguments.input,
        lips=arguments.lips,
        num_speakers=arguments.speakers,
        num_off_screen=arguments.off_screen,
        speech_prior=arguments.speech_prior,
        noise_prior=arguments.noise_prior,
        out=arguments.out,
        sampler=sampler,
        seed=arguments.seed,
        device=arguments.device,
    )
    for name in report["files"]:
        print(arguments.out / name)


def _validate(arguments: argparse.Namespace) -> None:
    from davss.shards.validate import validate
    from davss.storage import storage_root

    problems = validate(arguments.manifests, arguments.storage or storage_root())
    for problem in problems:
        print(problem)
    if problems:
        raise DavssError(f"{arguments.manifests}: {len(problems)} problem(s); see above")
    print(f"{arguments.manifests}: valid")


def _info(arguments: argparse.Namespace) -> None:
    from davss.diffusion.prior import load_prior

    prior = load_prior(arguments.prior)
    description = json.loads((arguments.prior / "config.json").read_text())
    description["parameters"] = sum(p.numel() for p in prior.network.parameters())
    print(json.dumps(description, indent=2))


if __name__ == "__main__":
    main()
