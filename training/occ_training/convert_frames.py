"""Frame sets of a recording as frames of a data set: images as recorded, poses at their stamps."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from occ_perception.bags.drive import RecordedDrive
from occ_perception.bags.reading import RecordedFrameSet
from occ_perception.bags.stamp_join import nearest_stamp
from occ_perception.geometry import Float64, invert_transform
from occ_perception.sensing.assembly import FrameError
from occ_perception.sensing.ego_pose import EgoPoses, PoseUnavailable
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.images import EncodedImage, ImageError, check_compressed
from occ_training.data.records import CameraRecord, FrameRecord
from occ_training.lidar_labels.labelling import LabelledFrame


@dataclass
class Draft:
    """A frame whose images are written.

    Attributes:
        record: the frame, without labels and lidar.
        wanted: what a label source needs to know of the frame.
        label_ns: stamp of its labels; the reference stamp if they have none of their own.
        world_T_label_ego: (4, 4) ego pose at that stamp.
    """

    record: FrameRecord
    wanted: LabelledFrame
    label_ns: int
    world_T_label_ego: Float64


class FrameWriter:
    """Writes the images of frame sets, unchanged where possible.

    Args:
        drive: the recording.
        keep_incomplete: whether frame sets that lack cameras become frames.
        work: folder to write to.
        place: final folder of the files, relative to the data set.

    Attributes:
        images: how the images so far were converted.
    """

    def __init__(
        self, drive: RecordedDrive, keep_incomplete: bool, work: Path, place: Path
    ) -> None:
        self._drive = drive
        self._layout = drive.layout
        self._keep_incomplete = keep_incomplete
        self._work = work
        self._place = place
        self._rig = drive.recorded_rig
        self._decoder = drive.assembler(self._rig)
        self.images = "as recorded"

    def write(self, item: RecordedFrameSet, label_ns: int) -> Draft:
        """Write the images.

        Args:
            item: the frame set.
            label_ns: stamp of the labels it will have.

        Raises:
            FrameError: a camera is missing, or an image or a pose cannot be used.
        """
        frame_set, poses = item.frame_set, item.poses
        if item.rig is not self._rig:
            self._rig, self._decoder = item.rig, self._drive.assembler(item.rig)
        if frame_set.missing and not self._keep_incomplete:
            raise FrameError(
                "missing_camera",
                frame_set.missing[0],
                f"no image within the frame set at {frame_set.reference_stamp_ns / 1e9:.3f} s "
                f"(missing: {', '.join(frame_set.missing)})",
            )
        names = [name for name in self._rig.names if name in frame_set.payloads]
        world_T_ego = {name: _pose(poses, name, frame_set.stamps_ns[name]) for name in names}
        label_pose = _pose(poses, self._layout.reference_camera, label_ns)
        images = {name: self._image(name, frame_set) for name in names}
        token = f"{item.sequence.replace('#', '-')}-{frame_set.reference_stamp_ns}"
        cameras = {}
        for name in names:
            suffix, data = images[name]
            folder = self._work / name
            folder.mkdir(exist_ok=True)
            (folder / f"{token}{suffix}").write_bytes(data)
            calibration = self._decoder.rig.camera(name)
            cameras[name] = CameraRecord(
                image=str(self._place / name / f"{token}{suffix}"),
                stamp_ns=frame_set.stamps_ns[name],
                K=calibration.K,
                width=calibration.width,
                height=calibration.height,
                ego_T_cam=calibration.ego_T_cam,
                world_T_ego=world_T_ego[name],
            )
        reference = self._layout.reference_camera
        ego_T_world = invert_transform(world_T_ego[reference])
        record = FrameRecord(token, item.sequence, frame_set.reference_stamp_ns, reference, cameras)
        wanted = LabelledFrame(
            item.time_line,
            frame_set.reference_stamp_ns,
            item.rig,
            world_T_ego[reference],
            {name: ego_T_world @ cameras[name].world_T_cam for name in names},
        )
        return Draft(record, wanted, label_ns, label_pose)

    def _image(self, name: str, frame_set: FrameSet) -> tuple[str, bytes]:
        """Suffix and bytes of an image: as recorded, or PNG if it is raw or distorted."""
        image = frame_set.payloads[name]
        calibration = self._rig.camera(name)
        if isinstance(image, EncodedImage) and calibration.is_rectified:
            try:
                check_compressed(image)
                data = bytes(image.data)
                size = Image.open(io.BytesIO(data)).size
            except (ImageError, OSError) as error:
                raise FrameError("undecodable_image", name, str(error)) from error
            if size != (calibration.width, calibration.height):
                raise FrameError(
                    "size_mismatch",
                    name,
                    f"image is {size[0]}x{size[1]}, calibrated for "
                    f"{calibration.width}x{calibration.height}",
                )
            return (".png" if data.startswith(b"\x89PNG") else ".jpg"), data
        self.images = "raw or distorted images rectified and stored losslessly as PNG"
        return ".png", _png(self._decoder.image(name, frame_set))


def _png(rgb: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", rgb[..., ::-1])[1])


def _pose(poses: EgoPoses, camera: str, stamp_ns: int) -> Float64:
    try:
        return poses.at(stamp_ns)
    except PoseUnavailable as error:
        raise FrameError("pose_unavailable", camera, str(error)) from error


def spaced(stamps: Sequence[int], spacing_ns: int) -> Iterator[int]:
    """Stamps about ``spacing_ns`` apart: each is nearest to the one before plus the spacing."""
    at = 0
    while at < len(stamps):
        yield stamps[at]
        target = nearest_stamp(stamps, stamps[at] + spacing_ns)
        assert target is not None
        # At the end of the recording and across a gap the nearest stamp can be too close.
        at = max(target, bisect_left(stamps, stamps[at] + round(0.6 * spacing_ns)))
