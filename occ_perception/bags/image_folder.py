"""A folder of images with a rig file and poses, read as a drive.

    FOLDER/CAM_FRONT/1532402927612460.jpg     a folder per camera, named by time, or
    FOLDER/CAM_FRONT/000017.jpg               numbered, or
    FOLDER/000017/CAM_FRONT.jpg               a folder per moment

Images with a time are grouped into frame sets as those of a bag are, and the ego pose is
interpolated at each of them. Numbered images and moments belong to the pose of the same position,
unless a CSV of poses names every image.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from occ_perception.bags.pose_file import PoseFile, read_poses, stamp_of_name
from occ_perception.bags.recording import BagError, BagProblem
from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.camera_timing import UNOBSERVED_TOLERANCE_NS, observed_tolerance
from occ_perception.sensing.ego_pose import PoseBuffer
from occ_perception.sensing.frame_set_rule import frame_sets_of
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.images import EncodedImage

if TYPE_CHECKING:
    from occ_perception.models.card import ModelCard

_SUFFIXES = (".jpg", ".jpeg", ".png")
_USUAL_REFERENCE = "CAM_FRONT"
_WHOLE_FILE_NS = 2**62
_SHOWN_NAMES = 8


def is_image_folder(path: str | Path) -> bool:
    """Whether a path is a folder whose sub-folders contain images."""
    folder = Path(path).expanduser()
    return folder.is_dir() and any(_images_of(child) for child in _folders_of(folder))


def open_images(
    folder: str | Path,
    rig: CameraRig | str | Path,
    poses: str | Path,
    *,
    model: ModelCard | None = None,
    rate_hz: float | None = None,
    cameras: Mapping[str, str] | None = None,
    reference_camera: str | None = None,
    sequence: str | None = None,
) -> ImageDrive:
    """Open a folder of images; see :mod:`occ_perception.bags.image_folder` for its form.

    ::

        with open_images("drive", rig="rig.yaml", poses="poses.csv") as drive:
            for frame in drive:
                frame.images["CAM_FRONT"]

    Args:
        folder: JPEG or PNG images.
        rig: rig, or its file, with the folder's names of the cameras.
        poses: file of ego poses, see :func:`~.pose_file.read_poses`.
        model: only the cameras of this model are read.
        rate_hz: moments per second, where neither poses nor images have times.
        cameras: folder's name of a camera -> the model's, where they differ.
        reference_camera: the camera at whose exposure grids are expressed; by default the
            model's, else CAM_FRONT, else the rig's first.
        sequence: name of the frames' sequence; the folder's name by default.

    Raises:
        BagError: nothing can be read: no image, no pose, or the names of cameras do not match.
        YamlError: the rig file is wrong.
    """
    return ImageDrive(
        Path(folder).expanduser(),
        rig if isinstance(rig, CameraRig) else load_rig(rig),
        read_poses(poses, rate_hz),
        model=model,
        cameras=dict(cameras or {}),
        reference_camera=reference_camera,
        sequence=sequence,
    )


class ImageDrive:
    """An open folder of images, from :func:`open_images`; a context manager.

    Iterate to get camera frames, as often as needed. Moments that cannot become frames are listed
    as problems.

    Attributes:
        rig: rectified calibrations of the frames.
        problems: what was skipped so far and why; complete after an iteration.
        doubts: none; a rig file is believed.
        ego_frame: name of the ego frame.
        source: what kind of recording this is, for summaries.
        sequence: name of the drive.
    """

    ego_frame = "base_link"
    source = "images"

    def __init__(
        self,
        folder: Path,
        rig: CameraRig,
        poses: PoseFile,
        *,
        model: ModelCard | None,
        cameras: Mapping[str, str],
        reference_camera: str | None,
        sequence: str | None,
    ) -> None:
        self.problems: list[BagProblem] = []
        self.doubts: list[str] = []
        self.sequence = sequence or folder.resolve().name
        found = _Found.of(folder, rig, cameras)
        names = [name for name in rig.names if name in found.images]
        chosen = {name: cameras.get(name, name) for name in names}
        if model is not None:
            chosen = {name: to for name, to in chosen.items() if to in model.cameras}
            if not chosen:
                raise BagError(
                    f"{folder} has the cameras {', '.join(names)}, and model {model.name} needs "
                    f"some of {', '.join(model.cameras)}. Name folder and rig's cameras as the "
                    "model does, or say which is which (`cameras`)"
                )
            wanted = model.with_cameras(chosen.values())
            reference_camera = reference_camera or wanted.reference_camera
        usable = replace(rig, cameras=tuple(c for c in rig.cameras if c.name in chosen))
        self._assembler = FrameAssembler(usable.renamed(chosen))
        self.rig = self._assembler.rig
        if model is not None and model.grid_frame == "lidar" and rig.ego_T_lidar is None:
            raise BagError(
                f"the grid of {model.name} lies in the lidar frame, and the rig has no `lidar`; "
                "add the lidar's pose to the rig file"
            )
        if model is not None and model.measures_depth:
            raise BagError(
                f"{model.name} needs lidar points, which a folder of images does not have; "
                "choose a model of cameras alone, or record a bag"
            )
        images = {to: found.images[name] for name, to in chosen.items()}
        self._reference = _reference(self.rig.names, reference_camera)
        self._moments, self._left_out = _moments(
            folder, images, found.by_moment, poses, self._reference
        )
        self._poses = PoseBuffer(horizon_ns=_WHOLE_FILE_NS, name=f"poses {poses.path.name}")
        for stamp, pose in sorted(
            zip(poses.stamps_ns, poses.world_T_ego, strict=True), key=lambda item: item[0]
        ):
            self._poses.add(stamp, pose)

    def __enter__(self) -> ImageDrive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between images."""

    @property
    def expected_frames(self) -> int:
        """Number of moments."""
        return len(self._moments)

    def __iter__(self) -> Iterator[CameraFrame]:
        self.problems[:] = self._left_out
        for number, moment in enumerate(self._moments):
            stamp = moment.stamps_ns[self._reference]
            try:
                payloads = {
                    name: EncodedImage(path.suffix[1:], path.read_bytes())
                    for name, path in moment.images.items()
                }
                frame_set = FrameSet.of(
                    dict(moment.stamps_ns), payloads, self.rig.names, self._reference
                )
                yield self._assembler.assemble(
                    frame_set, self._poses, self.sequence, f"{self.sequence}-{number:06d}"
                )
            except FrameError as error:
                self.problems.append(BagProblem(error.reason, str(error), stamp))
            except OSError as error:
                self.problems.append(BagProblem("unreadable_image", str(error), stamp))


@dataclass(frozen=True)
class _Moment:
    """The images of one frame set: camera -> file, camera -> stamp."""

    images: Mapping[str, Path]
    stamps_ns: Mapping[str, int]


@dataclass(frozen=True)
class _Found:
    """The images of a folder.

    Attributes:
        images: camera of the rig -> key of its moment -> file; keys in natural order.
        by_moment: whether the folder has a sub-folder per moment.
    """

    images: Mapping[str, Mapping[str, Path]]
    by_moment: bool

    @classmethod
    def of(cls, folder: Path, rig: CameraRig, cameras: Mapping[str, str]) -> _Found:
        """Find the images of the rig's cameras.

        Raises:
            BagError: there are none, or their names are not those of the rig.
        """
        unknown = [name for name in cameras if name not in rig.names]
        if unknown:
            raise BagError(
                f"`cameras` names {', '.join(unknown)}, and the rig has {', '.join(rig.names)}"
            )
        if not folder.is_dir():
            raise BagError(f"{folder} is not a folder")
        files = {child.name: _images_of(child) for child in _folders_of(folder)}
        files = {name: images for name, images in files.items() if images}
        if not files:
            raise BagError(
                f"{folder} has no images: expected CAMERA/TIME.jpg, CAMERA/NUMBER.jpg or "
                "MOMENT/CAMERA.jpg"
            )
        own = {name: files[name] for name in rig.names if name in files}
        if own:
            by_name: dict[str, dict[str, Path]] = {name: {} for name in own}
            for name, paths in own.items():
                for path in paths:
                    _put(by_name[name], path.stem, path)
            return cls(by_name, False)
        images: defaultdict[str, dict[str, Path]] = defaultdict(dict)
        for moment in sorted(files, key=_natural):
            for path in files[moment]:
                if path.stem in rig.names:
                    _put(images[path.stem], moment, path)
        if not images:
            some = sorted({path.stem for paths in files.values() for path in paths}, key=_natural)
            raise BagError(
                f"{folder} has none of the rig's cameras {', '.join(rig.names)}: its folders are "
                f"{_some(sorted(files, key=_natural))}, the images in them {_some(some)}. Name "
                "folders (or, in a folder per moment, images) as the rig names its cameras"
            )
        return cls(images, True)


def _put(images: dict[str, Path], key: str, path: Path) -> None:
    if key in images:
        raise BagError(f"{images[key]} and {path} have one name; remove one of them")
    images[key] = path


def _moments(
    folder: Path,
    images: Mapping[str, Mapping[str, Path]],
    by_moment: bool,
    poses: PoseFile,
    reference: str,
) -> tuple[list[_Moment], list[BagProblem]]:
    """The frame sets in the order of time, and what is in none of them."""
    keys = sorted({key for own in images.values() for key in own}, key=_natural)
    stamps = _stated_stamps(folder, images, poses)
    if stamps is None:
        stamps = _stamps_of_names(keys, images, by_moment)
    if stamps is None:
        if len(keys) != len(poses.world_T_ego):
            raise BagError(
                f"{folder} has {len(keys)} moments, {poses.path} has {len(poses.world_T_ego)} "
                "poses, and the images have no times in their names: there must be one pose per "
                "moment, in the same order"
            )
        of_key = dict(zip(keys, poses.stamps_ns, strict=True))
        stamps = {name: {key: of_key[key] for key in own} for name, own in images.items()}
        by_moment = True
    if by_moment:
        sets = [{n: stamps[n][key] for n in images if key in stamps[n]} for key in keys]
        sets = [chosen for chosen in sets if reference in chosen]
    else:
        rising = {name: sorted(set(own.values())) for name, own in stamps.items()}
        tolerance = observed_tolerance(rising) or UNOBSERVED_TOLERANCE_NS
        sets = frame_sets_of(rising, reference, tolerance)
    files = {
        name: {stamp: images[name][key] for key, stamp in own.items()}
        for name, own in stamps.items()
    }
    moments = [_Moment({n: files[n][t] for n, t in chosen.items()}, chosen) for chosen in sets]
    left_out = []
    if unmatched := sum(map(len, images.values())) - sum(map(len, sets)):
        text = f"{unmatched} images are in no frame set: no image of {reference} belongs to them"
        left_out.append(BagProblem("unmatched", text))
    return sorted(moments, key=lambda moment: moment.stamps_ns[reference]), left_out


def _stated_stamps(
    folder: Path, images: Mapping[str, Mapping[str, Path]], poses: PoseFile
) -> dict[str, dict[str, int]] | None:
    """Camera -> key -> stamp from a file that names images; None if it names none."""
    if not poses.images:
        return None
    stamps: dict[str, dict[str, int]] = {}
    for name, own in images.items():
        stamps[name] = {}
        for key, path in own.items():
            relative = path.relative_to(folder).as_posix()
            if relative not in poses.images:
                raise BagError(
                    f"poses {poses.path} name images, and {relative} is not among them; they name "
                    f"{_some(list(poses.images))}"
                )
            stamps[name][key] = poses.stamps_ns[poses.images[relative]]
    return stamps


def _stamps_of_names(
    keys: Sequence[str], images: Mapping[str, Mapping[str, Path]], by_moment: bool
) -> dict[str, dict[str, int]] | None:
    """Camera -> key -> stamp from the names; None if they are numbers without a time."""
    found = {key: stamp_of_name(key) for key in keys}
    without = [key for key, stamp in found.items() if stamp is None]
    if without and len(without) < len(keys):
        timed = next(key for key, stamp in found.items() if stamp is not None)
        what = "folder" if by_moment else "image"
        raise BagError(
            f"{what} {without[0]} has no time in its name, but {timed} has; expected times in all "
            "names (10 digits: s, 13: ms, 16: us, 19: ns, or seconds with decimals), or in none"
        )
    if without:
        return None
    return {
        name: {key: stamp for key in own if (stamp := found[key]) is not None}
        for name, own in images.items()
    }


def _reference(names: Sequence[str], wanted: str | None) -> str:
    if wanted is None:
        return _USUAL_REFERENCE if _USUAL_REFERENCE in names else names[0]
    if wanted not in names:
        raise BagError(f"reference camera {wanted!r} is not one of {', '.join(names)}")
    return wanted


def _folders_of(folder: Path) -> list[Path]:
    return [child for child in folder.iterdir() if child.is_dir()]


def _images_of(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(images, key=lambda path: _natural(path.stem))


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts numbers in names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
