"""The environment that `make setup` creates: adapted wheels, activation, executables."""

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
    """Run a script in a shell without this process's environment."""
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


def test_activation_before_set_up_names_the_command_to_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "env.sh", tmp_path)
    result = bash(". ./env.sh || echo refused", folder=tmp_path)
    assert result.stdout.strip() == "refused"
    assert f"make -C {tmp_path} setup" in result.stderr


# A stand-in for an interpreter: has a version and a path, installs nothing.
STAND_IN = """#!{python}
import os, shutil, sys, sysconfig  # which has the real headers
sys.version_info, sys.base_prefix = {version}, "{prefix}"
if sys.argv[1] == "-c":
    exec(sys.argv[2])
elif sys.argv[1:3] == ["-m", "venv"]:
    os.makedirs(f"{{sys.argv[3]}}/bin", exist_ok=True)
    for name in ("python", "pip"):
        if not os.path.exists(f"{{sys.argv[3]}}/bin/{{name}}"):
            shutil.copy(__file__, f"{{sys.argv[3]}}/bin/{{name}}")
    open(f"{{sys.argv[3]}}/bin/activate", "w").close()
"""


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    """The files that set-up reads, and a `bin` with dummy tools and stand-ins for Python."""
    root = tmp_path / "checkout"
    for name in ("scripts", "constraints", "occ_msgs", "launch", "config", "training"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "package.xml", "setup.py", "setup.cfg", "colcon_defaults.yaml"):
        shutil.copy(ROOT / name, root)
    tools = root / "bin"
    tools.mkdir()
    for name in ("cmake", "g++", "colcon"):
        (tools / name).write_text("#!/bin/sh\n")
    for name, version in (("python3", (3, 9)), ("python3.11", (3, 11)), ("python3.12", (3, 12))):
        (tools / name).write_text(
            STAND_IN.format(python=sys.executable, version=version, prefix=root / name)
        )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return root


def test_a_chosen_interpreter_is_kept(bare_checkout: Path) -> None:
    def make(arguments: str) -> subprocess.CompletedProcess[str]:
        return bash(f"export PATH=$PWD/bin:$PATH; make {arguments}", folder=bare_checkout)

    venv = bare_checkout / ".venv"
    refused = make("setup")
    assert refused.returncode and "is not supported; Python 3.10 to 3.14 is" in refused.stderr
    assert not venv.exists()

    first = make("setup PYTHON=python3.12")
    assert first.returncode == 0, first.stderr
    assert "== venv" in first.stdout
    for again in ("setup", "setup PYTHON=python3.12"):  # python3 is another one, and too old
        result = make(again)
        assert result.returncode == 0, result.stderr
        assert "== venv" not in result.stdout

    other = make("setup PYTHON=python3.11")
    assert other.returncode
    for part in ("Python 3.12 in", "PYTHON=python3.11 is Python 3.11 in", "make clean"):
        assert part in other.stderr
    assert "(3, 12)" in (venv / "bin/python").read_text(), "nothing was changed"

    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(bare_checkout / "removed")
    assert ".venv/bin/python no longer runs" in make("setup").stderr


def test_a_chosen_distribution_is_kept(bare_checkout: Path) -> None:
    def make(arguments: str) -> subprocess.CompletedProcess[str]:
        choose = "setup PYTHON=python3.12"
        return bash(f"export PATH=$PWD/bin:$PATH; make {choose} {arguments}", folder=bare_checkout)

    assert "there are wheels of kilted and of jazzy" in make("ROS=foxy").stderr
    chosen = make("ROS=jazzy")
    assert chosen.returncode == 0, chosen.stderr
    again = make("")
    assert again.returncode == 0
    assert "== packages" not in again.stdout
    other = make("ROS=kilted")
    assert other.returncode
    assert ".venv has the wheels of jazzy, ROS is kilted" in other.stderr
    (bare_checkout / ".venv/.setup/ros").unlink()  # as set-ups before there was a choice
    assert ".venv has the wheels of kilted, ROS is jazzy" in make("ROS=jazzy").stderr


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
def test_dds_profile_gives_a_participant_room_for_raw_images() -> None:
    def segment_bytes(profile: str) -> int:
        result = bash(
            f"export FASTDDS_DEFAULT_PROFILES_FILE={profile} ROS_DOMAIN_ID={os.getpid() % 102} "
            "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST; . ./env.sh; "
            f"python - <<'END'\n{SHARED_MEMORY}\nEND"
        )
        assert result.returncode == 0, result.stderr
        return int(result.stdout.split()[-1])

    frame_set_of_raw_images = 6 * 1600 * 900 * 3
    assert segment_bytes(str(ROOT / "config/fastdds.xml")) > frame_set_of_raw_images
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
