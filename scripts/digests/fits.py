"""Training: recipes, and three steps of a small network of each family on the town."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_sets import prepared
from networks import INPUT_SIZE
from towns import clips
from values import Named, flat

# Together they cover every kind of network and every loss term.
_FAMILIES = (
    "alocc_2d_mini",
    "alocc_3d_depth",
    "alocc_flow_2d",
    "alocc_2d_gf",
    "bevdetocc_sf",
    "fbocc",
    "sparseocc",
    "alocc_town",
)


def jobs() -> dict[str, Any]:
    """Recipes, and a short run of each family."""
    return {"recipes": _recipes, **{f"fit/{name}": partial(_fit, name) for name in _FAMILIES}}


def _recipes(_scratch: Path) -> Named:
    from occ_training.recipes import RECIPES

    for name, recipe in RECIPES.items():
        yield from flat(recipe(), name)


def _fit(name: str, scratch: Path) -> Named:
    """Losses and learning rates of every step, gradients of the first, weights at the end."""
    import lightning.pytorch as pl
    import torch
    from occ_training.data.dataset import OccupancyDataset
    from occ_training.data.index import DatasetIndex
    from occ_training.fit import fit
    from occ_training.recipes import RECIPES
    from safetensors.torch import load_file

    from occ_perception.geometry import VoxelGrid
    from occ_perception.models.zoo import get_card

    class FirstGradients(pl.Callback):
        """Stores the gradients of the first step by parameter."""

        def __init__(self) -> None:
            self.found: dict[str, Any] = {}

        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            del trainer
            for key, parameter in pl_module.net.named_parameters():
                gradient = parameter.grad
                self.found.setdefault(key, None if gradient is None else gradient.clone())

    torch.use_deterministic_algorithms(True, warn_only=True)
    full = get_card(name).config.geometry.grid
    # SparseOcc needs whole blocks of 8; few of them, because it keeps thousands of voxels.
    columns = 16 if name == "sparseocc" else 50
    lower, size = (-0.8 * columns, -0.8 * columns, full.lower[2]), (1.6, 1.6, full.voxel_size[2])
    wide = VoxelGrid(lower, size, (columns, columns, full.dims[2]))
    card = get_card(name).resized(INPUT_SIZE, wide)
    # The town's labels have no ray mask, and those with flow have no camera mask either.
    recipe = replace(
        RECIPES[name](),
        ignore_unseen=None if name.startswith("alocc_flow") else "camera",
        steps=3,
        batch=2,
        history_from=0,
        workers=0,
        checkpoint_every=3,
        gate=None,
    )
    index = clips(scratch) if recipe.town else DatasetIndex.load(prepared())
    data = OccupancyDataset(index, card, recipe.sample_options(card))
    gradients, out = FirstGradients(), scratch / "run"
    weights = fit(
        recipe,
        data,
        out,
        card=card,
        accelerator="cpu",
        devices=1,
        callbacks=[gradients],
        log_every=1,
        progress=False,
    )
    yield from flat(gradients.found, "gradients")
    with (out / "logs/csv/metrics.csv").open() as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            for column, value in row.items():
                yield f"log/row{number}/{column}", value
    for key, tensor in load_file(weights).items():
        yield f"weights/{key}", tensor
