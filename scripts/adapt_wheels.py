"""Make the wheels in the running virtual environment usable on this machine. Idempotent.

1. The ROS wheels export CMake files with the paths of Python and NumPy headers on their build host.
   These are replaced by the paths of this environment.
2. torchvision's CUDA wheel becomes importable with a torch without CUDA (torchvision_on_cpu.py).
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from pathlib import Path

import numpy as np

STARTUP_MODULE = Path(__file__).with_name("torchvision_on_cpu.py")


def point_cmake_to_this_python(share: Path) -> int:
    """Replace the build host's header folders below `share`; returns how many files changed."""
    replacements = {
        r"/opt/python/cp\d+-cp\d+/lib/python[\d.]+/site-packages/numpy/_core/include": (
            np.get_include()
        ),
        r"/opt/python/cp\d+-cp\d+/include/python[\d.]+": sysconfig.get_paths()["include"],
    }
    changed = 0
    for path in share.rglob("*.cmake"):
        before = after = path.read_text()
        for pattern, folder in replacements.items():
            after = re.sub(pattern, folder.replace("\\", r"\\"), after)
        if after != before:
            path.write_text(after)
            changed += 1
    return changed


def install_startup_module(site_packages: Path) -> None:
    """Copy the module, and add a .pth file so that Python imports it at start."""
    shutil.copy(STARTUP_MODULE, site_packages)
    pth = site_packages / f"{STARTUP_MODULE.stem}.pth"
    pth.write_text(f"import {STARTUP_MODULE.stem}\n")


def main() -> None:
    """Adapt the environment of the interpreter that runs this."""
    paths = sysconfig.get_paths()
    changed = point_cmake_to_this_python(Path(paths["data"]) / "share")
    print(f"{changed} CMake files pointed to {paths['include']}")
    install_startup_module(Path(paths["purelib"]))


if __name__ == "__main__":
    main()
