"""The packages of the repository, as colcon and pip see and build them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import occ_perception

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "occ_msgs": ("occ_msgs", "ros.ament_cmake"),
    "occ_perception": (".", "ros.ament_python"),
    "occ_training": ("training", "ros.ament_python"),
}
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "build", "install", "log", "*.egg-info", "out"
)


def test_colcon_finds_all_packages_with_their_ros_build_types() -> None:
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is not installed")
    listing = subprocess.run(
        [colcon, "list"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found = {
        name: (path, build_type.strip("()"))
        for name, path, build_type in (line.split("\t") for line in listing.splitlines())
    }
    assert found == PACKAGES


@pytest.mark.parametrize("folder", [folder for folder, _ in PACKAGES.values()])
def test_package_xml_is_valid_and_has_the_one_version(folder: str) -> None:
    # colcon silently builds a package with an invalid package.xml as plain python or cmake.
    package_xml = ROOT / folder / "package.xml"
    assert ElementTree.parse(package_xml).findtext("version") == occ_perception.__version__
    catkin_pkg = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    catkin_pkg.parse_package(str(package_xml), warnings=warnings)
    assert warnings == []


def test_training_package_has_the_same_version() -> None:
    text = (ROOT / "training/occ_training/__init__.py").read_text()
    assert re.search(r'__version__ = "(.+)"', text)[1] == occ_perception.__version__


def test_every_message_file_is_generated() -> None:
    cmake = (ROOT / "occ_msgs/CMakeLists.txt").read_text()
    listed = set(re.findall(r'"(msg/\w+\.msg)"', cmake))
    assert listed == {f"msg/{path.name}" for path in (ROOT / "occ_msgs/msg").glob("*.msg")}


def test_torch_is_no_ros_dependency() -> None:
    # No distribution-independent rosdep key exists for it; an unresolvable key stops rosdep.
    depends = {
        element.text
        for element in ElementTree.parse(ROOT / "package.xml").getroot()
        if element.tag.endswith("depend")
    }
    assert {"occ_msgs", "rclpy"} <= depends
    assert not any("torch" in str(key) for key in depends)


# Import name -> key in package.xml, where they differ.
KEYS = {"PIL": "python3-pil", "cv2": "python3-opencv", "yaml": "python3-yaml"} | {
    name: f"python3-{name}" for name in ("numpy", "rich", "scipy", "typer")
}
# Without a rosdep key that works on all distributions; docs/install.md names them.
FROM_PIP = {"huggingface_hub", "mcap", "rosbags", "safetensors", "torch"}
FROM_PIP |= {"typing_extensions", "zstandard"}  # with torch, with mcap
# Comes with a torch for CUDA.
WITH_TORCH = {"triton"}
EXTRAS = {"av", "numba", "onnx", "onnxruntime", "onnxscript", "open3d", "rerun", "timm"}
# Needed without an import: message classes by the names in recordings, the graph of the node's
# lifecycle, programs.
BY_NAME = {"lifecycle_msgs", "std_msgs", "tf2_msgs", "ros2launch", "rviz2"}
# Imported by name, so that it may be missing.
OPTIONAL = {"message_filters"}
NO_WHEELS = {"ament_index_python", "launch", "launch_ros", "message_filters", "tf2_msgs"}


def imported_packages() -> set[str]:
    """What the runtime package and the launch file import, themselves and Python left out."""
    found: set[str] = set()
    for file in [*(ROOT / "occ_perception").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"occ_perception"}


def ros_packages() -> set[str]:
    return imported_packages() - set(KEYS) - FROM_PIP - WITH_TORCH - EXTRAS


def test_package_xml_names_what_is_imported_and_nothing_else() -> None:
    tree = ElementTree.parse(ROOT / "package.xml").getroot()
    stated = {element.text for element in tree.findall("exec_depend")}
    keys = {key for name, key in KEYS.items() if name in imported_packages()}
    assert stated == ros_packages() | keys | BY_NAME | OPTIONAL
    for name in OPTIONAL:
        sources = [path.read_text() for path in (ROOT / "occ_perception").rglob("*.py")]
        assert any(f'import_module("{name}")' in source for source in sources)


def test_wheels_and_pip_packages_are_stated_in_setup_py() -> None:
    setup = (ROOT / "setup.py").read_text()
    wheels = set(
        re.findall(r'"ros-([a-z0-9-]+)', setup.split("ROS_WHEELS = [")[1].split("]\n\n")[0])
    )
    needed = ros_packages() | BY_NAME - {"ros2launch", "rviz2"}
    assert {name.replace("_", "-") for name in needed - NO_WHEELS - {"occ_msgs"}} == wheels
    required = setup.split("install_requires=[")[1].split("]")[0].replace("-", "_")
    assert {name for name in FROM_PIP if name not in required} == set()
    extras = setup.split("extras_require={")[1]
    assert {name for name in EXTRAS if f'"{name}' not in extras} == set()


def test_every_package_of_the_design_is_explained() -> None:
    section = (ROOT / "docs/install.md").read_text().split("## Packages that are not needed")[1]
    rows = {row.split("|")[1].strip() for row in section.splitlines() if row.startswith("| ")}
    assert rows >= {
        "cv_bridge", "message_filters", "tf_transformations", "nuscenes2bag", "spconv", "open3d",
        "timm",
    }  # fmt: skip


def test_the_matrix_runs_no_file_that_imports_torch_or_ros_unasked() -> None:
    script = (ROOT / "scripts/test_matrix.sh").read_text()
    rooms = re.search(r"tests=\((.*?)\)", script)[1].split()
    files = [file for room in rooms for file in (ROOT / room).glob("test_*.py")]
    assert len(rooms) > 5
    assert len(files) > 30
    for file in files:
        text = file.read_text()
        for package in ("torch", "rclpy"):
            imports = re.search(rf"^(import|from) {package}", text, re.M)
            assert not imports or f'importorskip("{package}"' in text, file


def test_runtime_requirements_are_documented_in_the_install_page() -> None:
    setup = (ROOT / "setup.py").read_text()
    block = setup.split("install_requires=[")[1].split("]")[0]
    needed = [name.split("-")[0].lower() for name in re.findall(r'"([\w-]+)', block)]
    page = (ROOT / "docs/install.md").read_text().lower()
    assert "pyyaml" in needed
    assert [name for name in needed if name not in page] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` builds, from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    shutil.copytree(ROOT, sources, symlinks=True, ignore=NOT_SOURCES)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "-w", str(folder), str(sources)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("occ_perception-*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_messages_as_real_files(wheel: zipfile.ZipFile) -> None:
    # In the repository they are reached through a linked folder.
    for message in (ROOT / "occ_msgs/msg").glob("*.msg"):
        assert wheel.read(f"occ_perception/bags/msg/{message.name}") == message.read_bytes()
    for message in (ROOT / "occ_perception/bags/foxglove_msgs").glob("*.msg"):
        packed = wheel.read(f"occ_perception/bags/foxglove_msgs/{message.name}")
        assert packed == message.read_bytes()


def test_wheel_holds_every_module_and_yaml_of_the_package_and_no_other(
    wheel: zipfile.ZipFile,
) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.yaml")
        for path in (ROOT / "occ_perception").rglob(pattern)
    }
    assert {"occ_perception/sensing/layouts/clynamen.yaml"} <= expected
    packed = {
        name
        for name in wheel.namelist()
        if name.endswith((".py", ".yaml")) and ".data/" not in name
    }
    assert packed == expected


def test_wheel_holds_what_ros2_launch_and_run_look_for(wheel: zipfile.ZipFile) -> None:
    data = {name.partition(".data/data/")[2] for name in wheel.namelist()}
    expected = {"share/ament_index/resource_index/packages/occ_perception"}
    expected |= {
        f"share/occ_perception/{path.relative_to(ROOT).as_posix()}"
        for folder in ("launch", "config")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".yaml", ".xml", ".rviz", ".json"}
    }
    expected.add("share/occ_perception/package.xml")
    assert expected <= data
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    scripts = wheel.read(name).decode()
    assert "occ = occ_perception.cli:main" in scripts
    assert "occupancy_node = occ_perception.ros.node:program" in scripts
