"""Reading a golden file: the model it is about, its weights and inputs by recipe, its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import (
    CameraTensors,
    DepthHint,
    GridAugmentation,
    NetInputs,
    StepControl,
)
from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import MODELS
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.runtime.transfer import upload

# Grid spacing (rows, columns) and amplitude of each octave of the synthetic images.
_OCTAVES = (((5, 9), 1.0), ((17, 45), 0.7), ((41, 113), 0.4))


class UnknownConfigError(ValueError):
    """The file is about a configuration that the zoo has no model of."""


@dataclass(frozen=True)
class Samples:
    """Stored values of one tensor.

    Attributes:
        values: the samples.
        index: their flat positions in the tensor.
        shape: of the whole tensor.
        rms: of the whole tensor.
    """

    values: np.ndarray
    index: np.ndarray
    shape: tuple[int, ...]
    rms: float


class GoldenFile:
    """One ``.npz`` of reference numbers.

    Raises:
        UnknownConfigError: no model of the zoo has the file's configuration.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with np.load(self.path, allow_pickle=False) as arrays:
            self.arrays = {name: arrays[name] for name in arrays.files}
        self.meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        self.frames = range(len(self.meta["sequence"]))
        self.card = card_of(self.meta["config"])

    @property
    def geometry(self) -> ViewGeometry:
        """The reduced sizes the numbers were made with."""
        ranges = (self.meta["grid_x"], self.meta["grid_y"], self.meta["grid_z"])
        return ViewGeometry(
            input_size=tuple(self.meta["input_size"]),
            depth=DepthBins(*self.meta["depth"]),
            grid=VoxelGrid.from_ranges(*(tuple(r) for r in ranges)),
            num_cameras=self.meta["n_cams"],
        )

    def build(self) -> OccupancyNet:
        """The model at the file's sizes with the file's weights."""
        net: OccupancyNet = self.card.config.with_geometry(self.geometry).build().eval()
        fill_random_weights(net, self.card, self.meta["weight_suffix"], self.meta["scale"])
        return net

    def names(self, frame: int) -> list[str]:
        """Intermediates stored for a frame, in the file's order."""
        prefix = f"f{frame}/"
        return [
            key[len(prefix) : -2]
            for key in self.arrays
            if key.startswith(prefix) and key.endswith("|s")
        ]

    def samples(self, frame: int, name: str) -> Samples:
        """The stored samples of an intermediate."""
        key = f"f{frame}/{name}"
        values = self.arrays[f"{key}|v"]
        start, step, count, numel = (int(n) for n in self.arrays[f"{key}|i"])
        # A trimmed file keeps every k-th sample and says so.
        every = int(self.arrays.get(f"{key}|every", 1))
        mean, std, _ = self.arrays[f"{key}|s"]
        return Samples(
            values=values,
            index=((start + step * np.arange(count)) % numel)[::every],
            shape=tuple(int(n) for n in self.arrays[f"{key}|shape"]),
            rms=float(np.hypot(mean, std)),
        )

    def logit_samples(self, frame: int) -> Samples:
        """Raw head output at sampled voxels, (K, n), positions flat over (Y, X, Z)."""
        key = f"f{frame}/logits"
        values = self.arrays[f"{key}|v"]
        start, step, count, numel = (int(n) for n in self.arrays[f"{key}|i"])
        every = int(self.arrays.get(f"{key}|every", 1))
        return Samples(
            values=values,
            index=((start + step * np.arange(count)) % numel)[::every],
            shape=tuple(int(n) for n in self.arrays[f"{key}|shape"]),
            rms=float(np.sqrt(np.mean(values.astype(np.float64) ** 2))),
        )

    def flow_samples(self, frame: int) -> tuple[Samples, np.ndarray] | None:
        """Raw head flow (n, 2) at sampled voxels, axes (Y, X, Z, component), and the final flow
        (n, 2) at the same flat positions of (X, Y, Z); None for models without flow."""
        key = f"f{frame}/flow"
        if f"{key}|v" not in self.arrays:
            return None
        values = self.arrays[f"{key}|v"]
        start, step, count, numel = (int(n) for n in self.arrays[f"{key}|i"])
        every = int(self.arrays.get(f"{key}|every", 1))
        raw = Samples(
            values=values,
            index=((start + step * np.arange(count)) % numel)[::every],
            shape=tuple(int(n) for n in self.arrays[f"{key}|shape"]),
            rms=float(np.sqrt(np.mean(values.astype(np.float64) ** 2))),
        )
        return raw, self.arrays[f"{key}_final"]

    def labels(self, frame: int) -> np.ndarray:
        """Class map (X, Y, Z) uint8."""
        return self.arrays[f"f{frame}/labels"]

    def images(self, frame: int) -> Tensor:
        """(1, N, 3, H, W) images of a frame by recipe, checked against the file."""
        height, width = self.meta["input_size"]
        seed, sequence = self.meta["seed"], self.meta["sequence"][frame]
        cameras = [
            synthetic_image(seed, sequence, frame, camera, height, width)
            for camera in range(self.meta["n_cams"])
        ]
        images = np.stack(cameras)
        mean, std, first, last = self.arrays[f"f{frame}/in/img_check"]
        got = [images.mean(), images.std(), images[0, 0, 5, 7], images[-1, 2, -3, -9]]
        if not np.allclose(got, [mean, std, first, last], atol=1e-5):
            raise ValueError(
                f"{self.path.name} frame {frame}: images made by the recipe have "
                f"{[float(g) for g in got]}, the file says {[mean, std, first, last]}"
            )
        return torch.from_numpy(images)[None]

    def inputs(self, frame: int, device: torch.device) -> NetInputs:
        """Network input of a frame."""

        def tensor(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.from_numpy(self.arrays[f"f{frame}/in/{name}"])[None].to(dtype)

        pose = torch.zeros(1, self.meta["n_cams"], 4, 4)
        pose[..., :3, :3] = tensor("rots")
        pose[..., :3, 3] = tensor("trans")
        pose[..., 3, 3] = 1.0
        cameras = CameraTensors.of(
            grid_T_cam_BN44=pose,
            K_BN33=tensor("intrins"),
            image_rotation_BN33=tensor("post_rots"),
            image_translation_BN3=tensor("post_trans"),
        )
        control = StepControl(
            start_B=tensor("start_of_sequence", torch.bool),
            previous_T_current_B44=tensor("curr_to_prev_ego_rt", torch.float64),
            position_B=torch.tensor([self._position(frame)]),
            previous_cam_T_cam_BN44=self._camera_motion(frame),
        )
        return NetInputs(
            images_BN3HW=self.images(frame).to(device),
            cameras=upload(cameras, device),
            control=upload(control, device),
            augmentation=upload(GridAugmentation.of(tensor("bda")), device),
            depth=self._depth_hint(frame, device) if self.meta["gt_depth"] else None,
        )

    def sequences(self, device: torch.device) -> Iterator[Iterable[NetInputs]]:
        """Inputs to run through a network one after the other, each time from an empty state."""
        yield (self.inputs(frame, device) for frame in self.frames)

    def _depth_hint(self, frame: int, device: torch.device) -> DepthHint:
        """Measured depth of a frame by recipe, checked against the file."""
        height, width = self.meta["input_size"]
        nearest, farthest, _ = self.meta["depth"]
        depth = np.stack(
            [
                synthetic_depth(self.meta["seed"], frame, camera, height, width, nearest, farthest)
                for camera in range(self.meta["n_cams"])
            ]
        )
        expected = self.arrays[f"f{frame}/in/gt_depth_sum"]
        got = [depth.sum(dtype=np.float64), np.count_nonzero(depth)]
        if not np.allclose(got, expected, rtol=1e-4):
            raise ValueError(
                f"{self.path.name} frame {frame}: measured depth made by the recipe has sum and "
                f"count {got}, the file says {expected.tolist()}"
            )
        return DepthHint(torch.from_numpy(depth)[None].to(device))

    def _camera_motion(self, frame: int) -> Tensor:
        """Each camera now to the same camera one frame ago, (1, N, 4, 4) float64."""
        S, E, previous_S, previous_E = (
            self.arrays[f"f{frame}/in/{name}"].astype(np.float64)
            for name in ("sensor2egos", "ego2globals", "sensor2egos_prev", "ego2globals_prev")
        )
        return torch.from_numpy(np.linalg.inv(previous_E @ previous_S) @ E @ S)[None]

    def _position(self, frame: int) -> int:
        starts = [n for n in range(frame + 1) if self.arrays[f"f{n}/in/start_of_sequence"]]
        return frame - starts[-1]


def card_of(config_stem: str) -> ModelCard:
    """The card whose released configuration has this file stem."""
    for card in MODELS.values():
        if card.config_stem == config_stem:
            return card
    known = ", ".join(sorted(str(card.config_stem) for card in MODELS.values()))
    raise UnknownConfigError(
        f"configuration {config_stem!r} is of no model in the zoo; there are {known}"
    )


def synthetic_image(
    seed: int, sequence: int, frame: int, camera: int, height: int, width: int
) -> np.ndarray:
    """A smooth random image (3, H, W), already normalised: part of it stays over a sequence."""
    lasting = _noise([seed, 1, sequence, camera], height, width)
    changing = _noise([seed, 2, frame, camera], height, width)
    return (0.8 * lasting + 0.4 * changing).astype(np.float32)


def synthetic_depth(
    seed: int, frame: int, camera: int, height: int, width: int, nearest: float, farthest: float
) -> np.ndarray:
    """Sparse depth (H, W) in metres on a smooth surface, 0 where nothing was measured."""
    rng = np.random.default_rng([seed, 3, frame, camera])
    surface = _bilinear(6, height) @ rng.uniform(0, 1, (1, 6, 12))[0] @ _bilinear(12, width).T
    depth = nearest + (farthest * 1.05 - nearest) * surface
    return np.where(rng.uniform(0, 1, (height, width)) < 0.004, depth, 0).astype(np.float32)


def _noise(seed: list[int], height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.zeros((3, height, width))
    for (rows, columns), amplitude in _OCTAVES:
        coarse = rng.standard_normal((3, rows, columns))
        image += amplitude * (_bilinear(rows, height) @ coarse @ _bilinear(columns, width).T)
    return image


def _bilinear(n: int, N: int) -> np.ndarray:
    """(N, n) matrix that interpolates n values at N places from the first to the last."""
    place = np.linspace(0, n - 1, N)
    left = np.minimum(np.floor(place).astype(int), n - 2)
    matrix = np.zeros((N, n))
    matrix[np.arange(N), left] = 1 - (place - left)
    matrix[np.arange(N), left + 1] += place - left
    return matrix
