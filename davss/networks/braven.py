"""BRAVEn's visual encoder (Haliassos et al., arXiv 2404.02098; its architecture is RAVEn's, arXiv
2212.06246): mouth crops at 25 fps → lip features (docs/method.md §8; 339.28 M parameters at Large).

It is used frozen: its parameters ask for no gradient and it stays in evaluation mode. Clips of
different length share a batch, and what is behind the end of a clip never reaches its features.
Module names are those of public checkpoints, so that these load by name.

Shapes: B batch · V video frames · D attention_dim · H heads · C channels · S frames of all clips.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from davss.errors import DavssError
from davss.media import CROP

FRAME_SIZE = 88  # the centre of mouth crops, what the network sees
MEAN, STD = 0.421, 0.165  # of grey values in [0, 1]
CHUNK = 64  # frames that pass the convolutions at once: about 200 MB, whatever the clips' length
HALO = 2  # frames on either side that the first convolution sees


def preprocess(crops: np.ndarray) -> Tensor:
    """Mouth crops uint8 (V, 96, 96) → float32 (V, 88, 88): centre crop, (x/255 − 0.421)/0.165.

    Raises DavssError for any other shape or type, or no frames.
    """
    square = crops.ndim == 3 and crops.shape[1:] == (CROP, CROP)
    if not square or crops.dtype != np.uint8 or len(crops) == 0:
        raise DavssError(
            f"mouth crops of shape {crops.shape}, {crops.dtype}; expected "
            f"(V, {CROP}, {CROP}), uint8, at least one frame"
        )
    centre = slice((CROP - FRAME_SIZE) // 2, (CROP + FRAME_SIZE) // 2)
    grey = crops[:, centre, centre].astype(np.float32) / 255
    return torch.from_numpy((grey - MEAN) / STD)


class BasicBlock(nn.Module):
    """Residual block of ResNet-18 with SiLU: (S, c_in, h, w) → (S, c_out, h/stride, w/stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.bn1(self.conv1(x)))
        return F.silu(self.bn2(self.conv2(h)) + self.downsample(x))


class Trunk(nn.Module):
    """ResNet-18 without its stem, frame by frame: (S, 64, 22, 22) → (S, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))


class Frontend(nn.Module):
    """Convolutions over five frames, then the trunk: frames → one vector each."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.frontend3D = nn.Sequential(
            # no padding in time: it is in the strip below
            nn.Conv3d(1, 64, (2 * HALO + 1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            nn.SiLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
        )

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, V, 88, 88), valid (B, V) → (B, V, 512), zero where not valid."""
        # The clips lie end to end in one strip, two blank frames between them: the zero padding
        # that each would see alone. Chunks fill up whatever the lengths; the trunk sees no padding.
        within = F.pad(valid, (HALO, 0), value=True)  # a clip and the blank frames behind it
        x = x.masked_fill(~valid[..., None, None], 0)
        strip = F.pad(F.pad(x, (0, 0, 0, 0, 0, HALO))[within], (0, 0, 0, 0, HALO, 0))
        wanted = F.pad(valid, (0, HALO))[within][:-HALO]
        pieces = []
        for start in range(0, len(wanted), CHUNK):
            piece = strip[start : start + CHUNK + 2 * HALO]
            h = self.frontend3D(piece[None, None])[0].transpose(0, 1)  # (≤ CHUNK, 64, 22, 22)
            pieces.append(self.trunk(h[wanted[start : start + CHUNK]]))
        features = pieces[0].new_zeros(*valid.shape, 512)  # pieces[0]: the dtype under autocast
        features[valid] = torch.cat(pieces)
        return features


class RelativeAttention(nn.Module):
    """Multi-head self-attention with relative positions (Dai et al., Transformer-XL, arXiv
    1901.02860, §3.3): each head scores content and distance.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.pos_bias_u = nn.Parameter(torch.zeros(num_heads, size // num_heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(num_heads, size // num_heads))
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.linear_pos = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """(B, V, D), embedded distances (2V − 1, D), valid keys (B, V) → (B, V, D)."""
        q, k, v = (self._heads(f(x)) for f in (self.linear_q, self.linear_k, self.linear_v))
        distances = self._heads(self.linear_pos(positions))  # (H, 2V − 1, D/H)
        scores = (q + self.pos_bias_v[:, None]) @ distances.transpose(-2, -1)  # (B, H, V, 2V − 1)
        # query i and key j are i − j apart, which is row V − 1 − i + j of `positions`
        frames = torch.arange(x.shape[1], device=x.device)
        row = x.shape[1] - 1 - frames[:, None] + frames
        scores = scores.gather(-1, row.expand(*scores.shape[:2], -1, -1)) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~valid[:, None, None], -math.inf)
        h = F.scaled_dot_product_attention(q + self.pos_bias_u[:, None], k, v, attn_mask=scores)
        return self.linear_out(h.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:  # (…, V, D) → (…, H, V, D/H)
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, (…, D) → (…, D)."""

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(size, hidden)
        self.w_2 = nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.relu(self.w_1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer with LayerScale; before the feed-forward it is a BatchNorm."""

    def __init__(self, size: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.gamma_ff = nn.Parameter(torch.ones(size))
        self.gamma_mha = nn.Parameter(torch.ones(size))
        self.self_attn = RelativeAttention(size, num_heads)
        self.feed_forward = FeedForward(size, hidden)
        self.norm_ff = nn.BatchNorm1d(size)
        self.norm_mha = nn.LayerNorm(size, eps=1e-12)

    def forward(self, x: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        x = x + self.gamma_mha * self.self_attn(self.norm_mha(x), positions, valid)
        h = self.norm_ff(x.transpose(1, 2)).transpose(1, 2)
        return x + self.gamma_ff * self.feed_forward(h)


class BRAVEn(nn.Module):
    """The visual encoder: normalised grey frames (B, V, 88, 88) → features (B, V, D).

    attention_dim: feature size D, also `dim`; attention_heads: heads of D/H channels each;
    linear_units: hidden units of the feed-forwards; num_blocks: transformer layers.
    The defaults are BRAVEn Large.
    """

    def __init__(
        self,
        attention_dim: int = 1024,
        attention_heads: int = 16,
        linear_units: int = 4096,
        num_blocks: int = 24,
    ) -> None:
        super().__init__()
        if attention_dim % attention_heads or attention_dim % 2:
            raise DavssError(
                f"attention_dim = {attention_dim}: must be even and a multiple of attention_heads"
            )
        self.dim = attention_dim
        self.frontend = Frontend()
        self.embed = nn.Sequential(nn.Linear(512, attention_dim))
        self.encoders = nn.ModuleList(
            EncoderLayer(attention_dim, attention_heads, linear_units) for _ in range(num_blocks)
        )
        self.after_norm = nn.LayerNorm(attention_dim, eps=1e-12)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "BRAVEn":
        """Stay in evaluation mode, also as a part of a module in training: it is frozen."""
        return super().train(False)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, V, 88, 88) as `preprocess` makes them → (B, V, D).

        lengths: (B,) frames of each clip, or None where all have V. Frames behind a clip's end are
        ignored, whatever they hold, and their features are zero.
        Raises DavssError for another frame size or lengths outside 1…V.
        """
        if x.ndim != 4 or x.shape[2:] != (FRAME_SIZE, FRAME_SIZE) or 0 in x.shape:
            raise DavssError(f"frames of shape {tuple(x.shape)}; expected (B, V, 88, 88)")
        valid = _valid(lengths, x)
        h = self.embed(self.frontend(x, valid)) * math.sqrt(self.dim)
        positions = _positions(x.shape[1], self.dim).to(h.dtype).to(h.device)
        for layer in self.encoders:
            h = layer(h, positions, valid)
        return self.after_norm(h).masked_fill(~valid[..., None], 0)

    def encode(self, crops: np.ndarray) -> np.ndarray:
        """Mouth crops uint8 (V, 96, 96) → features float16 (V, D)."""
        return self.encode_batch([crops])[0]

    @torch.inference_mode()
    def encode_batch(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Mouth crops uint8 (V, 96, 96) of clips of any lengths → features float16 (V, D) each, in
        one batch on this module's device. Attention needs memory B·H·V² for the longest V.
        """
        if not clips:
            return []
        frames = [preprocess(crops) for crops in clips]
        x = pad_sequence(frames, batch_first=True).to(self.after_norm.weight)
        features = self(x, torch.tensor([len(clip) for clip in frames]))
        batch = features.to(torch.float16).cpu().numpy()
        return [batch[b, : len(clip)].copy() for b, clip in enumerate(frames)]

    def load_public(self, state_dict: Mapping[str, Tensor]) -> "BRAVEn":
        """Load weights with the names of public checkpoints: the encoder alone or within a whole
        model (`encoder.…`), whose `decoder.` and `ctc.` are dropped; old and new names.

        Raises DavssError naming the first unknown, misshapen or missing parameter.
        """
        own = self.state_dict()
        weights: dict[str, Tensor] = {}
        for name, (key, value) in _own_names(state_dict).items():
            if name not in own:
                raise DavssError(f"checkpoint: unknown parameter '{key}'; is it BRAVEn?")
            if value.shape != own[name].shape:
                raise DavssError(
                    f"checkpoint: '{key}' has shape {tuple(value.shape)}, this network "
                    f"{tuple(own[name].shape)}; give attention_dim … num_blocks of the checkpoint"
                )
            weights[name] = value
        missing = next((name for name in own if name not in weights), None)
        if missing:
            raise DavssError(f"checkpoint: parameter '{missing}' is missing; is it BRAVEn?")
        self.load_state_dict(weights)
        return self


def _valid(lengths: Tensor | None, x: Tensor) -> Tensor:
    """(B,) or None → (B, V): which frames of `x` (B, V, …) are a clip's own."""
    batch, num_frames = x.shape[:2]
    if lengths is None:
        return torch.ones(batch, num_frames, dtype=torch.bool, device=x.device)
    if lengths.shape != (batch,) or lengths.min() < 1 or lengths.max() > num_frames:
        raise DavssError(
            f"lengths {lengths.tolist()}; expected {batch}, each from 1 to {num_frames} frames"
        )
    return torch.arange(num_frames, device=x.device) < lengths.to(x.device)[:, None]


def _positions(num_frames: int, size: int) -> Tensor:
    """Sinusoids of the distances V − 1 … 1 − V, sine and cosine in turn: float64 (2V − 1, size)."""
    distances = torch.arange(num_frames - 1, -num_frames, -1, dtype=torch.float64)
    frequencies = 10000 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = distances[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _own_names(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Parameters of a public checkpoint under this module's names, each with the key it had."""
    found = (re.match(r"((?:.*\.)?)frontend\.", key) for key in state_dict)
    encoder = next((match[1] for match in found if match), "")
    model = re.sub(r"(^|\.)encoder\.$", r"\1", encoder)
    renamed: dict[str, tuple[str, Tensor]] = {}
    for key, value in state_dict.items():
        if key.startswith((f"{model}decoder.", f"{model}ctc.")):
            continue  # what fine-tuning added
        name = re.sub(r"^input_layer\.", "embed.", key.removeprefix(encoder))
        name = re.sub(r"^norm\.", "after_norm.", name)
        # a second encoder, or an old name beside the new one, is not for us to choose from
        if not key.startswith(encoder) or name in renamed:
            raise DavssError(f"checkpoint: unknown parameter '{key}'; is it BRAVEn?")
        renamed[name] = (key, value)
    return renamed
