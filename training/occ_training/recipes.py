"""Recipes of the reference training runs, by the name of the model.

Values are those of the reference configurations: ALOcc (arXiv 2411.07725) with BEVDetOcc, FB-Occ
(arXiv 2307.01492) and GDFusion (arXiv 2504.12959) in OccStudio; for CausalOcc (arXiv 2509.08388)
and SparseOcc (arXiv 2312.17118) those of their authors. They are for 8 GPUs; a run with another
global batch needs another length, see :meth:`TrainingRecipe.lasting`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from occ_perception.models.extensions import installed_extensions
from occ_training.data.bev_augmentation import BevAugmentation
from occ_training.data.images import ImageAugmentation
from occ_training.losses.masks import MaskLossConfig
from occ_training.losses.terms import (
    CausalLoss,
    DepthBinaryCrossEntropy,
    DepthCrossEntropy,
    DrawnVoxels,
    ImageMasks,
    ListedVoxels,
    Term,
    Velocities,
    VoxelCrossEntropy,
    VoxelFocalLovasz,
    VoxelMasks,
)
from occ_training.optimiser import Optimiser, backbone_slower, hidden_orthogonal, swin_layers
from occ_training.recipe import Gate, RecipeError, TrainingRecipe
from occ_training.schedules import Averaging, CosineRampDown, LearningRate
from occ_training.town import TownData

# "Epochs" of the reference runs: passes over 28 130 frames at batch 16 and 32, times the factor of
# class-balanced resampling that earlier detectors used; Waymo without it.
_EPOCH_16, _EPOCH_32, _WAYMO_EPOCH = 8005, 4002, 9880
_SURROUNDOCC_EPOCH = 1758

# Recomputed to fit into 24 GB; the reference runs recompute almost everywhere.
_RECOMPUTED = ("image.backbone", "encoder")
_ALOCC: tuple[Term, ...] = (VoxelMasks(), ImageMasks(), DepthCrossEntropy())


def _alocc(name: str, model: str, **changes: Any) -> TrainingRecipe:
    recipe = TrainingRecipe(
        name=name,
        model=model,
        terms=_ALOCC,
        steps=12 * _EPOCH_16,
        history_from=2 * _EPOCH_16,
        depth_fading=CosineRampDown(end=6 * _EPOCH_16),
        splits=2,
        checkpoint_every=_EPOCH_16,
        recomputed=_RECOMPUTED,
    )
    return replace(recipe, **changes)


def _alocc_flow(name: str, model: str) -> TrainingRecipe:
    return _alocc(
        name,
        model,
        terms=(*_ALOCC, Velocities()),
        steps=18 * _EPOCH_16,
        motion_fading=CosineRampDown(begin=2 * _EPOCH_16, end=4 * _EPOCH_16),
        ignore_unseen="ray",
        point_ids="occ3d",
    )


def _alocc_swin(name: str, model: str) -> TrainingRecipe:
    optimiser = Optimiser(weight_decay=0.05, groups=swin_layers)
    terms = (VoxelMasks(), ImageMasks(points=MaskLossConfig(points=3125)), DepthCrossEntropy())
    return _alocc(name, model, terms=terms, optimiser=optimiser)


def _waymo(recipe: TrainingRecipe, history_from: int) -> TrainingRecipe:
    """No classes of lidar points, hence no image term."""
    return replace(
        recipe,
        terms=(VoxelMasks(), DepthCrossEntropy()),
        steps=12 * _WAYMO_EPOCH,
        history_from=history_from,
        depth_fading=CosineRampDown(end=6 * _WAYMO_EPOCH),
        checkpoint_every=2 * _WAYMO_EPOCH,
    )


def _single_frames(name: str, model: str, fading_end: int) -> TrainingRecipe:
    """SurroundOcc without history."""
    return _alocc(
        name,
        model,
        steps=24 * _SURROUNDOCC_EPOCH,
        history_from=0,
        depth_fading=CosineRampDown(end=fading_end),
        ignore_unseen=None,
        checkpoint_every=_SURROUNDOCC_EPOCH,
        note="the reference run shuffles single frames; here sequences are walked in order",
    )


def _gf(name: str, model: str, **changes: Any) -> TrainingRecipe:
    """GDFusion: whole sequences, history from the first step."""
    return _alocc(name, model, **{"history_from": 0, "splits": 1, **changes})


def _bevdetocc(name: str, model: str, **changes: Any) -> TrainingRecipe:
    terms = (VoxelCrossEntropy(), DepthBinaryCrossEntropy(weight=0.05))
    return _alocc(name, model, **{"terms": terms, "depth_fading": None, **changes})


def _fbocc(name: str, model: str, **changes: Any) -> TrainingRecipe:
    return _alocc(
        name,
        model,
        **{
            "terms": (VoxelFocalLovasz(), DepthBinaryCrossEntropy(weight=1.0)),
            "steps": 20 * _EPOCH_32,
            "batch": 32,
            "history_from": 2 * _EPOCH_32,
            "depth_fading": None,
            "bev": BevAugmentation(rotation_deg=(-22.5, 22.5)),
            "workers": 6,
            "checkpoint_every": 2 * _EPOCH_32,
            **changes,
        },
    )


def _causal(name: str, model: str, **changes: Any) -> TrainingRecipe:
    """The causal loss in addition to a family's voxel terms; depth is not supervised."""
    return _alocc(name, model, **{"depth_fading": None, **changes})


_CAUSAL_BEVDET: tuple[Term, ...] = (VoxelCrossEntropy(), CausalLoss())
_CAUSAL_ALOCC: tuple[Term, ...] = (VoxelMasks(), ImageMasks(), CausalLoss())
_CAUSAL_SINGLE: dict[str, Any] = {"steps": 24 * _SURROUNDOCC_EPOCH, "history_from": 0}


def _sparseocc(name: str, model: str) -> TrainingRecipe:
    """Clips of eight consecutive frames; all voxels are supervised, seen or not."""
    return TrainingRecipe(
        name=name,
        model=model,
        terms=(ListedVoxels(),),
        steps=24 * _SURROUNDOCC_EPOCH,
        ignore_unseen=None,
        splits=1,
        optimiser=Optimiser(
            lr=5e-4,
            groups=backbone_slower,
            clip_norm=35.0,
            schedule=LearningRate(
                warm_up_steps=500, warm_up_from=1 / 3, drops=(22 * _SURROUNDOCC_EPOCH,)
            ),
        ),
        averaging=None,
        image=ImageAugmentation(rotation_deg=(0.0, 0.0)),
        bev=BevAugmentation(rotation_deg=(-22.5, 22.5)),
        synchronised_norms=False,
        frozen_norms=True,
        workers=8,
        checkpoint_every=_SURROUNDOCC_EPOCH,
        note="the reference run shuffles clips, augments all cameras alike and changes colours",
    )


def _town(name: str, model: str) -> TrainingRecipe:
    """The demonstration model on the synthetic town, from random weights, on a CPU.

    Losses over drawn voxels teach as much per step as losses over all of them and take a fraction
    of the time. True depth helps during the first steps; the learning rate is high and falls at the
    end. A clip is as long as the network remembers: a frame without a past, and one with it.
    """
    steps = 5_200
    return TrainingRecipe(
        name=name,
        model=model,
        town=TownData(towns=130, drives=4, drive_clips=3, clip_frames=2, size=(352, 198)),
        terms=(
            DrawnVoxels(points=20_000),
            ImageMasks(weight=0.5),
            DepthCrossEntropy(),
            Velocities(weight=0.05),
        ),
        steps=steps,
        batch=2,
        depth_fading=CosineRampDown(end=87),
        optimiser=Optimiser(
            lr=2.5e-3,
            groups=hidden_orthogonal,
            schedule=LearningRate(
                warm_up_steps=40,
                fall=CosineRampDown(begin=round(0.6 * steps), end=steps),
                fall_to=0.02,
            ),
        ),
        averaging=Averaging(most=0.998, ramp=300.0, updates_at_start=0),
        image=ImageAugmentation(scale=(0.0, 0.0), flip=0.0, rotation_deg=(0.0, 0.0), light=0.15),
        precision="bf16",
        synchronised_norms=False,
        workers=0,
        checkpoint_every=500,
        checkpoint_minutes=5.0,
        validate_every=1500,
        gate=Gate(step=1500, floor=0.1),
    )


_ALL_VOXELS: dict[str, Any] = {"ignore_unseen": None}
_MAKERS: dict[str, Callable[[str, str], TrainingRecipe]] = {
    "alocc_2d_mini": _alocc,
    "alocc_2d_mini_nomask": partial(_alocc, **_ALL_VOXELS),
    "alocc_2d_mini_surroundocc": partial(_single_frames, fading_end=6 * _EPOCH_16),
    "alocc_2d": _alocc,
    "alocc_2d_nomask": partial(_alocc, **_ALL_VOXELS),
    "alocc_3d": _alocc,
    "alocc_3d_nomask": partial(_alocc, **_ALL_VOXELS),
    "alocc_3d_depth": _alocc,
    "alocc_3d_depth_internimage_t": _alocc,
    "alocc_3d_depth_swin_b": _alocc_swin,
    "alocc_3d_surroundocc": partial(_single_frames, fading_end=6 * _SURROUNDOCC_EPOCH),
    "alocc_3d_waymo": lambda name, model: _waymo(_alocc(name, model), 2 * _WAYMO_EPOCH),
    "alocc_flow_2d": _alocc_flow,
    "alocc_flow_3d": _alocc_flow,
    "alocc_2d_gf": _gf,
    "alocc_2d_gf_openoccupancy": partial(_gf, **_ALL_VOXELS),
    "alocc_2d_gf_depth_openoccupancy": partial(_gf, **_ALL_VOXELS),
    "alocc_3d_gf": _gf,
    "alocc_3d_gf_nomask": partial(_gf, **_ALL_VOXELS),
    "alocc_3d_gf_depth": _gf,
    "alocc_3d_gf_surroundocc": partial(_gf, **_ALL_VOXELS),
    "alocc_3d_gf_waymo": lambda name, model: _waymo(_gf(name, model), 0),
    "bevdetocc_sf": _bevdetocc,
    "bevdetocc_sf_nomask": partial(_bevdetocc, **_ALL_VOXELS),
    "bevdetocc_gf": partial(_bevdetocc, history_from=0, splits=1),
    "fbocc": _fbocc,
    "fbocc_nomask": partial(_fbocc, **_ALL_VOXELS),
    "fbocc_gf": partial(_fbocc, history_from=0, splits=1),
    "causal_bevdetocc": partial(_causal, terms=_CAUSAL_BEVDET, **_CAUSAL_SINGLE),
    "causal_alocc_3d": partial(_causal, terms=_CAUSAL_ALOCC, **_CAUSAL_SINGLE),
    "causal_alocc_3d_16f": partial(_causal, terms=_CAUSAL_ALOCC),
    "sparseocc": _sparseocc,
    "sparseocc_even": _sparseocc,
    "alocc_town": _town,
}


def find_recipes() -> dict[str, Callable[[], TrainingRecipe]]:
    """The recipe functions of this package and of those that are installed beside it, by name.

    Other packages add theirs by an entry point in the group ``occ_training.recipes`` that names a
    module with ``RECIPES``, a dictionary like the one here.

    Raises:
        ExtensionError: a package names a module that cannot be imported or has no ``RECIPES``.
        RecipeError: two recipes have one name.
    """
    recipes: dict[str, Callable[[], TrainingRecipe]] = {
        name: partial(maker, name, name) for name, maker in _MAKERS.items()
    }
    for package, others in installed_extensions("occ_training.recipes", "RECIPES"):
        for name, recipe in others.items():
            if name in recipes:
                raise RecipeError(
                    f"package {package} adds a second recipe called {name}. Rename it, or "
                    f"uninstall {package}"
                )
            recipes[name] = recipe
    return recipes


RECIPES = find_recipes()
"""Recipe functions by name, which is the model's."""
