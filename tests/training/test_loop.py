"""The training loop in one process, without Ray."""

import itertools
import logging
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from davss.config import DiffusionConfig, NetworkConfig, PriorConfig, TrainingConfig
from davss.diffusion.prior import NoisePrior, PriorInfo
from davss.errors import DavssError
from davss.shards.loader import Batch, micro_batches, shares
from davss.training import checkpoint, loop, reporter
from davss.training.ema import Ema
from davss.training.job import TrainingJob, Worker
from davss.training.validation import ValidationClips

RATE, SAMPLES = 8000, 1600
CONFIG = PriorConfig(
    network=NetworkConfig(nf=8, ch_mult=(1, 1), n_fft=126, hop_length=64),
    diffusion=DiffusionConfig(sigma_min=1e-3, sigma_max=1.0),
    training=TrainingConfig(
        global_batch_size=4,
        total_samples=24,
        learning_rate=1e-2,
        warmup_samples=4,
        validate_every=8,
        checkpoint_every=8,
    ),
)


def tones(count: int, seed: int) -> torch.Tensor:
    """Sines of random pitch at RMS 0.05, (count, T)."""
    pitch = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.1
    return 0.05 * math.sqrt(2) * torch.sin(pitch * torch.arange(SAMPLES))


def batches(samples_seen=0, rank=0, world_size=1, max_batch=None):
    """Batches that depend on the samples seen alone, as of an exact loader."""
    batch_size = CONFIG.training.global_batch_size
    for step in itertools.count(samples_seen // batch_size):
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(batch_size, SAMPLES, generator=generator)
        uniforms = torch.rand(batch_size, 3, generator=generator, dtype=torch.float64)
        audio, mask = tones(batch_size, step), torch.zeros(batch_size, dtype=torch.bool)
        for part in micro_batches(shares(batch_size, world_size)[rank], max_batch):
            keys = ["key"] * len(part)
            rows = slice(part.start, part.stop)
            yield Batch(audio[rows], None, mask[rows], keys, noise[rows], uniforms[rows])


def broken(after, **place):
    """As `batches`, but not finite from batch `after` on."""
    for number, batch in enumerate(batches(**place)):
        yield batch._replace(audio=batch.audio * math.nan) if number >= after else batch


def make_prior() -> NoisePrior:
    return NoisePrior(PriorInfo(RATE, CONFIG.network, CONFIG.diffusion))


def make_clips() -> ValidationClips:
    return ValidationClips(tones(2, 99), None, ("a", "b"))


def make_job(folder, **training) -> TrainingJob:
    config = replace(CONFIG, training=replace(CONFIG.training, **training))
    return TrainingJob(
        name="wham",
        config=config,
        seed=0,
        sample_rate=RATE,
        state=folder,
        build_prior=make_prior,
        training_batches=partial(batches, max_batch=config.training.max_batch_per_worker),
        validation_clips=make_clips,
    )


def test_two_steps_lower_the_loss_of_a_batch():
    torch.manual_seed(0)
    prior = make_prior()
    objective = loop.Objective(prior, CONFIG.diffusion)
    optimiser = torch.optim.Adam(prior.parameters())
    state = checkpoint.TrainingState(prior, optimiser, Ema(prior, 0.9))
    batch, losses = next(batches()), []
    for _ in range(3):
        loss, norm, _ = loop.step(objective, state, [batch], 3e-3, CONFIG.training, Worker())
        losses.append(loss)
        assert norm > 0
    assert losses[2] < losses[1] < losses[0]


def test_learning_rate():
    config = TrainingConfig(
        learning_rate=1.0,
        warmup_samples=100,
        total_samples=1100,
        final_learning_rate_fraction=0.2,
    )
    rates = [loop.learning_rate(config, seen) for seen in (50, 100, 600, 1100, 2000)]
    assert rates == pytest.approx([0.5, 1.0, 0.6, 0.2, 0.2])
    constant = replace(config, final_learning_rate_fraction=1.0)
    assert loop.learning_rate(constant, 900) == 1.0


def test_a_run_leaves_history_and_checkpoints(tmp_path):
    loop.train(make_job(tmp_path))
    saved = checkpoint.load_newest(tmp_path / "checkpoints")
    assert saved["samples_seen"] == 24
    assert [row["train/samples_seen"] for row in saved["history"]] == [8, 16, 24]
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "valid/loss"} <= set(
        saved["history"][0]
    )
    assert saved["ema"]["num_updates"] == 6
    assert "wham 24/24 samples  loss" in (tmp_path / "train.log").read_text()


def test_an_interrupted_run_ends_like_an_undisturbed_one(tmp_path):
    whole, halves = make_job(tmp_path / "whole"), make_job(tmp_path / "halves")
    loop.train(whole)
    # Stops as a killed run does: something is lost after the last checkpoint.
    stopping = partial(stopped, after=3)
    with pytest.raises(KeyboardInterrupt):
        loop.train(replace(halves, training_batches=stopping))
    assert checkpoint.load_newest(halves.checkpoints)["samples_seen"] == 8
    loop.train(halves)
    one, two = (checkpoint.load_newest(job.checkpoints) for job in (whole, halves))
    for name, value in one["ema"]["module"].items():
        assert torch.equal(value, two["ema"]["module"][name]), name
    assert one["history"][-1] == pytest.approx(two["history"][-1])
    assert "goes on from 8 samples" in halves.log_file.read_text()


def stopped(after, **place):
    yield from itertools.islice(batches(**place), after)
    raise KeyboardInterrupt


def test_a_bad_step_is_skipped(tmp_path, caplog):
    job = replace(make_job(tmp_path, total_samples=16), training_batches=partial(broken, 3))
    with caplog.at_level(logging.WARNING):
        loop.train(job)
    saved = checkpoint.load_newest(job.checkpoints)
    assert saved["samples_seen"] == 16 and saved["ema"]["num_updates"] == 3
    assert "skipped" in caplog.text
    assert all(torch.isfinite(value).all() for value in saved["prior"].values())


def test_too_many_bad_steps_end_the_run(tmp_path):
    job = make_job(tmp_path, total_samples=400)
    job = replace(job, training_batches=partial(broken, 4))
    with pytest.raises(DavssError, match="learning_rate"):
        loop.train(job)
    saved = checkpoint.load_newest(job.checkpoints)
    assert saved["samples_seen"] <= 16 + 4 * reporter.MAX_BAD_STEPS
    assert saved["ema"]["num_updates"] == 4


def test_more_workers_than_clips():
    loop.check_workers(CONFIG.training, 4)
    with pytest.raises(DavssError, match="DAVSS_NUM_WORKERS"):
        loop.check_workers(CONFIG.training, 5)


def test_rank_0_chooses_the_checkpoint(tmp_path, monkeypatch):
    """The folder may look older, or empty, to the node of another rank."""
    assert loop.train(make_job(tmp_path / "first"))
    chosen = checkpoint.load_newest(tmp_path / "first" / "checkpoints")
    monkeypatch.setattr(
        loop.dist, "broadcast_object_list", lambda told, **_: told.append(chosen) or told.pop(0)
    )
    stale = make_job(tmp_path / "stale")
    state = loop._restore(stale, Worker(rank=1, world_size=2))
    assert state.samples_seen == chosen["samples_seen"] == 24
    for name, weight in state.ema.module.state_dict().items():
        assert torch.equal(weight, chosen["ema"]["module"][name])


@pytest.mark.parametrize(("most", "expected"), [(None, 2), (1, 1)])
def test_validation_takes_as_many_clips_as_a_step_may(tmp_path, monkeypatch, most, expected):
    sizes, whole = [], NoisePrior.forward

    def spy(self, u, sigma, *rest):
        sizes.append((self.training, len(u)))
        return whole(self, u, sigma, *rest)

    monkeypatch.setattr(NoisePrior, "forward", spy)
    loop.train(make_job(tmp_path, total_samples=8, max_batch_per_worker=most))
    assert max(size for training, size in sizes if not training) == expected
