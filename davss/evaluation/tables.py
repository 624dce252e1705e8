"""Tables of scores as markdown."""

from __future__ import annotations

import math
from typing import Any

import pandas

HEADS = {
    "speakers": "K",
    "who": "speakers",
    "snr_db": "input SNR (dB)",
    "si_sdr": "SI-SDR (dB)",
    "si_sdr_mixture": "mixture (dB)",
    "si_sdri": "SI-SDRi (dB)",
    "diffusion_minus": "diffusion − this (dB)",
    "assigned_right": "assignment right",
    "si_sdr_better": "better assignment (dB)",
    "si_sdr_1": "source 1 (dB)",
    "si_sdr_2": "source 2 (dB)",
    "right_minus": "right − this (dB)",
    "lost": "lost (dB)",
    "lost_to_noise": "lost to the noise (dB)",
    "lost_to_prior": "lost to the prior (dB)",
    "seconds": "s / mixture",
}


def markdown(table: pandas.DataFrame) -> str:
    """A table in markdown; columns that end in _ci stand beside their means, ± half an
    interval.
    """
    shown = [
        name for name in table if not str(name).endswith(("_ci", "assigned_low", "assigned_high"))
    ]
    lines = ["| " + " | ".join(HEADS.get(str(name), str(name)) for name in shown) + " |"]
    lines.append("|---" * len(shown) + "|")
    for line in table.to_dict("records"):
        lines.append("| " + " | ".join(_cell(str(name), line) for name in shown) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, line: dict[Any, Any]) -> str:
    value = line[name]
    if name == "assigned_right" and not math.isnan(value):
        low, high = line["assigned_low"], line["assigned_high"]
        return f"{value:.1%} ({low:.1%} … {high:.1%})"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return ""
    half = line.get(f"{name}_ci", math.nan)
    if name == "snr_db":
        return f"{value:g}"
    text = f"{value:.2f}" if math.isnan(half) else f"{value:.2f} ± {half:.2f}"
    return text.replace("-", "−")
