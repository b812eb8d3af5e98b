"""The environment that `make setup` makes: adapted wheels, activation, executables."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IS_SET_UP = (ROOT / ".venv/bin/activate").is_file() and (ROOT / "install/setup.bash").is_file()
needs_set_up = pytest.mark.skipif(not IS_SET_UP, reason="make setup has not been run here")


def bash(script: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell that knows nothing of this process's environment."""
    environment = {"HOME": os.environ["HOME"], "PATH": "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_paths_of_the_build_host_are_replaced_once(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("adapt", ROOT / "scripts/adapt_wheels.py")
    assert spec is not None
    adapt = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapt)
    exported = tmp_path / "std_msgs/cmake/export.cmake"
    exported.parent.mkdir(parents=True)
    exported.write_text(
        'INCLUDES "${_PREFIX}/include/std_msgs;/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include"\n'
    )
    (tmp_path / "untouched.cmake").write_text('INCLUDES "/opt/python/include"\n')

    assert adapt.point_cmake_to_this_python(tmp_path) == 1
    folders = exported.read_text().split('"')[1].split(";")
    assert folders[0] == "${_PREFIX}/include/std_msgs"
    assert (Path(folders[1]) / "Python.h").is_file()
    assert (Path(folders[2]) / "numpy/arrayobject.h").is_file()
    assert adapt.point_cmake_to_this_python(tmp_path) == 0


@needs_set_up
def test_python_starts_without_torch_and_timm_imports() -> None:
    pytest.importorskip("torch")
    script = "import sys; assert 'torch' not in sys.modules; import timm; print(timm.__version__)"
    result = bash(f'.venv/bin/python -c "{script}"')
    assert result.returncode == 0, result.stderr


@needs_set_up
def test_one_line_activates_the_workspace_from_anywhere(tmp_path: Path) -> None:
    result = bash(
        f". {ROOT}/env.sh && occ --help && occ-train --version && command -v occupancy_node && "
        "python -c 'from occ_msgs.msg import SemanticOccupancy; import rclpy, occ_training; "
        "from ament_index_python.packages import get_package_share_directory as share; "
        'print(share("occ_perception"))\' && echo $FASTDDS_DEFAULT_PROFILES_FILE',
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    *_, share, profile = result.stdout.splitlines()
    assert (Path(share) / "launch/alocc.launch.py").is_file()
    assert Path(profile) == ROOT / "config/fastdds.xml"


@needs_set_up
def test_activation_keeps_the_users_own_dds_profile() -> None:
    result = bash(
        "export FASTDDS_DEFAULT_PROFILES_FILE=/mine.xml; . ./env.sh; "
        "echo $FASTDDS_DEFAULT_PROFILES_FILE"
    )
    assert result.stdout.strip() == "/mine.xml"


def test_activation_before_set_up_says_what_to_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "env.sh", tmp_path)
    result = bash(". ./env.sh || echo refused", folder=tmp_path)
    assert result.stdout.strip() == "refused"
    assert f"make -C {tmp_path} setup" in result.stderr


@needs_set_up
@pytest.mark.parametrize(
    ("package", "executable"),
    [
        ("occ_perception", "occ"),
        ("occ_perception", "occupancy_node"),
        ("occ_training", "occ-train"),
    ],
)
def test_executables_lie_where_ros2_run_looks(package: str, executable: str) -> None:
    path = ROOT / "install" / package / "lib" / package / executable
    assert os.access(path, os.X_OK)


@needs_set_up
def test_the_training_commands_are_on_the_path() -> None:
    result = bash(". ./env.sh; occ-train --help; occ-train fly")
    listed = " ".join(result.stdout.split())
    for command in ("prepare", "convert", "fit", "eval", "overfit"):
        assert f" {command} " in listed
    assert result.returncode == 2  # an unknown command is an error


SHARED_MEMORY = """
import rclpy
rclpy.init()
node = rclpy.create_node("segment")
node.create_publisher(__import__("std_msgs.msg", fromlist=["String"]).String, "~/text", 1)
total = 0
for line in open("/proc/self/maps"):
    if "/dev/shm/fastdds_" in line and "port" not in line:
        first, last = line.split()[0].split("-")
        total += int(last, 16) - int(first, 16)
node.destroy_node()
rclpy.try_shutdown()
print(total)
"""


@pytest.mark.ros
@needs_set_up
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_dds_profile_gives_a_participant_room_for_raw_pictures() -> None:
    def segment_bytes(profile: str) -> int:
        result = bash(
            f"export FASTDDS_DEFAULT_PROFILES_FILE={profile} ROS_DOMAIN_ID={os.getpid() % 102} "
            "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST; . ./env.sh; "
            f"python - <<'END'\n{SHARED_MEMORY}\nEND"
        )
        assert result.returncode == 0, result.stderr
        return int(result.stdout.split()[-1])

    ring_of_raw_pictures = 6 * 1600 * 900 * 3
    assert segment_bytes(str(ROOT / "config/fastdds.xml")) > ring_of_raw_pictures
    assert segment_bytes("/does/not/exist.xml") < 4 * 2**20


@pytest.mark.slow
def test_a_fresh_clone_sets_itself_up_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in {"VIRTUAL_ENV", "PYTHONPATH", "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"}
        and not key.startswith(("COLCON", "_ROS", "LD_LIBRARY"))
    }
    python = f"PYTHON={sys.base_prefix}/bin/python3"
    for limit_s in (360, 3):
        result = subprocess.run(
            ["make", "setup", python],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["== ready; in a shell:  . ./env.sh"]
