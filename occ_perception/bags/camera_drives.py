"""Drives of cameras, whatever they are stored in: recordings, and folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from occ_perception.bags.drive import open_recording
from occ_perception.bags.image_folder import is_image_folder, open_images
from occ_perception.bags.recording import BagError, BagProblem
from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.sensing.layouts import TopicLayout

if TYPE_CHECKING:
    from occ_perception.models.card import ModelCard


class CameraDrive(Protocol):
    """Camera frames of one drive; a context manager that can be iterated as often as needed."""

    @property
    def rig(self) -> CameraRig:
        """Rectified calibrations of the first frames."""

    @property
    def ego_frame(self) -> str:
        """Name of the ego frame."""

    @property
    def source(self) -> str:
        """Topic layout, or ``images``."""

    @property
    def doubts(self) -> Sequence[str]:
        """What can hardly be true of the calibration, with advice."""

    @property
    def problems(self) -> Sequence[BagProblem]:
        """What was skipped so far and why; complete after an iteration."""

    @property
    def expected_frames(self) -> int:
        """Upper limit of the number of frames."""

    def __iter__(self) -> Iterator[CameraFrame]: ...

    def __enter__(self) -> CameraDrive: ...

    def __exit__(self, *_: object) -> None: ...


def open_drive(
    path: str | Path,
    *,
    layout: TopicLayout | str | Path | None = None,
    rig: CameraRig | str | Path | None = None,
    poses: str | Path | None = None,
    rate_hz: float | None = None,
    cameras: Mapping[str, str] | None = None,
    model: ModelCard | None = None,
    lidar_topic: str | None = None,
) -> CameraDrive:
    """Open a bag, see :func:`~.drive.open_recording`, or a folder of images, see
    :func:`~.image_folder.open_images`.

    Args:
        path: of either.
        layout, lidar_topic: of bags only.
        poses, rate_hz, cameras: of folders of images only.
        rig: replaces the calibration of a bag; a folder of images needs one.
        model: only its cameras are read.

    Raises:
        BagError: nothing can be read, or an argument is missing or is for the other kind.
        YamlError: a layout or rig file is wrong.
        InputPlanError: layout, rig and model do not match.
    """
    if not is_image_folder(path):
        if poses is not None or rate_hz is not None or cameras:
            raise BagError(
                f"{path} is not a folder of images, which poses, rate and names of cameras are "
                "for: a bag has its own poses, and its layout names the cameras"
            )
        return open_recording(path, layout=layout, rig=rig, model=model, lidar_topic=lidar_topic)
    if rig is None or poses is None:
        missing = " and ".join(
            name for name, value in (("a rig file", rig), ("a file of poses", poses)) if not value
        )
        raise BagError(f"{path} is a folder of images, and they need {missing} (--rig, --poses)")
    if layout is not None or lidar_topic is not None:
        raise BagError(f"{path} is a folder of images: it has no topics, so no layout either")
    return open_images(path, rig, poses, model=model, rate_hz=rate_hz, cameras=cameras)
