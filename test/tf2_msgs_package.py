"""Builds a tf2_msgs with TFMessage for machines without one: there is no wheel of that package.

On the wire only the package name and the structure count, so a bag's /tf can be played and received
for the tests. An installed tf2_msgs is always preferred.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

_FILES = {
    "package.xml": """<?xml version="1.0"?>
<package format="3">
  <name>tf2_msgs</name>
  <version>0.0.0</version>
  <description>TFMessage for tests.</description>
  <maintainer email="nobody@example.com">nobody</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>geometry_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
""",
    "CMakeLists.txt": """cmake_minimum_required(VERSION 3.16)
project(tf2_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(geometry_msgs REQUIRED)
rosidl_generate_interfaces(tf2_msgs "msg/TFMessage.msg" DEPENDENCIES geometry_msgs)
ament_package()
""",
    "msg/TFMessage.msg": "geometry_msgs/TransformStamped[] transforms\n",
}


def make_tf2_msgs_importable(build_root: Path) -> None:
    """Make tf2_msgs importable in this process and its children; builds the package once."""
    if importlib.util.find_spec("tf2_msgs") is not None:
        return
    prefix = build_root / f"tf2_msgs_for_tests_{sysconfig.get_python_version()}"
    if not (prefix / "done").exists():
        _build(prefix)
    site = next(prefix.glob("lib/python*/site-packages"))
    for variable, folder in (
        ("PYTHONPATH", site),
        ("LD_LIBRARY_PATH", prefix / "lib"),
        ("AMENT_PREFIX_PATH", prefix),
    ):
        before = os.environ.get(variable, "")
        os.environ[variable] = f"{folder}{os.pathsep}{before}" if before else str(folder)
    # This process has read the library path at its start, so load the package's dependencies here.
    import geometry_msgs.msg  # noqa: F401

    for kind in ("generator_c", "generator_py", "typesupport_c", "typesupport_fastrtps_c"):
        name = f"libtf2_msgs__rosidl_{kind}.so"
        ctypes.CDLL(str(prefix / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(site))


def _build(prefix: Path) -> None:
    source = prefix / "source"
    for name, text in _FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": sys.prefix,
        "CMAKE_PREFIX_PATH": sys.prefix,
        "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    build = prefix / "build"
    for command in (
        ["cmake", "-S", source, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}",
         f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY",
         "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", build, "--parallel", "2"],
        ["cmake", "--install", build],
    ):  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{command} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    (prefix / "done").touch()
