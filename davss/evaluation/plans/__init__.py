"""Plans of trials, a module each: `plan(material)` says what is separated and how, `table(rows,
config)` what came of it, and `plot(figure, table)` draws that.

`rows` are those of `davss.evaluation.scoring`. A table has `who`, the speakers it is about: those
that no prior was trained on and those one was are never averaged (`davss.evaluation.statistics`).
"""

from __future__ import annotations

from types import ModuleType

from davss.config import ExperimentName
from davss.evaluation.plans import (
    conditions,
    cost,
    lips,
    noise_models,
    quality,
    robust_lips,
    robust_sound,
)

PLANS: dict[ExperimentName, ModuleType] = {
    "noise_models": noise_models,
    "lips": lips,
    "conditions": conditions,
    "cost": cost,
    "quality": quality,
    "robust_sound": robust_sound,
    "robust_lips": robust_lips,
}
