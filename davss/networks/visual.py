"""The visual encoders and how shards and priors name them.

A folder with lips names the encoder that made them: `eigenlips.safetensors` and
`lipsound.safetensors` are those encoders themselves, `braven.json` says which checkpoint of BRAVEn
is needed, by its sha256, for it has 1.4 GB.
V video frames, D feature size.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from davss.errors import DavssError
from davss.networks.braven import BRAVEn
from davss.networks.eigenlips import Eigenlips, VisualEncoder
from davss.networks.lipsound import LipSound
from davss.networks.weights import read_weights_file
from davss.storage import publish, sha256

EIGENLIPS, LIPSOUND, BRAVEN = "eigenlips.safetensors", "lipsound.safetensors", "braven.json"
ENCODER_FILES = {"eigenlips": EIGENLIPS, "lipsound": LIPSOUND, "braven": BRAVEN}
# Frames squared of the longest clip times clips: 16 heads' float32 scores of a batch take 512 MB.
BATCH_SCORES = 8_000_000
_SIZES = ("attention_dim", "attention_heads", "linear_units", "num_blocks")


@dataclass(frozen=True)
class BravenLips:
    """BRAVEn as a visual encoder: the sha256 of its checkpoint, its sizes, and the checkpoint,
    which may be absent where no features are made. It is loaded when first used, once a process,
    on a GPU if there is one.
    """

    sha256: str
    attention_dim: int
    attention_heads: int
    linear_units: int
    num_blocks: int
    checkpoint: Path | None = None

    @classmethod
    def of(cls, checkpoint: str | Path) -> BravenLips:
        """The encoder of a public checkpoint, whose sizes say which it is.

        Raises DavssError for a missing file and for anything that is not BRAVEn.
        """
        path = Path(checkpoint).resolve()
        weights = read_checkpoint(path)
        try:
            sizes = _sizes(weights)
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nothing is copied, for it is checked only
                BRAVEn(**sizes).load_public(weights)
        except DavssError as error:
            raise DavssError(f"{path}: {error}") from None
        return cls(sha256(path), **sizes, checkpoint=path)

    @property
    def dim(self) -> int:
        """Feature size D."""
        return self.attention_dim

    def at(self, checkpoint: str | Path) -> BravenLips:
        """The same encoder with its checkpoint; DavssError if the file is another one."""
        path = Path(checkpoint).resolve()
        if not path.is_file():
            raise DavssError(f"{path}: no such checkpoint of BRAVEn; correct the path")
        found = sha256(path)
        if found != self.sha256:
            raise DavssError(
                f"{path}: sha256 {found[:12]}…, but the lips are of the checkpoint with "
                f"{self.sha256[:12]}…; give that one"
            )
        return replace(self, checkpoint=path)

    def __call__(self, mouth: np.ndarray) -> np.ndarray:
        """Features float32 (V, D), with float16's precision, of mouth crops uint8 (V, 96, 96)."""
        return self.batch([mouth])[0]

    def batch(self, mouths: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same for several clips of any lengths, as many at a time as memory allows."""
        if self.checkpoint is None:
            raise DavssError(
                f"lips are features of BRAVEn's checkpoint with sha256 {self.sha256[:12]}…; give "
                "that file: --visual-encoder PATH"
            )
        network = _network(self)
        features: list[np.ndarray] = [np.empty(0)] * len(mouths)
        for group in groups([len(mouth) for mouth in mouths]):
            made = network.encode_batch([mouths[index] for index in group])
            for index, one in zip(group, made, strict=True):
                features[index] = one.astype(np.float32)
        return features


def groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of clips that share a batch: alike in length, and few if they are long."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    group: list[int] = []
    for index in order:
        if group and (len(group) + 1) * lengths[group[0]] ** 2 > BATCH_SCORES:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def read_checkpoint(path: Path) -> Mapping[str, torch.Tensor]:
    """Weights in a `.safetensors` file or one of torch's; code in it is never run."""
    weights = read_weights_file(path)
    if not isinstance(weights, Mapping):
        raise DavssError(f"{path}: not a checkpoint of weights alone; give BRAVEn's, unchanged")
    return weights


def save_visual_encoder(encoder: VisualEncoder, folder: Path) -> None:
    """Write what names `encoder` into `folder`."""
    if isinstance(encoder, Eigenlips | LipSound):
        name = EIGENLIPS if isinstance(encoder, Eigenlips) else LIPSOUND
        encoder.save(folder / name)
        return
    assert isinstance(encoder, BravenLips)
    facts = asdict(encoder)
    del facts["checkpoint"]  # a path of this machine
    with publish(folder / BRAVEN) as temporary:
        temporary.write_text(json.dumps({"kind": "braven", **facts}, indent=2) + "\n")


def encoder_file(folder: Path) -> Path | None:
    """The file by which `folder` names its visual encoder, if there is one."""
    files = (folder / name for name in ENCODER_FILES.values())
    return next((file for file in files if file.is_file()), None)


def load_visual_encoder(folder: Path) -> Eigenlips | LipSound | BravenLips:
    """The encoder that `folder` names; DavssError when it names none."""
    if (folder / LIPSOUND).is_file():
        return LipSound.load(folder / LIPSOUND)
    if not (folder / BRAVEN).is_file():
        return Eigenlips.load(folder / EIGENLIPS)
    try:
        facts = json.loads((folder / BRAVEN).read_text())
        sizes = {name: int(facts[name]) for name in _SIZES}
        return BravenLips(str(facts["sha256"]), **sizes, checkpoint=None)
    except (ValueError, KeyError, TypeError):
        raise DavssError(f"{folder / BRAVEN}: does not describe BRAVEn; make it anew") from None


@functools.lru_cache(maxsize=1)
def _network(encoder: BravenLips) -> BRAVEn:
    assert encoder.checkpoint is not None
    encoder.at(encoder.checkpoint)  # on this machine the path may hold another file
    network = BRAVEn(**{name: getattr(encoder, name) for name in _SIZES})
    network.load_public(read_checkpoint(encoder.checkpoint))
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


def _sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Arguments of BRAVEn that fit the shapes of a checkpoint, as far as it is one."""
    blocks, sizes = set(), {"attention_dim": 0, "attention_heads": 0, "linear_units": 0}
    for name, value in weights.items():
        _, _, layer = name.rpartition("encoders.")
        number, _, rest = layer.partition(".")
        if not number.isdigit() or "decoder" in name:
            continue
        blocks.add(int(number))
        if rest == "self_attn.pos_bias_u":
            sizes["attention_heads"] = value.shape[0]
            sizes["attention_dim"] = value.shape[0] * value.shape[1]
        elif rest == "feed_forward.w_1.bias":
            sizes["linear_units"] = value.shape[0]
    if not blocks or not all(sizes.values()):
        raise DavssError("has no layers of a transformer encoder; is it BRAVEn?")
    return {**sizes, "num_blocks": len(blocks)}
