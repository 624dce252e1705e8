"""Files of weights from elsewhere: read without running their code, and named for what they are."""

import collections
import gzip
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from davss.errors import DavssError
from davss.networks.weights import read_weights_file


class Runs:
    """Makes the folder `was-here` when it is unpickled."""

    def __init__(self, function) -> None:
        self.function = function

    def __reduce__(self):
        return self.function, ("was-here",)


def make_folder(name):
    os.mkdir(name)


class Settings(dict):
    """Hyper-parameters, as Lightning and OmegaConf pickle them."""


def test_objects_beside_weights_are_left_out_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "state_dict": {"a": torch.ones(2)},
        "hyper_parameters": Settings(rate=16000, inner=Settings()),
        "class": Settings,
        "score": np.float64(1.5),
        "path": Path("x"),
        "defaults": collections.defaultdict(list, a=[1]),
        "code": Runs(make_folder),
    }
    torch.save(content, tmp_path / "x.ckpt")
    weights = read_weights_file(tmp_path / "x.ckpt")
    assert torch.equal(weights["state_dict"]["a"], torch.ones(2))
    assert not (tmp_path / "was-here").exists()


def of_old_torch(path):
    torch.save({"a": Runs(os.mkdir)}, path, _use_new_zipfile_serialization=False)


def of_a_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")


def of_a_cut(path):
    torch.save({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:300])


def of_bytes(content):
    return lambda path: path.write_bytes(content)


def of_sound(path):
    soundfile.write(path, np.zeros(160), 16000, format="WAV")


def of_system_calls(path):
    torch.save({"a": Runs(os.mkdir)}, path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 279000000\n"
FOREIGN = {
    "wav": (of_sound, "a wav recording"),
    "web page": (of_bytes(b"\n <!DOCTYPE html><html></html>"), "a web page"),
    "pointer": (of_bytes(POINTER), "git lfs pull"),
    "zip": (of_a_zip, "an archive; unpack it"),
    "gzip": (of_bytes(gzip.compress(b"x")), "an archive; unpack it"),
    "empty": (of_bytes(b""), "an empty file"),
    "folder": (Path.mkdir, "a folder"),
    "text": (of_bytes("Grüße\n".encode()), "a text file"),
    "array": (lambda path: np.save(path.open("wb"), np.zeros(2)), "an array of NumPy"),
    "cut short": (of_a_cut, "cut short"),
    "pickle": (of_bytes(pickle.dumps({"a": Settings()})), "pickled objects"),
    "system": (of_system_calls, "pickled objects"),
    "old": (of_old_torch, "pickled objects"),
    "noise": (of_bytes(np.random.default_rng(0).bytes(2000)), "damaged"),
    "damaged": (of_bytes(b"\x08" + b"\0" * 7 + b'{"a": 1}'), "damaged"),
    "TorchScript": (lambda path: torch.jit.script(torch.nn.ReLU()).save(path), "TorchScript"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_checkpoint_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, message = FOREIGN[name]
    path = tmp_path / "x.ckpt"
    make(path)
    with pytest.raises(DavssError, match=message) as error:
        read_weights_file(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text and "weights_only" not in text
    assert not (tmp_path / "was-here").exists()


def test_the_content_says_what_a_file_is(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.ckpt")
    assert list(read_weights_file(tmp_path / "x.ckpt")) == ["a"]
    torch.save({"a": torch.ones(2)}, tmp_path / "y.safetensors")
    with pytest.raises(DavssError, match="y.safetensors: a checkpoint of torch, .* rename it"):
        read_weights_file(tmp_path / "y.safetensors")
