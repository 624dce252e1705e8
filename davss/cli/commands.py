"""The command line: `davss separate`, `serve`, `score`, `validate`, `info`, `convert`, `profile`,
`jobs`.

Bad input ends with one line on stderr and exit status 2; Ctrl-C with 130.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from davss import __version__, small
from davss.cli.flags import (
    NOISE,
    NOISE_HELP,
    SPEECH_HELP,
    Help,
    Parser,
    add_execution,
    add_sampler,
    execution_settings,
    given,
    noise_model,
    parse_flags,
    path,
    sampler_settings,
)
from davss.cli.jobs import add_jobs
from davss.cli.scores import add_score
from davss.cli.serve import add_serve
from davss.config import DiffusionConfig, NetworkConfig
from davss.errors import (
    DavssError,
    ending_in_one_line,
    memory_explained,
    require_current_folder,
    say,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `davss`."""
    with ending_in_one_line():
        arguments = build_parser().parse_args(argv)
        require_current_folder()
        arguments.run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and flags."""
    parser = Parser(prog="davss", description="Audio-visual speech separation.")
    parser.add_argument("--version", action="version", version=f"davss {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_separate(commands)
    add_serve(commands)
    add_score(commands)
    validate = commands.add_parser("validate", help="check shards against their manifests")
    validate.add_argument("manifests", type=path, help="a folder such as data/shards/voxceleb2")
    validate.add_argument(
        "--storage",
        help="folder or s3://bucket/prefix of shards (default: $DAVSS_STORAGE or ./storage)",
    )
    validate.set_defaults(run=_validate)
    info = commands.add_parser("info", help="what a prior is and how it was trained")
    text = f"a folder such as data/priors/speech, or a packaged prior such as {small.SPEECH}"
    info.add_argument("prior", type=path, help=text)
    info.set_defaults(run=_info)
    _add_convert(commands)
    _add_profile(commands)
    add_jobs(commands)
    return parser


def _add_convert(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="turn a public checkpoint into a prior",
        description="Write the NCSN++M of a public checkpoint (BUDDy, StoRM, SGMSE, ...; its EMA "
        "weights if it has any) as the directory of a prior. Code in the checkpoint is never run.",
        formatter_class=Help,
    )
    add = command.add_argument
    add("checkpoint", type=path, help="file of torch (.ckpt, .pt) or .safetensors")
    add("out", type=path, help="directory to write")
    add("--sample-rate", type=int, default=16000, help="of the signals it was trained on, in Hz")
    add("--n-fft", type=int, default=510, help="its STFT, in samples")
    add("--hop-length", type=int, default=128, help="hop of its STFT, in samples")
    add("--sigma-data", type=float, default=0.05, help="RMS of the signals it was trained on")
    text = "folder with eigenlips.safetensors or braven.json: write a speech prior, whose lips "
    text += "have no effect until it is trained further"
    add("--visual-encoder", type=path, metavar="DIR", help=text)
    command.set_defaults(run=_convert)


def _add_separate(commands: Any) -> None:
    command = commands.add_parser(
        "separate",
        help="separate a recording into speakers and noise",
        description="Separate a recording into speakers and noise. Writes speaker_1.wav, "
        "speaker_2.wav, ..., noise.wav and separation.json; files are as long as the input. "
        f"By default it uses the noise model {small.DEFAULT_NOISE} and a packaged speech prior, "
        f"{small.SPEECH_16} for one speaker without lips, else {small.SPEECH}.",
        formatter_class=Help,
    )
    add = command.add_argument
    text = "recordings, or folders of them: whatever FFmpeg reads, also from a pipe or as `-`; "
    text += "each of several gets a folder of its name below --out"
    add("input", type=path, nargs="+", help=text)
    add(
        "--lips",
        type=path,
        nargs="+",
        default=[],
        metavar="FACE.mp4",
        help="face video of each speaker in view; in a video given as input with neither --lips "
        "nor --speakers the faces are looked for",
    )
    text = "the faces of the input as a separation.json lists them, corrected by hand"
    add("--faces", type=path, metavar="FACES.json", help=text)
    add("--speakers", type=int, metavar="K", help="number of speakers when there are no lips")
    add("--off-screen", type=int, default=0, metavar="N", help="more speakers, without lips")
    text = "channel to separate, from 0 on (default: the mean of those that are not silent)"
    add("--channel", type=int, metavar="N", help=text)
    add("--speech-prior", type=path, metavar="DIR", help=SPEECH_HELP)
    noise = small.DEFAULT_NOISE
    add("--noise-prior", type=noise_model, default=noise, metavar=NOISE, help=NOISE_HELP)
    text = "BRAVEn's checkpoint, if the speech prior was trained with it"
    add("--visual-encoder", type=path, metavar="FILE", help=text)
    add("--out", type=path, required=True, metavar="DIR", help="folder to write to")
    text = "also write the input's picture with the track of each speaker, speaker_1.mp4, ..."
    add("--mux", action="store_true", help=text)
    text = "also write preview.html, a page to look at and listen to what was found"
    add("--preview", action="store_true", help=text)
    add("--seed", type=int, default=0, help="random seed; the file name counts as well")
    add("--device", help="cpu, cuda, cuda:1, ...; by default the GPU if there is one")
    add_execution(command)
    add_sampler(command)
    command.set_defaults(run=_separate)


def _add_profile(commands: Any) -> None:
    command = commands.add_parser(
        "profile",
        help="what a separation costs here, and what an evaluation would",
        description="Counts the work of one separation, times a few real steps of it here beside "
        "the machine's own peaks, and forecasts a whole evaluation here and on a GPU. Without "
        "priors it uses untrained ones of the paper's size, which cost the same.",
        formatter_class=Help,
    )
    add = command.add_argument
    add("--speech-prior", type=path, metavar="DIR", help=SPEECH_HELP)
    add("--noise-prior", type=noise_model, metavar=NOISE, help=NOISE_HELP)
    unset = argparse.SUPPRESS  # to notice a size given beside directories
    add("--nf", type=int, default=unset, help="channels of untrained priors (default: 128)")
    add("--n-fft", type=int, default=unset, help="their STFT, in samples (default: 510)")
    add("--sample-rate", type=int, default=unset, help="their rate, in Hz (default: 16000)")
    add("--speakers", type=int, default=2, metavar="K", help="speakers of a mixture, with lips")
    add("--seconds", type=float, default=4.0, help="length of a mixture")
    add("--batch-size", type=int, default=1, metavar="B", help="mixtures separated together")
    add("--mixtures", type=int, default=1000, help="size of the evaluation to forecast")
    add("--steps-to-measure", type=int, default=2, help="steps to time, after one to warm up")
    add("--dry-run", action="store_true", help="count and forecast only, time nothing")
    add("--json", action="store_true", help="print JSON")
    add("--device", help="cpu, cuda, cuda:1, ...; by default the GPU if there is one")
    text = "TFLOP/s that a GPU is assumed to sustain (default: 395.6, 40%% of an H100's bf16 peak)"
    add("--gpu-tflops", type=float, default=unset, help=text)
    add_execution(command, ["precision", "compile", "checkpointing"])
    add_sampler(command)
    command.set_defaults(run=_profile)


def _separate(arguments: argparse.Namespace) -> None:
    # Flags that nothing takes are refused before all else.
    sampler_settings(arguments, arguments.speech_prior)
    execution_settings(arguments)
    from davss.cli.application import separate_file  # torch is imported only when there is work
    from davss.cli.inputs import find_recordings

    places = find_recordings(arguments.input, arguments.out)
    if len(places) > 1 and arguments.lips:
        raise DavssError("--lips: goes with one recording; separate them one at a time")
    failed = 0
    for recording, out in places:
        try:
            with memory_explained(recording):
                report = separate_file(recording, out, arguments)
        except DavssError as error:
            if len(places) == 1:
                raise
            say(f"error: {error}")
            failed += 1
            continue
        for name in report["files"]:
            print(out / name)
    if failed:
        raise DavssError(f"{failed} of {len(places)} recordings were not separated; see above")


def _validate(arguments: argparse.Namespace) -> None:
    from davss.shards.validate import validate
    from davss.storage import open_storage, open_store

    store = open_store(arguments.storage) if arguments.storage else open_storage()
    problems = validate(arguments.manifests, store)
    for problem in problems:
        print(problem)
    if problems:
        raise DavssError(f"{arguments.manifests}: {len(problems)} problem(s); see above")
    print(f"{arguments.manifests}: valid")


def _info(arguments: argparse.Namespace) -> None:
    from davss.diffusion.prior import load_prior

    prior = load_prior(arguments.prior)
    description = json.loads((small.locate(arguments.prior) / "config.json").read_text())
    description["parameters"] = sum(p.numel() for p in prior.network.parameters())
    print(json.dumps(description, indent=2))


def _convert(arguments: argparse.Namespace) -> None:
    network = parse_flags(NetworkConfig, given(arguments, ("n_fft", "hop_length")))
    diffusion = parse_flags(DiffusionConfig, given(arguments, ("sigma_data",)))
    from davss.cli.output import staging_folder
    from davss.diffusion.prior import save_prior
    from davss.diffusion.public import public_prior

    if arguments.out.exists():
        raise DavssError(f"{arguments.out}: exists already; give another name")
    if arguments.checkpoint.is_dir():
        raise DavssError(f"{arguments.checkpoint}: a folder; give the file of a checkpoint")
    with staging_folder(arguments.out.parent, str(arguments.out)):
        pass  # it can be written
    prior = public_prior(
        arguments.checkpoint, arguments.sample_rate, network, diffusion, arguments.visual_encoder
    )
    save_prior(prior, arguments.out)
    print(arguments.out)


def _profile(arguments: argparse.Namespace) -> None:
    speech_prior, noise_prior = arguments.speech_prior, arguments.noise_prior
    sampler, execution = sampler_settings(arguments, speech_prior), execution_settings(arguments)
    size, rate = given(arguments, ("nf", "n_fft")), given(arguments, ("sample_rate",))
    network = parse_flags(NetworkConfig, size)
    trained = isinstance(noise_prior, Path)
    if (speech_prior and noise_prior is None) or (trained and speech_prior is None):
        raise DavssError("--speech-prior, --noise-prior: give both, or neither for untrained ones")
    if speech_prior and (size or rate):
        raise DavssError("--nf, --n-fft, --sample-rate: priors given by directory have their own")
    from davss.cli.application import check_device, load_pair, set_threads
    from davss.posterior.separator import Separator
    from davss.profiling import Workload, describe, profile
    from davss.profiling.counting import untrained_priors

    workload = Workload(
        arguments.speakers, arguments.seconds, arguments.batch_size, arguments.mixtures
    )
    check_device(arguments.device)
    set_threads()
    if speech_prior:
        speech, noise = load_pair(speech_prior, noise_prior)
    else:
        speech, noise = untrained_priors(network, **rate)
        noise = noise_prior or noise
    execution = replace(execution, batch_size=workload.batch_size)
    device = "cpu" if arguments.dry_run else arguments.device
    result = profile(
        Separator(speech, noise, sampler, device, execution),
        workload,
        steps_to_measure=arguments.steps_to_measure,
        **given(arguments, ("gpu_tflops",)),
        dry_run=arguments.dry_run,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(json.dumps(result, indent=2) if arguments.json else describe(result))
