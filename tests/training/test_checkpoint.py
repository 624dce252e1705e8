"""Checkpoints: complete or ignored, the newest valid one wins, two are kept."""

import logging
import math
import resource

import pytest
import torch
from torch import nn

from davss.errors import DavssError
from davss.training import checkpoint
from davss.training.checkpoint import TrainingState
from davss.training.ema import Ema


def make_state(seed: int = 0) -> TrainingState:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    return TrainingState(module, torch.optim.Adam(module.parameters()), Ema(module, 0.9))


def train_a_little(state: TrainingState, samples: int) -> None:
    state.optimiser.zero_grad()
    state.prior(torch.ones(1, 3)).sum().backward()
    state.optimiser.step()
    state.ema.update(state.prior)
    state.samples_seen += samples
    state.history.append({"train/samples_seen": state.samples_seen, "train/loss": 0.5})


def test_everything_comes_back(tmp_path):
    state = make_state()
    train_a_little(state, 16)
    state.best_validation = 0.25
    checkpoint.save(state.state_dict(), tmp_path)
    other = make_state(seed=1)
    other.load_state_dict(checkpoint.load_newest(tmp_path))
    assert other.samples_seen == 16 and other.history == state.history
    assert other.best_validation == 0.25
    assert torch.equal(state.ema.module.weight, other.ema.module.weight)
    train_a_little(state, 16)
    train_a_little(other, 16)  # equal only if Adam's moments came back
    assert torch.equal(state.prior.weight, other.prior.weight)


def test_the_last_two_are_kept(tmp_path):
    for samples in (10, 20, 30):
        checkpoint.save({"samples_seen": samples}, tmp_path)
    (tmp_path / ".checkpoint-killed").write_bytes(b"half")
    checkpoint.save({"samples_seen": 40}, tmp_path)
    assert sorted(path.name[11:23] for path in tmp_path.iterdir()) == [f"{30:012d}", f"{40:012d}"]


def test_a_torn_checkpoint_is_skipped(tmp_path, caplog):
    checkpoint.save({"samples_seen": 10}, tmp_path)
    newest = checkpoint.save({"samples_seen": 20}, tmp_path)
    newest.write_bytes(newest.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(tmp_path)["samples_seen"] == 10
    assert "damaged" in caplog.text and newest.name in caplog.text


def test_another_format_is_not_taken_for_nothing(tmp_path):
    checkpoint.save({"samples_seen": 10, "format_version": 1}, tmp_path)
    with pytest.raises(DavssError, match="a checkpoint of format 1"):
        checkpoint.load_newest(tmp_path)


def test_the_best_one_stays_and_is_the_last_resort(tmp_path):
    best = math.inf
    for samples, loss in ((10, 0.5), (20, 0.4), (30, 0.6), (40, 0.7)):
        best = min(best, loss)
        history = [{"train/samples_seen": samples, "valid/loss": loss}]
        state = {"samples_seen": samples, "history": history, "best_validation": best}
        checkpoint.save(state, tmp_path, keep=1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[: name.rindex("-")] for name in names] == [
        f"best-{20:012d}",
        f"checkpoint-{40:012d}",
    ]
    (tmp_path / names[1]).write_bytes(b"torn")
    assert checkpoint.load_newest(tmp_path)["samples_seen"] == 20


@pytest.fixture
def small_files():
    """Files may have 100 kB; Python ignores the signal that says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_breaks_off_leaves_the_last_one(tmp_path, small_files):
    checkpoint.save({"samples_seen": 1}, tmp_path)
    said = "cannot save a checkpoint .* go on from checkpoint-000000000001"
    with pytest.raises(DavssError, match=said):
        checkpoint.save({"samples_seen": 2, "x": torch.zeros(1_000_000)}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert checkpoint.load_newest(tmp_path)["samples_seen"] == 1


def test_nothing_there(tmp_path):
    assert checkpoint.load_newest(tmp_path / "absent") is None


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DavssError, match="No space left"):
        checkpoint.save({"samples_seen": 1}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_colleagues_can_go_on_from_it(tmp_path):
    path = checkpoint.save({"samples_seen": 4, "history": []}, tmp_path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
