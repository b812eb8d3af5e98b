"""What a class costs a planner, and how high an obstacle stands: read from YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from occ_perception.errors import OccError
from occ_perception.labels import LABEL_SETS

HIGHEST_COST = 100
_DEFAULT = Path(__file__).parent / "costs.yaml"
_KEYS = ("band_m", "costs")


class CostRulesError(OccError):
    """A file of costs that cannot be used; the message says where and what was expected."""


@dataclass(frozen=True)
class CostRules:
    """Costs by class, and the band of heights that counts.

    Attributes:
        band_m: lower and upper end of the band above the local ground, metres. Things that lie
            lower are driven over, things that hang higher are passed under.
        costs: class name to cost, 0 to 100; a class that is not named costs 100.
    """

    band_m: tuple[float, float]
    costs: Mapping[str, int]

    def table(self, class_names: tuple[str, ...], empty_class: int) -> NDArray[np.int8]:
        """(256,) int8 cost by class id; 0 for free space, 100 for ids without a name."""
        table = np.full(256, HIGHEST_COST, np.int8)
        for number, name in enumerate(class_names):
            table[number] = self.costs.get(name, HIGHEST_COST)
        table[empty_class] = 0
        return table


def load_cost_rules(path: str | Path | None = None) -> CostRules:
    """Read rules from a YAML file; None = the rules of this package.

    Raises:
        CostRulesError: the file cannot be read or has wrong contents.
    """
    path = Path(path or _DEFAULT)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CostRulesError(
            f"{path}: cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        raise CostRulesError(
            f"{path}: expected the keys {' and '.join(_KEYS)}, got {_shown(content)}"
        )
    return CostRules(_band(path, content["band_m"]), _costs(path, content["costs"]))


def _band(path: Path, value: Any) -> tuple[float, float]:
    is_pair = isinstance(value, list) and len(value) == 2
    if not is_pair or not all(_is_number(end) for end in value) or not value[0] < value[1]:
        raise CostRulesError(
            f"{path}: band_m is {value!r}, expected the lower and the upper end in metres, "
            "such as [0.3, 2.2]"
        )
    return float(value[0]), float(value[1])


def _costs(path: Path, value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise CostRulesError(f"{path}: costs is {value!r}, expected class names with their costs")
    known = {name for labels in LABEL_SETS.values() for name in labels.class_names}
    for name, cost in value.items():
        if name not in known:
            raise CostRulesError(
                f"{path}: costs names {name!r}, expected one of {', '.join(sorted(known))}"
            )
        if not isinstance(cost, int) or isinstance(cost, bool) or not 0 <= cost <= HIGHEST_COST:
            raise CostRulesError(
                f"{path}: the cost of {name} is {cost!r}, expected a whole number from 0 to "
                f"{HIGHEST_COST}"
            )
    return dict(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
