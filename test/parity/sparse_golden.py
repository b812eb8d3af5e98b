"""The golden file of a sparse network: other inputs, rows of voxels instead of volumes.

Voxels are kept and ordered by probability, so two that are equally probable may change places. Rows
are therefore compared voxel by voxel, in the file's order; a voxel that only one side has kept
fails all its samples. Random picks count voxels in that order, too: masks get the finest voxels in
the file's order, whatever ours was, so that both sides pick the same ones. A mask ends where its
logit passes through zero, and rounding decides about some of three million: a voxel that enters or
leaves a mask moves the picks behind it, and that query looks elsewhere. Such voxels are settled in
favour of the file, nothing else is.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from golden_file import GoldenFile, Samples, synthetic_image
from torch import Tensor, nn
from verdict import AGREEMENT, TOLERANCE, Verdict, compare, compare_labels

from occ_perception.models.inputs import (
    CameraTensors,
    GridAugmentation,
    NetInputs,
    SparseOutputs,
    StepControl,
)
from occ_perception.models.network import Network
from occ_perception.models.postprocess import decode
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.nets.sparse.mask_decoder import MaskPrediction
from occ_perception.nets.sparse.mask_points import Draws, pick_voxels
from occ_perception.nets.sparse.voxel_decoder import VoxelLevel
from occ_perception.runtime.preprocess import Preprocessor
from occ_perception.runtime.transfer import upload

FLIPS = ("voxels as probable as the last one kept", "edge of an image")
CLOSE = 1e-3
"""How near to zero, in rms of a mask, a logit may change sign: ten times the tolerance, because a
place at the edge of an image shows in the eight voxels that one query was divided into."""
_CAMERAS = 6
_NEAREST = 16
_CHANGES = [c for n in range(4) for c in itertools.combinations(range(4), n)]
_CHANGES += [(k,) for k in range(4, _NEAREST)]


class SparseGoldenFile(GoldenFile):
    """Inputs of a frame are a chain of frames and the cameras of each, seen from now."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.frames = sorted({int(k[1]) for k in self.arrays if k.endswith("/in/frame_chain")})

    def build(self) -> Network:
        """The model at the file's image size with the recipe's weights."""
        net = self.card.resized(tuple(self.meta["input_size"])).build()
        fill_random_weights(net, self.card, scale=self.meta["scale"])
        return net

    def images(self, frame: int) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB; the recipe's channels are blue, green, red."""
        height, width = self.meta["input_size"]
        seed, sequence = self.meta["seed"], self.meta["sequence"][frame]
        smooth = np.stack(
            [
                synthetic_image(seed, sequence, frame, camera, height, width)
                for camera in range(_CAMERAS)
            ]
        )
        levels = np.clip(np.round(118 + 55 * smooth), 0, 255).astype(np.uint8)
        return levels[:, ::-1].transpose(0, 2, 3, 1)

    def sequences(self, device: torch.device) -> Iterator[Iterable[NetInputs]]:
        """The chain of each frame."""
        return (self.steps(frame, device) for frame in self.frames)

    def steps(self, frame: int, device: torch.device) -> list[NetInputs]:
        """Inputs of the frames of the chain, oldest first; the first one starts a sequence.

        The file says how places of the current ego frame are seen by the cameras of each frame.
        Our steps want intrinsics and poses in the ego frame of their own time, which follow from
        how the first camera has moved on the vehicle's behalf.
        """
        chain = self.arrays[f"f{frame}/in/frame_chain"]
        pixel_T_lidar = self.arrays[f"f{frame}/in/lidar2img"].reshape(len(chain), _CAMERAS, 4, 4)
        pixel_T_now = pixel_T_lidar @ self.arrays[f"f{frame}/in/ego2lidar"]
        affine = self._image_affine()
        calibrations = [[_decomposed(affine, m) for m in frame_set] for frame_set in pixel_T_now]
        images = [self.images(n) for n in chain]
        self._check_images(frame, np.stack(images))

        now_T_front = np.linalg.inv(calibrations[0][0][1])
        steps: list[NetInputs] = []
        previous_T_now: np.ndarray | None = None
        for age in range(len(chain) - 1, -1, -1):
            if age + 1 < len(chain) and chain[age] == chain[age + 1]:
                continue
            ego_T_now = now_T_front @ calibrations[age][0][1]
            start = previous_T_now is None
            motion = np.eye(4) if start else previous_T_now @ np.linalg.inv(ego_T_now)
            poses = np.stack([ego_T_now @ np.linalg.inv(c[1]) for c in calibrations[age]])
            K = np.stack([c[0] for c in calibrations[age]])
            cameras = CameraTensors.of(
                grid_T_cam_BN44=_float32(poses),
                K_BN33=_float32(K),
                image_rotation_BN33=_float32(np.stack([np.diag(affine.diagonal())] * _CAMERAS)),
                image_translation_BN3=_float32(np.stack([affine[:, 2] * (1, 1, 0)] * _CAMERAS)),
            )
            control = StepControl(
                start_B=torch.tensor([start]),
                previous_T_current_B44=torch.from_numpy(motion)[None],
                position_B=torch.tensor([len(steps)]),
            )
            steps.append(
                NetInputs(
                    images_BN3HW=self._normalised(images[age]).to(device),
                    cameras=upload(cameras, device),
                    control=upload(control, device),
                    augmentation=upload(GridAugmentation.none(1), device),
                )
            )
            previous_T_now = ego_T_now
        return steps

    def _image_affine(self) -> np.ndarray:
        """(3, 3) native pixel to input pixel: one factor, rows cut off above."""
        (height, width), (rows, columns) = self.meta["src_size"], self.meta["input_size"]
        scale = columns / width
        return np.array([[scale, 0, 0], [0, scale, rows - int(height * scale)], [0, 0, 1]])

    def _normalised(self, images: np.ndarray) -> Tensor:
        normalise = Preprocessor(self.card.preprocessing, torch.device("cpu")).normalise
        return normalise(torch.from_numpy(images.copy()))[None]

    def _check_images(self, frame: int, images: np.ndarray) -> None:
        expected = self.arrays[f"f{frame}/in/img_check"]
        got = [images.mean(), images.std()]
        if not np.allclose(got, expected, atol=1e-3):
            raise ValueError(
                f"{self.path.name} frame {frame}: images made by the recipe have mean and std "
                f"{got}, the file says {expected.tolist()}"
            )

    def voxels(self, frame: int, level: int) -> np.ndarray:
        """(V,) flat index of the voxels of a level in the file's order, in voxels of that level."""
        name = "occ_loc" if level == 2 else f"occ_preds.{level}.loc"
        return _flat(self.arrays[f"f{frame}/{name}"])

    def class_logits(self, frame: int) -> list[Tensor]:
        """(Q, K) of each prediction."""
        return [torch.from_numpy(self.arrays[f"f{frame}/class_preds.{n}"]) for n in range(3)]

    def labels(self, frame: int) -> np.ndarray:
        """Class map (X, Y, Z) uint8."""
        volume = np.full(self.card.grid.dims, self.card.labels.empty_class, np.uint8)
        x, y, z = self.arrays[f"f{frame}/occ_loc"].T
        volume[x, y, z] = self.arrays[f"f{frame}/sem_pred"][0]
        return volume


class FileDraws(nn.Module):
    """The numbers that the file's random draws were replaced by, on a device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__()
        self.seed, self.device = seed, device

    def forward(self, round_number: int, _batch_size: int) -> Draws:
        first, second = (
            np.random.default_rng([self.seed, 4, 2 * round_number + k]) for k in (0, 1)
        )
        numbers = _float32(first.random((100, 16))), _float32(second.random((100, 16, 3)))
        return Draws(*(drawn.to(self.device) for drawn in numbers))


def check_sparse_file(
    golden: SparseGoldenFile, device: torch.device
) -> Iterator[tuple[int, Verdict]]:
    """Verdicts of all frames, as they are reached: (frame, verdict)."""
    net = golden.build().to(device)
    for frame in golden.frames:
        net.masks.draws = FileDraws(golden.meta["seed"] + frame, device)
        *earlier, current = golden.steps(frame, device)
        state = net.initial_state(1)
        with torch.no_grad():
            for inputs in earlier:
                with sparse_taps(net) as seen:
                    _, state = net.observe(inputs, state)
            with (
                finest_voxels_in_order(net, golden.voxels(frame, 2)),
                settled_masks(net, golden.class_logits(frame)) as settled,
                sparse_taps(net) as caught,
            ):
                outputs, _ = net(current, state)
        yield frame, _count("mask voxels through zero", len(settled), 100 * 32000)
        if earlier:  # the released network looks at the current frame first
            caught.update({f"{name}#1": maps for name, maps in seen.items()})
        yield from ((frame, verdict) for verdict in frame_verdicts(golden, frame, caught, outputs))


def frame_verdicts(
    golden: SparseGoldenFile, frame: int, caught: dict[str, Tensor], outputs: SparseOutputs
) -> Iterator[Verdict]:
    """Everything the file says about a frame."""
    rows = []
    for level, predicted in enumerate(outputs.levels):
        size = (4, 2, 1)[level]
        ours = _flat(predicted.corner_BV3[0].cpu().numpy() // size)
        wanted = golden.voxels(frame, level)
        rows.append(_rows_in_order(ours, wanted))
        yield _count(f"voxels of level {level}", int((rows[-1] < 0).sum()), len(wanted))
        caught[f"occ_preds.{level}.seg"] = predicted.logits_BVK
        caught[f"occ_preds.{level}.feat"] = predicted.features_BVE
    for number, prediction in enumerate(outputs.predictions):
        caught[f"mask_preds.{number}"] = prediction.mask_logits_BQV
    for name in golden.names(frame):
        if name.startswith(("img_backbone", "img_neck")):
            yield _judged(name, caught[name], golden.samples(frame, name), ())
            continue
        axis, level = _rows_of(name)
        got = caught[name] if level is None else _taken(caught[name], axis, rows[level])
        yield _judged(name, got, golden.samples(frame, name), FLIPS)
    for number, stored in enumerate(golden.class_logits(frame)):
        got = outputs.predictions[number].class_logits_BQK[0].cpu().numpy()
        rms = float(stored.double().square().mean().sqrt())
        yield compare(f"class_preds.{number}", got, stored.numpy(), rms, FLIPS)
    labels = decode(outputs, golden.card).labels_BXYZ[0].cpu().numpy()
    yield compare_labels(labels, golden.labels(frame))


@contextmanager
def sparse_taps(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects what the network computes on the way under checkpoint keys; later calls of a
    module get ``#1``, ``#2``, ..."""
    caught: dict[str, Tensor] = {}
    handles = []

    def tap(name: str, module: nn.Module, read: Any) -> None:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            value = read(args, output)
            values = {name: value}
            if isinstance(value, tuple | list):
                values = {f"{name}.{i}": part for i, part in enumerate(value)}
            for key, part in values.items():
                calls = sum(k == key or k.startswith(f"{key}#") for k in caught)
                caught[f"{key}#{calls}" if calls else key] = part.detach().clone()

        handles.append(module.register_forward_hook(hook))

    def output(_args: Any, result: Any) -> Any:
        return result

    def argument(args: Any, _result: Any) -> Any:
        return args[0]

    tap("img_backbone", net.image.backbone, output)
    tap("img_neck", net.image.neck, output)
    for number, layer in enumerate(net.voxels.layers):
        prefix = f"voxel_decoder.decoder_layers.{number}"
        tap(f"{prefix}.sampling", layer.sampling, output)
        tap(f"{prefix}.mixing", layer.mixing, output)
        tap(prefix, layer, output)
    layer = net.masks.layer
    tap("decoder.decoder_layer.self_attn", layer.norm1, argument)
    tap("decoder.decoder_layer.sampling", layer.sampling, output)
    tap("decoder.decoder_layer.mixing", layer.mixing, output)
    tap("decoder.decoder_layer.ffn", layer.feed_forward, output)
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def finest_voxels_in_order(net: nn.Module, wanted: np.ndarray) -> Iterator[None]:
    """Voxels of the finest level leave the voxel decoder in the file's order; those that the file
    does not have fill the places of those that we do not have."""

    def reorder(_module: nn.Module, _args: Any, levels: tuple[VoxelLevel, ...]) -> Any:
        finest = levels[-1]
        rows = _rows_in_order(_flat(finest.corner_BV3[0].cpu().numpy()), wanted)
        left = torch.ones(len(rows), dtype=torch.bool)
        left[rows[rows >= 0]] = False
        rows[rows < 0] = left.nonzero().flatten()
        ordered = VoxelLevel(*(part[:, rows.to(part.device)] for part in finest))
        return (*levels[:-1], ordered)

    handle = net.voxels.register_forward_hook(reorder)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def settled_masks(net: nn.Module, class_logits: list[Tensor]) -> Iterator[list[int]]:
    """Lets mask logits next to zero change sign where the file's next class logits say so.

    What a query becomes in the next round depends on its own picks alone, so each query is
    settled for itself: its four logits nearest to zero change sign in all combinations, and some
    more one at a time, until the class logits of the round agree.
    """
    masks, layer = net.masks, net.masks.layer
    trial = copy.deepcopy(layer)  # without taps
    predict, seen, settled = layer.predict, {}, []

    def settle(query_BQE: Tensor, voxels: VoxelLevel) -> MaskPrediction:
        prediction = predict(query_BQE, voxels)
        number = seen["predictions"] = seen.get("predictions", -1) + 1
        if number == masks.config.rounds:
            return prediction
        logits = prediction.mask_logits_BQV
        nearest = logits.abs().topk(_NEAREST, dim=-1, largest=False)
        close = nearest.values < CLOSE * logits.square().mean().sqrt()
        wanted = class_logits[number + 1].to(logits.device)
        best_error = torch.full_like(logits[0, :, 0], torch.inf)
        best = logits
        for change in _CHANGES:
            chosen = torch.zeros_like(close)
            chosen[..., list(change)] = close[..., list(change)]
            signs = torch.where(chosen, -1.0, 1.0)
            at = nearest.indices
            changed = logits.scatter(-1, at, logits.gather(-1, at) * signs)
            draws = masks.draws(number, 1)
            picks = pick_voxels(changed > 0, voxels.corner_BV3, draws, masks.dims_3)
            got = trial.classify(trial(query_BQE, masks.place.weight, picks, seen["frames"]))[0]
            error = (got - wanted).abs().amax(dim=-1) / wanted.square().mean().sqrt()
            better = error < 0.1 * best_error  # a change must explain, not only help a little
            best_error = torch.where(better, error, best_error)
            best = torch.where(better[None, :, None], changed, best)
            if best_error.max() < TOLERANCE:
                break
        settled.extend((best != logits).nonzero()[:, 2].tolist())
        return prediction._replace(mask_logits_BQV=best)

    handle = masks.register_forward_pre_hook(lambda _, args: seen.update(frames=args[1]))
    layer.predict = settle
    try:
        yield settled
    finally:
        del layer.predict
        handle.remove()


def _count(what: str, different: int, total: int) -> Verdict:
    """At most one in a thousand may differ."""
    share = different / total
    return Verdict(what, float(different > 0), share, total, different, share <= 1 - AGREEMENT)


def _rows_in_order(ours: np.ndarray, wanted: np.ndarray) -> Tensor:
    """Row of ours that holds each wanted voxel, -1 where none does."""
    place = {voxel: row for row, voxel in enumerate(ours.tolist())}
    return torch.tensor([place.get(voxel, -1) for voxel in wanted.tolist()])


def _rows_of(name: str) -> tuple[int, int | None]:
    """Along which axis an intermediate has rows of voxels, and of which level."""
    if name.startswith("mask_preds"):
        return 2, 2
    if name.startswith("occ_preds"):
        return 1, int(name.split(".")[1])
    if name.startswith("voxel_decoder.decoder_layers"):
        layer = int(name.split(".")[2])
        return 1, layer - 1 if layer else None
    return 1, None


def _taken(tensor: Tensor, axis: int, rows: Tensor) -> Tensor:
    """Rows in the file's order; not a number where we have no such voxel."""
    taken = tensor.cpu().index_select(axis, rows.clamp(min=0))
    shape = [1] * tensor.dim()
    shape[axis] = len(rows)
    return taken.masked_fill((rows < 0).view(shape), torch.nan)


def _judged(name: str, got: Tensor, expected: Samples, flips: tuple[str, ...]) -> Verdict:
    if tuple(got.shape) != expected.shape:
        count = expected.values.size
        note = f"shape {tuple(got.shape)}, expected {expected.shape}"
        return Verdict(name, np.inf, np.inf, count, count, False, note)
    values = got.reshape(-1)[torch.from_numpy(expected.index).to(got.device)].cpu().numpy()
    return compare(name, values, expected.values, expected.rms, flips)


def _decomposed(affine: np.ndarray, pixel_T_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Native intrinsics (3, 3) and cam_T_ego (4, 4) of a projection to input pixels."""
    native = np.linalg.inv(affine) @ pixel_T_ego[:3]
    # RQ from the QR of the matrix turned round.
    Q, upper = np.linalg.qr(native[::-1, :3].T)
    K, R = upper.T[::-1, ::-1], Q.T[::-1]
    signs = np.diag(np.sign(np.diag(K)))
    K, R = K @ signs, signs @ R
    cam_T_ego = np.eye(4)
    cam_T_ego[:3, :3] = R
    cam_T_ego[:3, 3] = np.linalg.solve(K, native[:, 3])
    return K / K[2, 2], cam_T_ego


def _flat(voxels_V3: np.ndarray) -> np.ndarray:
    x, y, z = voxels_V3.astype(np.int64).T
    return (x * 1000 + y) * 1000 + z


def _float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))[None]
