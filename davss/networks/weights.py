"""Files of weights that come from elsewhere, read without running code that is in them."""

import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from davss.errors import DavssError
from davss.storage.kinds import kind_of


class _Object:
    """In place of an object that is no weight: whatever it is given, it does nothing."""

    def __new__(cls, *_: Any) -> Any:
        return Counter()  # one of the few types that torch lets objects put items into


class _NumpyObject:
    """The same for numpy's types, which are built of tuples and have no items."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def read_weights_file(path: Path) -> Any:
    """What a `.safetensors` file or one of torch's holds, on the CPU. Objects that are neither
    weights nor plain values (settings, classes of other packages) are left out, and no code of the
    file is run.

    Raises DavssError saying what the file is if it is neither.
    """
    if not path.is_file():
        found = "a folder; give a file" if path.is_dir() else "no such file; correct the path"
        raise DavssError(f"{path}: {found}")
    members = _members(path)
    archived = "data.pkl" in members and "constants.pkl" not in members  # which TorchScript has
    if archived and path.suffix == ".safetensors":  # torch would go by the name
        raise DavssError(f"{path}: a checkpoint of torch, not .safetensors; rename it")
    try:
        if _starts_like_safetensors(path):
            return load_file(path)
        if archived:
            with safe_globals(_stand_ins(path)):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if kind_of(path) is None:  # perhaps a file of torch before 1.6
            with warnings.catch_warnings(action="ignore"):
                return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise DavssError(f"{path}: damaged ({error}); get it again") from None
    except Exception:  # a damaged pickle raises anything
        raise DavssError(
            f"{path}: cannot be read as a checkpoint: damaged, or with pickled objects, which can "
            "run code and are not loaded; get it again, or save its state_dict alone"
        ) from None
    if "constants.pkl" in members:
        raise DavssError(f"{path}: a TorchScript program; give the state_dict it was made from")
    raise DavssError(f"{path}: not a checkpoint of torch or .safetensors but {kind_of(path)}")


def _starts_like_safetensors(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(9)[8:] == b"{"


def _members(path: Path) -> set[str]:
    """Files of an archive, without the folder that torch puts them in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.partition("/")[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return set()


def _stand_ins(path: Path) -> list[Any]:
    names = get_unsafe_globals_in_checkpoint(path)
    return [(_NumpyObject if name.startswith("numpy.") else _Object, name) for name in names]
