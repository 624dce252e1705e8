"""Two sentences of one person in noise, told apart by the lips alone, with damaged pictures."""

from __future__ import annotations

from davss.evaluation.material import Material, make_row
from davss.evaluation.mixtures import IN_VIEW
from davss.evaluation.plans.robust_sound import damaged, plot, table
from davss.evaluation.trials import Trial

__all__ = ["plan", "plot", "table"]


def plan(material: Material) -> list[Trial]:
    """The mixtures of the plan `lips`, with every damage and without."""
    config = material.config
    rows = [
        make_row(material, "same", index, [IN_VIEW, IN_VIEW], snr_db=config.lips_snr_db)
        for index in range(config.mixtures)
    ]
    return damaged(material, rows, config.lips_damage)
