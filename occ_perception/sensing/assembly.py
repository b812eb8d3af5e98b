"""Assembles a camera frame from a frame set: decodes, checks and rectifies, looks up the poses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OccError
from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig
from occ_perception.geometry import Float64
from occ_perception.sensing.ego_pose import EgoPoses, PoseUnavailable
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.images import (
    EncodedImage,
    ImageError,
    RgbImage,
    decode_image,
    encoded_size,
)

FrameProblem = Literal[
    "missing_camera",
    "undecodable_image",
    "size_mismatch",
    "pose_not_yet",
    "pose_unavailable",
    "no_lidar",
]


class FrameError(OccError):
    """A frame set that cannot become a frame.

    Attributes:
        reason: the kind of problem, one of :data:`FrameProblem`. Only ``pose_not_yet`` can be
            resolved by trying the same frame set again.
        camera: the affected camera.
    """

    def __init__(self, reason: FrameProblem, camera: str, text: str) -> None:
        self.reason = reason
        self.camera = camera
        super().__init__(f"camera {camera}: {text}")


class LastImages:
    """Completes a frame set that lacks a camera with its last image, under the image's own stamp.

    Args:
        max_age_ns: an image older than the frame set by more than this is not reused.
    """

    def __init__(self, max_age_ns: int = 500_000_000) -> None:
        self.max_age_ns = max_age_ns
        self._last: dict[str, tuple[int, Any]] = {}

    def reset(self) -> None:
        """Drop all images, e.g. after a time jump."""
        self._last.clear()

    def complete(self, frame_set: FrameSet) -> FrameSet:
        """The frame set with every camera; call it with every frame set, in order.

        Raises:
            FrameError: the last image of a missing camera is too old, or there is none. The
                images of the frame set are still kept for later frame sets.
        """
        self._last |= {
            name: (frame_set.stamps_ns[name], frame_set.payloads[name])
            for name in frame_set.payloads
        }
        if not frame_set.missing:
            return frame_set
        reused = {
            name: self._recent(name, frame_set.reference_stamp_ns) for name in frame_set.missing
        }
        return replace(
            frame_set,
            payloads={
                **frame_set.payloads,
                **{name: payload for name, (_, payload) in reused.items()},
            },
            stamps_ns={
                **frame_set.stamps_ns,
                **{name: stamp for name, (stamp, _) in reused.items()},
            },
            missing=(),
            reused=frame_set.missing,
        )

    def _recent(self, name: str, reference_stamp_ns: int) -> tuple[int, Any]:
        if name not in self._last:
            raise FrameError("missing_camera", name, "no earlier image to reuse")
        age = reference_stamp_ns - self._last[name][0]
        if not 0 <= age <= self.max_age_ns:
            raise FrameError(
                "missing_camera",
                name,
                f"its last image is {age / 1e6:.0f} ms old, at most "
                f"{self.max_age_ns / 1e6:.0f} ms are reused",
            )
        return self._last[name]


class FrameAssembler:
    """Turns frame sets of :class:`SensorImage` or :class:`EncodedImage` into camera frames.

    Args:
        rig: calibrations of the images as received.
        missing_camera: how to handle a frame set with a missing camera: ``drop`` refuses it,
            ``reuse_last`` uses that camera's last image, see :class:`LastImages`.
        encodings: camera -> encoding of its raw images, see :func:`decode_image`.
    """

    def __init__(
        self,
        rig: CameraRig,
        missing_camera: Literal["drop", "reuse_last"] = "drop",
        encodings: Mapping[str, str] | None = None,
    ) -> None:
        self._raw_rig = rig
        self._last_images = LastImages() if missing_camera == "reuse_last" else None
        self._encodings = dict(encodings or {})
        # Made for the first image of the calibrated size: a wrong size must not cost its memory.
        self._undistort_maps: dict[str, UndistortMaps] = {}
        rectified = (replace(c, distortion_model="", distortion=()) for c in rig.cameras)
        self.rig = replace(rig, cameras=tuple(rectified))
        """The rig of the frames: same intrinsics, no distortion."""
        workers = min(len(rig.cameras), os.cpu_count() or 1)
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def reset(self) -> None:
        """Drop the last images, e.g. after a time jump."""
        if self._last_images is not None:
            self._last_images.reset()

    def assemble(
        self, frame_set: FrameSet, poses: EgoPoses, sequence: str = "", token: str = ""
    ) -> CameraFrame:
        """Decode a frame set and look up the ego pose at every camera's stamp.

        Poses are looked up first, so that trying a frame set again until they arrive is cheap.

        Raises:
            FrameError: the frame set cannot become a frame; the assembler can take the next one.
        """
        if self._last_images is not None:
            frame_set = self._last_images.complete(frame_set)
        names = [name for name in self.rig.names if name not in frame_set.masked]
        if missing := [name for name in names if name not in frame_set.payloads]:
            raise FrameError(
                "missing_camera",
                missing[0],
                f"no image within the frame set at {frame_set.reference_stamp_ns / 1e9:.3f} s "
                f"(missing: {', '.join(missing)})",
            )
        world_T_ego = {name: _pose(poses, name, frame_set.stamps_ns[name]) for name in names}
        images = self._decoders.map(lambda name: self.image(name, frame_set), names)
        return CameraFrame(
            rig=self.rig,
            images=dict(zip(names, images, strict=True)),
            stamps_ns={name: frame_set.stamps_ns[name] for name in names},
            world_T_ego=world_T_ego,
            reference_camera=frame_set.reference_camera,
            reused=frame_set.reused,
            masked=frame_set.masked,
            sequence=sequence,
            token=token,
        )

    def image(self, name: str, frame_set: FrameSet) -> RgbImage:
        """One image of a frame set, decoded and rectified.

        Raises:
            FrameError: the image cannot be decoded, or its size is not the calibrated one.
        """
        calibration, image = self._raw_rig.camera(name), frame_set.payloads[name]
        if isinstance(image, EncodedImage) and (stated := encoded_size(image)) is not None:
            _check_size(calibration, *stated)
        try:
            rgb = decode_image(image, self._encodings.get(name))
        except ImageError as error:
            raise FrameError("undecodable_image", name, str(error)) from error
        _check_size(calibration, rgb.shape[1], rgb.shape[0])
        if calibration.is_rectified:
            return rgb
        if name not in self._undistort_maps:
            self._undistort_maps[name] = _undistort_maps(calibration)
        maps = self._undistort_maps[name]
        return np.asarray(cv2.remap(rgb, *maps, cv2.INTER_LINEAR), dtype=np.uint8)


def _pose(poses: EgoPoses, camera: str, stamp_ns: int) -> Float64:
    try:
        return poses.at(stamp_ns)
    except PoseUnavailable as error:
        reason: FrameProblem = "pose_not_yet" if error.too_early_to_tell else "pose_unavailable"
        raise FrameError(reason, camera, str(error)) from error


def _check_size(calibration: CameraCalibration, width: int, height: int) -> None:
    if (width, height) != (calibration.width, calibration.height):
        raise FrameError(
            "size_mismatch",
            calibration.name,
            f"image is {width}x{height}, calibrated for {calibration.width}x{calibration.height}; "
            "camera_info or rig must match the images",
        )


UndistortMaps = tuple[NDArray[np.int16], NDArray[np.uint16]]


def _undistort_maps(camera: CameraCalibration) -> UndistortMaps:
    """Fixed-point maps to the pinhole image with the same K."""
    size = (camera.width, camera.height)
    coefficients = np.asarray(camera.distortion)
    model = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
    maps: UndistortMaps = model.initUndistortRectifyMap(
        camera.K, coefficients, np.eye(3), camera.K, size, cv2.CV_16SC2
    )
    return maps
