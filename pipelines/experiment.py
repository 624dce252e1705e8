"""Stage: one plan of trials on trained priors → docs/results/NAME.{md,csv,svg}.

    python -m pipelines.experiment NAME [--dry-run] [--limit N]        # NAME: see --help
    python -m pipelines.experiment cost --split valid --out build      # to choose a sampler by

What is mixed and how is the section `experiment` of the params, the sampler its section `sampler`.
The plan goes to data/experiments/NAME.plan.parquet and its scores, a row per trial and source, to
NAME.parquet beside it; estimates are kept in $DAVSS_STORAGE (or ./storage), where an interrupted
run goes on. --dry-run says what there is to do and how long it will take on this machine.
DAVSS_NUM_ACTORS sets the number of Ray actors (default: GPUs, else CPU cores; 1 needs no Ray). With
the peers' environment (davss/evaluation/peers.py) in .venv-peers, or its Python named by
DAVSS_PEERS, noise_models compares with them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pandas
import torch

from davss.config import (
    SPEECH_CORPUS,
    CorpusConfig,
    ExperimentConfig,
    ExperimentName,
    SamplerConfig,
    SeparationConfig,
    ShardsConfig,
    load_section,
)
from davss.diffusion.prior import SpeechPrior
from davss.evaluation import plots
from davss.evaluation.batches import passes
from davss.evaluation.external import installed_peers
from davss.evaluation.material import Material
from davss.evaluation.pictures import Videos
from davss.evaluation.plans import PLANS
from davss.evaluation.runner import Job, available, find_records, plan_actors, run_plan
from davss.evaluation.scoring import score_plan
from davss.evaluation.tables import markdown
from davss.evaluation.trials import Trial, as_frame
from davss.networks.visual import load_visual_encoder
from davss.storage import publish
from pipelines import run, stage_parser
from pipelines.clips import open_shards, read_mixtures
from pipelines.evaluating import PEERS, make_job, num_actors, peers_python

NOISES = ("wham", "dns")


def main(argv: list[str] | None = None) -> None:
    """Run what is missing of one plan, and write its scores, its table and its plot."""
    parser = stage_parser("experiment", __doc__)
    parser.add_argument("name", choices=get_args(ExperimentName), help="the plan")
    parser.add_argument("--limit", type=int, help="only the first N mixtures of each cell")
    text = "whose clips are mixed (default: test); what is chosen should be chosen on valid"
    parser.add_argument("--split", choices=("test", "valid"), default="test", help=text)
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do, and stop")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where it goes")
    arguments = parser.parse_args(argv)
    name, actors = arguments.name, num_actors()
    execution = load_section(arguments.params, "separation", SeparationConfig)
    material = read_material(name, arguments.params, arguments.split)
    trials = PLANS[name].plan(material)
    if arguments.limit:
        trials = [t for t in trials if int(t.row["key"].rsplit("-", 1)[1]) < arguments.limit]
    arms = dict.fromkeys(trial.arm for trial in trials)
    job = make_job(arms, material.library, material.seed, execution)
    if arguments.dry_run:
        print(forecast(trials, job, actors))
        return
    save(as_frame(trials), Path("data/experiments") / f"{name}.plan.parquet")
    records = run_plan(trials, job, execution.batch_size, actors, name)
    rows = score_plan(trials, records, material.library, job.storage, perceptual=False)
    save(rows, Path("data/experiments") / f"{name}.parquet")
    speech = rows[rows.source != "noise"]
    write(name, PLANS[name].table(speech, material.config), arguments.out)


def read_material(name: ExperimentName, params: str, split: str = "test") -> Material:
    """The shards that a plan needs, and its settings."""
    settings = load_section(params, "experiment", ExperimentConfig)
    noises = NOISES if name == "conditions" else (settings.noise,)
    others = SPEECH_CORPUS if name in ("quality", "robust_lips") else settings.speech_corpus
    voices = others if name == "robust_sound" else SPEECH_CORPUS  # nobody is seen
    readers = {c: open_shards(c, split) for c in dict.fromkeys([voices, others, *noises])}
    peers: Sequence[str] = ()
    if name == "noise_models":
        if (python := peers_python()) is None:
            print(
                f"{PEERS}: no supervised peers installed, left out; see davss/evaluation/peers.py"
            )
        else:
            peers = installed_peers(python)
    pictures = None
    if name == "robust_lips":
        root = load_section(params, f"corpora.{SPEECH_CORPUS}", CorpusConfig).root
        encoder = load_visual_encoder(Path("data/shards") / SPEECH_CORPUS)
        pictures = Videos(root, load_section(params, "shards", ShardsConfig), encoder)
    return Material(
        readers[voices],
        readers[others],
        {noise: readers[noise] for noise in noises},
        settings,
        load_section(params, "sampler", SamplerConfig),
        load_section(params, "seed", int),
        read_mixtures(settings.noise) if name == "quality" else (),
        peers,
        pictures,
    )


def forecast(trials: Sequence[Trial], job: Job, num_actors: int | None) -> str:
    """What is to be done, in words; the time comes from passes timed on this machine."""
    done = find_records(trials, job)
    todo = [trial for trial in trials if (trial.arm.name, trial.name) not in done]
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    total = sum(map(passes, todo))
    actors = plan_actors(available(), num_actors)
    prior = job.make_separator.speech  # type: ignore[attr-defined]
    seconds = total * time_of_pass(prior, trials[0].row["seconds"], actors.threads)
    lines = [f"{arm.name}: {sum(passes(t) for t in todo if t.arm == arm)} passes" for arm in arms]
    lines.append(
        f"{len(trials)} trials of {len(arms)} arms, {len(trials) - len(todo)} of them done; "
        f"{total} passes through networks, about {seconds / actors.count / 60:.0f} minutes with "
        f"{actors.count} actors"
    )
    return "\n".join(lines)


def time_of_pass(prior: SpeechPrior, seconds: float, threads: int, batch: int = 4) -> float:
    """Seconds that a forward pass of one recording of `seconds` takes, in a batch."""
    torch.set_num_threads(threads)
    prior = prior.eval().to(memory_format=torch.channels_last)
    u, sigma = torch.zeros(batch, round(seconds * prior.sample_rate)), torch.full((batch,), 0.1)
    with torch.no_grad():
        prior(u, sigma)
        begin = time.perf_counter()
        for _ in range(3):
            prior(u, sigma)
    return (time.perf_counter() - begin) / (3 * batch)


def save(frame: pandas.DataFrame, path: Path) -> None:
    """A parquet file, whole or not at all."""
    with publish(path) as temporary:
        frame.to_parquet(temporary, index=False)


def write(name: ExperimentName, found: pandas.DataFrame, out: Path) -> None:
    """Table and plot, each whole or not at all."""
    texts = {"csv": found.round(4).to_csv(index=False), "md": markdown(found)}
    for suffix, text in texts.items():
        with publish(out / f"{name}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    figure = plots.new_figure()
    PLANS[name].plot(figure, found)
    with publish(out / f"{name}.svg") as temporary:
        plots.save_svg(figure, temporary, name)
    print(texts["md"] + f"in {out / name}.md, .csv and .svg")


if __name__ == "__main__":
    run(main)
