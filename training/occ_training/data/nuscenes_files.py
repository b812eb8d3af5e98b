"""Where label files lie below a folder in the nuScenes format, by the names of a frame.

gts/<scene>/<token>/labels.npz                                Occ3D
openocc_v2/<scene>/<token>/labels.npz                         OpenOcc v2.1
openocc_v2_ray_mask/<scene>/<token>/labels.npz                OpenOcc ray mask
gts_surroundocc/samples/<name of the sweep>.npy               SurroundOcc
nuScenes-Occupancy-v0.1/scene_<token>/occupancy/<token>.npy   OpenOccupancy v0.1
lidar_seg/<name of the sweep>.npz                             Occ3D class per point
lidarseg/<version>/<token>_lidarseg.bin                       general class per point
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from occ_training.data.label_files import LABEL_FORMATS
from occ_training.data.records import DatasetError, LabelFormat, LidarRecord

REFERENCE_CAMERA = "CAM_FRONT"
LIDAR_COLUMNS = ("x", "y", "z", "intensity", "ring")

_LABEL_FOLDERS = {
    "occ3d": "gts",
    "openocc": "openocc_v2",
    "openocc_ray_mask": "openocc_v2_ray_mask",
    "surroundocc": "gts_surroundocc",
    "openoccupancy": "nuScenes-Occupancy-v0.1",
}


@dataclass(frozen=True)
class FrameNames:
    """The names of a frame.

    Attributes:
        scene, token: name of the scene, token of the key frame.
        scene_token, lidar_token: empty if unknown.
        sweep: path of the lidar's file; empty without a lidar.
    """

    scene: str
    token: str
    scene_token: str = ""
    lidar_token: str = ""
    sweep: str = ""


class LabelFolders:
    """The label files of a folder.

    Args:
        root: the folder.
        version: name of the tables; may be empty.
        lidarseg: sweep's token -> file of its point classes, as the tables state it; None if they
            do not.
        with_lidar: whether the frames have a lidar. Without one, labels are taken for those of the
            reference camera's time.

    Attributes:
        formats: key -> format of the label files.
    """

    def __init__(
        self, root: Path, version: str, lidarseg: Mapping[str, str] | None, with_lidar: bool
    ) -> None:
        self._root, self._version, self._lidarseg = root, version, lidarseg
        self._with_lidar = with_lidar
        self._present = [key for key, name in _LABEL_FOLDERS.items() if (root / name).is_dir()]
        self.formats: dict[str, LabelFormat] = dict(LABEL_FORMATS)
        if not with_lidar:
            self.formats = {
                key: replace(label_format, time="reference_camera")
                for key, label_format in LABEL_FORMATS.items()
                if label_format.frame == "ego"
            }

    def labels(self, names: FrameNames) -> dict[str, str]:
        """Key -> label file of a frame.

        Raises:
            DatasetError: the set has a lidar and this frame has not: the labels belong to the
                lidar's pose, which is not known.
        """
        if self._with_lidar and not names.sweep:
            raise DatasetError("labels belong to the lidar's pose, which is not known")
        scene, token = names.scene, names.token
        files = {
            "occ3d": f"gts/{scene}/{token}/labels.npz",
            "openocc": f"openocc_v2/{scene}/{token}/labels.npz",
            "openocc_ray_mask": f"openocc_v2_ray_mask/{scene}/{token}/labels.npz",
            "surroundocc": f"gts_surroundocc/samples/{Path(names.sweep).name}.npy",
            "openoccupancy": (
                f"nuScenes-Occupancy-v0.1/scene_{names.scene_token}/occupancy/"
                f"{names.lidar_token}.npy"
            ),
        }
        return {key: files[key] for key in self._present if key in self.formats}

    def with_point_classes(self, lidar: LidarRecord, names: FrameNames) -> LidarRecord:
        """The sweep with the file of its points' classes, if there is one."""
        token, version = names.lidar_token, self._version
        if (self._root / "lidar_seg").is_dir():
            file = f"lidar_seg/{Path(names.sweep).name.split('.')[0]}.npz"
            return replace(lidar, semantics=file, semantics_ids="occ3d")
        if self._lidarseg is not None:
            return replace(lidar, semantics=self._lidarseg.get(token), semantics_ids="lidarseg")
        if token and version and (self._root / "lidarseg" / version).is_dir():
            file = f"lidarseg/{version}/{token}_lidarseg.bin"
            return replace(lidar, semantics=file, semantics_ids="lidarseg")
        return lidar
