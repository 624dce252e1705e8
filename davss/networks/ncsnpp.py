"""NCSN++M: the U-Net on complex spectrograms behind both priors (docs/method.md §7; 27.7 M
parameters at nf 128).

A waveform goes in and a waveform comes out; the STFT is inside. Modules are kept in one flat list,
`all_modules`, in the order of public checkpoints (BUDDy, StoRM, SGMSE), so that these load by name.

Shapes: B batch · T samples · F bins · N frames · V video frames · D visual feature size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from davss.errors import DavssError
from davss.networks import layers
from davss.networks.film import FiLM, Modulations, modulate
from davss.networks.inverse import inverse_stft

FRAME_MULTIPLE = 16


class NCSNpp(nn.Module):
    """The network F of the preconditioned denoiser: (B, 1, T), c_noise (B,) → (B, 1, T).

    nf: channels at full resolution; ch_mult: their multiples per level, each level halving bins
    and frames;
    n_fft, hop_length: STFT in samples (n_fft/2 + 1 bins, a multiple of 2^(levels−1));
    film_dim: size D of the lip features, or None for a network without lips;
    fourier_scale: standard deviation of the noise embedding's random frequencies;
    spectral: no part of public checkpoints. The network also sees, for every bin, its place on the
    frequency axis, its log power and the mean log power over time, and its output has a real gain
    for each bin of the input beside Re and Im. A Wiener filter is then within easy reach;
    coloured: it is also told of each bin how loud the noise is, or what is expected beside it.
    """

    def __init__(
        self,
        nf: int = 128,
        ch_mult: tuple[int, ...] = (1, 2, 2, 2),
        n_fft: int = 510,
        hop_length: int = 128,
        film_dim: int | None = None,
        fourier_scale: float = 16.0,
        spectral: bool = False,
        coloured: bool = False,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.num_levels = n_fft, hop_length, len(ch_mult)
        self.spectral, self.coloured = spectral, coloured
        if n_fft % 2 or (n_fft // 2 + 1) % 2 ** (self.num_levels - 1):
            raise DavssError(
                f"network.n_fft = {n_fft}: {len(ch_mult)} levels need n_fft/2 + 1 to be a multiple "
                f"of {2 ** (self.num_levels - 1)}; 254 and 510 are"
            )
        self.checkpointing = False  # less memory for a backward, at the cost of a second forward
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        channels = [nf * m for m in ch_mult]
        self.all_modules = nn.ModuleList(self._embedding(nf, fourier_scale))
        skips = self._add_encoder(channels, 4 * nf)
        self._add_decoder(channels, 4 * nf, skips)
        self.output_layer = layers.conv(self._outputs, self._outputs, 1)
        # one conditioned block per level down, the bottleneck, one per level up
        sites = [*channels, channels[-1], *reversed(channels)]
        levels = [*range(self.num_levels), self.num_levels - 1, *reversed(range(self.num_levels))]
        self.film = FiLM(film_dim, sites, levels) if film_dim else None

    @property
    def num_inputs(self) -> int:
        """Channels that the U-Net sees."""
        return 2 + layers.SPECTRAL_CHANNELS * self.spectral + self.coloured

    @property
    def num_bins(self) -> int:
        """F."""
        return self.n_fft // 2 + 1

    @property
    def _outputs(self) -> int:
        return 3 if self.spectral else 2

    @staticmethod
    def _embedding(nf: int, scale: float) -> list[nn.Module]:
        size = 4 * nf
        return [
            layers.FourierFeatures(nf, scale),
            layers.linear(2 * nf, size),
            layers.linear(size, size),
        ]

    def _add_encoder(self, channels: list[int], embedding: int) -> list[int]:
        add = self.all_modules.append
        c = channels[0]
        add(layers.conv(self.num_inputs, c, 3))
        skips = [c]
        for level, c_out in enumerate(channels):
            add(layers.ResnetBlock(c, c_out, embedding))
            c = c_out
            skips.append(c)
            if level < self.num_levels - 1:
                add(layers.ResnetBlock(c, c, embedding, layers.downsample))
                add(layers.Combine(self.num_inputs, c))
                skips.append(c)
        add(layers.ResnetBlock(c, c, embedding))
        add(layers.AttentionBlock(c))
        add(layers.ResnetBlock(c, c, embedding))
        return skips

    def _add_decoder(self, channels: list[int], embedding: int, skips: list[int]) -> None:
        add = self.all_modules.append
        c = channels[-1]
        for level in reversed(range(self.num_levels)):
            for _ in range(2):
                add(layers.ResnetBlock(c + skips.pop(), channels[level], embedding))
                c = channels[level]
            add(layers.group_norm(c))
            add(layers.conv(c, self._outputs, 3, layers.ZERO_INIT))
            if level > 0:
                add(layers.ResnetBlock(c, c, embedding, layers.upsample))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        lips: Tensor | Modulations | None = None,
    ) -> Tensor:
        """(B, 1, T) scaled waveform, (B,) noise-level label → (B, 1, T).

        lips: (B, V, D), None for the null condition, or what `condition` made of them.
        """
        modulations = lips if isinstance(lips, list) else self.condition(lips, x.shape[-1])
        # padded frames stay: public checkpoints were trained with their contribution to the last
        # window
        h = self.on_spectrogram(self.stft(x[:, 0]), c_noise, modulations)
        return self.istft(h.to(x.dtype), x.shape[-1])[:, None]

    def on_spectrogram(
        self,
        spectrogram: Tensor,
        c_noise: Tensor,
        modulations: Modulations,
        colour: Tensor | None = None,
    ) -> Tensor:
        """(B, 2, F, N) → (B, 2, F, N), its frames padded to a multiple of 16.

        colour: (B, 1, F, N or 1) for `coloured`, what it is told of each bin.
        """
        padding = (0, -spectrogram.shape[-1] % FRAME_MULTIPLE, 0, 0)
        h = inputs = F.pad(spectrogram, padding)
        if self.spectral:
            # conditions, as σ is: through their logarithms a sampler's gradient goes astray where a
            # bin is quiet (docs/method.md §7)
            features = layers.spectral_features(spectrogram.detach())
            inputs = torch.cat([h, F.pad(features, padding, mode="replicate")], dim=1)
        if colour is not None:
            told = colour.expand(-1, -1, h.shape[2], spectrogram.shape[-1])
            inputs = torch.cat([inputs, F.pad(told, padding, mode="replicate")], dim=1)
        out = self._unet(inputs, c_noise, modulations)
        return out[:, :2] + out[:, 2:] * h if self.spectral else out

    def condition(
        self, lips: Tensor | None, num_samples: int, has_lips: Tensor | None = None
    ) -> Modulations:
        """FiLM's scales and shifts for signals of `num_samples`; they depend on the lips only, so a
        sampler computes them once. Empty for a network without lips.

        lips: (B, V, D), or None for the null condition; has_lips: (B,) bool, items that are False
        get the null condition.
        """
        if self.film is None:
            return []
        frames = num_samples // self.hop_length + 1
        return self.film(lips, has_lips, frames, frames + -frames % FRAME_MULTIPLE)

    def _unet(self, x: Tensor, c_noise: Tensor, modulations: Modulations) -> Tensor:
        """(B, 2, F, N) → (B, 2, F, N), N a multiple of 16; with `spectral` 7 or 8 channels → 3."""
        film = iter(modulations)
        condition = (lambda h: modulate(h, *next(film))) if modulations else (lambda h: h)
        modules = (self._remembering(module) for module in self.all_modules)
        fourier, dense_0, dense_1, stem = (next(modules) for _ in range(4))
        embedding = dense_1(F.silu(dense_0(fourier(c_noise))))

        pyramid, h = x, stem(x)
        skips = [h]
        for level in range(self.num_levels):
            h = condition(next(modules)(h, embedding))
            skips.append(h)
            if level < self.num_levels - 1:
                h = next(modules)(h, embedding)
                pyramid = layers.downsample(pyramid)
                h = next(modules)(pyramid, h)
                skips.append(h)

        h = next(modules)(h, embedding)
        h = next(modules)(h)
        h = condition(next(modules)(h, embedding))

        output = None
        for level in reversed(range(self.num_levels)):
            h = next(modules)(torch.cat([h, skips.pop()], dim=1), embedding)
            h = condition(next(modules)(torch.cat([h, skips.pop()], dim=1), embedding))
            norm, to_output = next(modules), next(modules)
            contribution = to_output(F.silu(norm(h)))
            output = contribution if output is None else layers.upsample(output) + contribution
            if level > 0:
                h = next(modules)(h, embedding)
        return self.output_layer(output)

    def compile_unet(self) -> None:
        """Compile all but the STFTs with torch.compile, at the first call of each shape."""
        self._unet = torch.compile(self._unet)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: it compiles for itself."""
        return {name: value for name, value in super().__getstate__().items() if name != "_unet"}

    def _remembering(self, module: nn.Module) -> Callable[..., Tensor]:
        """The module, or one that keeps no activations for its backward but computes them again."""
        if self.checkpointing and torch.is_grad_enabled():
            return partial(checkpoint, module, use_reentrant=False)
        return module

    def stft(self, x: Tensor) -> Tensor:
        """(B, T) → (B, 2, F, N), real and imaginary part."""
        spectrogram = torch.stft(
            x, self.n_fft, self.hop_length, window=self.window, center=True, return_complex=True
        )
        return torch.view_as_real(spectrogram).permute(0, 3, 1, 2).contiguous()

    def istft(self, spectrogram: Tensor, length: int) -> Tensor:
        """(B, 2, F, N) → (B, T)."""
        z = torch.view_as_complex(spectrogram.permute(0, 2, 3, 1).contiguous())
        return inverse_stft(z, self.hop_length, self.window, length)

    def load_public(self, state_dict: Mapping[str, Tensor]) -> "NCSNpp":
        """Load weights with the names of public checkpoints (`all_modules.N…`, `output_layer…`);
        FiLM stays as it is.

        Raises DavssError naming the first missing, unknown or misshapen parameter.
        """
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("film.")}
        for name, value in state_dict.items():
            if name not in own:
                raise DavssError(f"checkpoint: unknown parameter '{name}'; is it an NCSN++M?")
            if value.shape != own[name].shape:
                raise DavssError(
                    f"checkpoint: '{name}' has shape {tuple(value.shape)}, this network "
                    f"{tuple(own[name].shape)}; give nf and ch_mult of the checkpoint"
                )
        missing = next((name for name in own if name not in state_dict), None)
        if missing:
            raise DavssError(f"checkpoint: parameter '{missing}' is missing; is it an NCSN++M?")
        self.load_state_dict(dict(state_dict), strict=False)
        return self
