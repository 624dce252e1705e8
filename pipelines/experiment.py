"""Stage: one experiment on trained priors → docs/results/NAME.{md,csv,svg}.

    python -m pipelines.experiment {noise_models,lips,conditions,cost} [--dry-run] [--limit N]
    python -m pipelines.experiment cost --split valid --out build    # to choose a sampler by

What is mixed and how is the section `experiment` of the params, the sampler its section `sampler`.
Every trial's result is kept in $DAVSS_STORAGE/experiments/NAME (or ./storage), where an interrupted
run goes on. --dry-run says what there is to do and how long it will take on this machine.
DAVSS_NUM_ACTORS sets the number of processes (default: 1 on a GPU, else CPU cores). With the peers'
environment (benchmarks/peers.py) in .venv-peers, or its Python named by DAVSS_PEERS, noise_models
compares with them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas
import torch

from davss import config
from davss.code import code_digest
from davss.config import (
    ExperimentConfig,
    ExperimentName,
    SamplerConfig,
    SeparationConfig,
    load_section,
)
from davss.diffusion.prior import NoisePrior, SpeechPrior
from davss.errors import DavssError
from davss.evaluation.experiments import SPEECH, Arm, Material, Trial, plan
from davss.evaluation.figures import draw, markdown
from davss.evaluation.findings import results_frame, table
from davss.evaluation.peers import run_peers
from davss.evaluation.trials import Job, calls, kept, path_of, run_trials
from davss.posterior.separator import Separator
from davss.shards.reader import ShardReader
from davss.storage import publish, sha256, shard_store, storage_root
from pipelines import run
from pipelines.separate import PRIORS, contents, num_actors, read_noise_model, read_prior

NOISES = ("wham", "dns")
ROOT = Path(__file__).parents[1]
PEERS = Path(".venv-peers/bin/python")


def main(argv: list[str] | None = None) -> None:
    """Run what is missing of one experiment, and write its table and its plot."""
    parser = argparse.ArgumentParser(
        prog="pipelines.experiment", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("name", choices=get_args(ExperimentName), help="the experiment")
    parser.add_argument("--params", default="params.yaml", help="settings (default: params.yaml)")
    parser.add_argument("--limit", type=int, help="only the first N mixtures of each cell")
    text = "whose clips are mixed (default: test); what is chosen should be chosen on valid"
    parser.add_argument("--split", choices=("test", "valid"), default="test", help=text)
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and stop")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where it goes")
    arguments = parser.parse_args(argv)
    sampler = load_section(arguments.params, "sampler", SamplerConfig)
    execution = load_section(arguments.params, "separation", SeparationConfig)
    material = read_material(arguments.name, arguments.params, arguments.split)
    trials = plan(arguments.name, material, sampler)
    if arguments.limit:
        trials = [t for t in trials if int(t.row["key"].rsplit("-", 1)[1]) < arguments.limit]
    desk = Desk(arguments.name, material, execution)
    if arguments.dry_run:
        print(forecast(trials, desk))
        return
    results = run_trials(
        trials, desk.job, desk.folder, execution.batch_size, desk.processes, arguments.name
    )
    if arguments.name == "noise_models" and (python := peers_python()):
        script = ROOT / "benchmarks" / "peers.py"
        others = run_peers(trials, desk.job, desk.peers_folder(script), python, script)
        trials, results = [*trials, *others[0]], [*results, *others[1]]
    frame = results_frame(trials, results)
    if frame.si_sdr.isna().all():
        raise DavssError(
            f"{arguments.name}: every mixture failed, the first: {frame.error.iloc[0]}"
        )
    write(arguments.name, table(arguments.name, frame, material.config.noise), arguments.out)


def read_material(name: ExperimentName, params: str, split: str = "test") -> Material:
    """The shards that an experiment needs, and its settings."""
    settings = load_section(params, "experiment", ExperimentConfig)
    seed = load_section(params, "seed", int)
    readers: dict[str, ShardReader] = {}
    noises = NOISES if name == "conditions" else (settings.noise,)
    for corpus in {SPEECH, settings.speech_corpus, *noises}:
        readers[corpus] = ShardReader(Path("data/shards") / corpus, shard_store(), split)
    speech, others = readers[SPEECH], readers[settings.speech_corpus]
    return Material(speech, others, {noise: readers[noise] for noise in noises}, settings, seed)


class Desk:
    """The job of an experiment, and where its results are kept."""

    def __init__(
        self, name: ExperimentName, material: Material, execution: SeparationConfig
    ) -> None:
        self.storage = storage_root().resolve() / "experiments" / name
        self.processes = num_actors() or (1 if torch.cuda.is_available() else _cores())
        self.speech_prior = read_prior(PRIORS / "speech", SpeechPrior, "train_speech")
        readers = [material.speech, material.others, *material.noises.values()]
        self.inputs = [
            sorted({shard for reader in readers for shard in reader.clips.shard}),
            contents(PRIORS / "speech"),
            material.seed,
            code_digest("davss.evaluation.trials", "pipelines.separate"),
        ]
        self.models: dict[str, tuple[NoisePrior | config.NoiseModel, list[str]]] = {}
        self.job = Job(
            partial(make_separator, execution=execution),
            material.voices,
            material.noises,
            material.seed,
            threads=max(_cores() // self.processes, 1),
        )

    def folder(self, arm: Arm) -> Path:
        """Where the results of an arm are kept: named by all that decides them but the mixture."""
        if arm.noise not in self.models:
            self.models[arm.noise] = read_noise_model(arm.noise)
        used = self.models[arm.noise][1]
        about = [arm.sampler, arm.lips, arm.shift, used, self.inputs]
        return self.storage / config.digest(*about)

    def peers_folder(self, script: Path) -> Path:
        """Where the peers' wavs are kept: named by the shards and the peers' program."""
        return self.storage.parent / "peers" / config.digest(self.inputs[0], sha256(script))


def make_separator(arm: Arm, execution: SeparationConfig) -> Separator:
    """The separator of an arm, with priors read afresh: a process has its own."""
    speech_prior = read_prior(PRIORS / "speech", SpeechPrior, "train_speech")
    return Separator(speech_prior, read_noise_model(arm.noise)[0], arm.sampler, execution=execution)


def peers_python() -> Path | None:
    """The Python of the peers' environment; None, said on stdout, without one."""
    given = os.environ.get("DAVSS_PEERS")
    python = Path(given) if given else PEERS
    if python.is_file():
        return python.absolute()
    if given:
        raise DavssError(f"DAVSS_PEERS={given}: no such file; name the Python of their environment")
    print(f"{PEERS}: no supervised peers installed, left out; see benchmarks/peers.py")
    return None


def forecast(trials: Sequence[Trial], desk: Desk) -> str:
    """What is to be done, in words; the time comes from passes timed on this machine."""
    todo = [trial for trial in trials if kept(path_of(trial, desk.folder)) is None]
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    passes = sum(calls(trial) for trial in todo)
    seconds = passes * time_of_pass(desk.speech_prior, trials[0].row["seconds"], desk.job.threads)
    lines = [f"{arm.name}: {sum(calls(t) for t in todo if t.arm == arm)} passes" for arm in arms]
    lines.append(
        f"{len(trials)} trials of {len(arms)} arms, {len(trials) - len(todo)} of them done; "
        f"{passes} passes through networks, about {seconds / desk.processes / 60:.0f} minutes with "
        f"{desk.processes} processes"
    )
    return "\n".join(lines)


def time_of_pass(prior: SpeechPrior, seconds: float, threads: int | None, batch: int = 4) -> float:
    """Seconds that a forward pass of one recording of `seconds` takes, in a batch."""
    torch.set_num_threads(threads or 1)
    prior = prior.eval().to(memory_format=torch.channels_last)
    u, sigma = torch.zeros(batch, round(seconds * prior.sample_rate)), torch.full((batch,), 0.1)
    with torch.no_grad():
        prior(u, sigma)
        begin = time.perf_counter()
        for _ in range(3):
            prior(u, sigma)
    return (time.perf_counter() - begin) / (3 * batch)


def write(name: ExperimentName, found: pandas.DataFrame, out: Path) -> None:
    """Table and plot, each whole or not at all."""
    texts: dict[str, Any] = {"csv": found.round(4).to_csv(index=False), "md": markdown(found)}
    for suffix, text in texts.items():
        with publish(out / f"{name}.{suffix}") as temporary:
            temporary.write_text(text)
    with publish(out / f"{name}.svg") as temporary:
        draw(name, found, temporary)
    print(texts["md"] + f"in {out / name}.md, .csv and .svg")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    run(main)
