"""The noise prior, NMF, a Gaussian, none and AV-UDiffSE, at every SNR, for one and two speakers,
and on the mixtures of one speaker the supervised peers that are installed.
"""

from __future__ import annotations

from typing import Any

import pandas
from matplotlib.figure import Figure

from davss.config import ExperimentConfig, UdiffseConfig
from davss.evaluation.material import Material, by_turns, make_row
from davss.evaluation.mixtures import IN_VIEW, OFF_SCREEN
from davss.evaluation.plots import SI_SDR, row_of_axes
from davss.evaluation.statistics import columns, difference, figures, per_mixture, strata
from davss.evaluation.trials import UNTRAINED, Arm, Trial, cross
from davss.posterior.noise_models import fft_size


def plan(material: Material) -> list[Trial]:
    """One speaker in view or off-screen by turns; one in view with one off-screen."""
    config = material.config
    arms = [Arm(model, model, material.sampler) for model in (config.noise, *UNTRAINED)]
    rate, weight = material.speech.sample_rate, material.sampler.guidance_weight
    # a sampler of its own, which models the noise itself
    adapted = UdiffseConfig(guidance_weight=weight, noise_n_fft=fft_size(rate))
    arms.append(Arm("udiffse", "none", adapted))
    rows = [
        make_row(material, f"k{count}-snr{snr_db:g}", index, pools, snr_db=snr_db, deal=count)
        for count in config.num_speakers
        for snr_db in config.snr_db
        for index in range(config.mixtures)
        for pools in [[IN_VIEW, OFF_SCREEN] if count == 2 else [by_turns(index)]]
    ]
    # What they are given belongs to the figure: without their upper band some are worse.
    khz = rate / 1000
    peers = [
        Arm(f"{peer}, given {khz:g} kHz", peer, None, "none", peer=peer) for peer in material.peers
    ]
    return cross(arms, rows) + cross(peers, [row for row in rows if row["num_speakers"] == 1])


def table(rows: pandas.DataFrame, config: ExperimentConfig) -> pandas.DataFrame:
    """Per number of speakers, SNR and model: SI-SDR, what is gained, and how much better the
    diffusion prior is on the same mixtures.
    """
    lines = []
    for (count, snr_db), cell in rows.groupby(["num_speakers", "snr_db"]):
        for who, own in strata(cell):
            best = per_mixture(own[own.arm == config.noise])
            for arm, some in own.groupby("arm", sort=False):
                line: dict[str, Any] = {"speakers": count, "snr_db": snr_db, "who": who}
                line |= {"model": arm, **figures(some)}
                if arm != config.noise:
                    line |= columns("diffusion_minus", difference(best, per_mixture(some)))
                lines.append(line)
    return pandas.DataFrame(lines)


def plot(figure: Figure, table: pandas.DataFrame) -> None:
    """SI-SDR against input SNR, a panel per number of speakers, a line per model."""
    counts = sorted(set(table.speakers))
    for axes, count in zip(row_of_axes(figure, len(counts)), counts, strict=True):
        own = table[table.speakers == count]
        own = own[own.who == own.who.iloc[0]]  # the headline is the first
        for model, line in own.groupby("model", sort=False):
            axes.errorbar(
                line.snr_db, line.si_sdr, line.si_sdr_ci, fmt="o-", capsize=3, ms=4, label=model
            )
        mixture = own.groupby("snr_db").si_sdr_mixture.mean()
        axes.plot(mixture.index, mixture, "k:", label="mixture")
        axes.set_title(f"K = {count}, {own.who.iloc[0]} speakers")
        axes.set_xlabel("input SNR (dB)")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(SI_SDR)
    # One speaker comes first, and has the peers too.
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=8, frameon=False, loc="outside right upper")
