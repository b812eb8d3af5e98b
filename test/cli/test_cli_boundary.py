"""Commands that fail because of the system or are interrupted: real causes, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nuscenes_folder import VERSION, drawn_scene
from typer.testing import CliRunner

from occ_perception.cli import app
from occ_perception.errors import MissingPackageError, OptionError, needed_for, sentence_for

OCC = [sys.executable, "-c", "from occ_perception.cli import main; main()"]
TRAIN = [sys.executable, "-c", "from occ_training.cli import main; main()"]


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, **options
    )


def one_line(process: subprocess.CompletedProcess[str]) -> str:
    """The one-line message of a command that failed with a user error."""
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    drawn_scene(folder / "data", keyframes=2)
    arguments = ["convert", "nuscenes", folder / "data", "--version", VERSION]
    arguments += ["--scene", "scene-0001", "--out", folder / "scene-0001"]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return folder / "scene-0001"


def test_a_folder_where_a_file_is_expected_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    line = one_line(run(*OCC, "bench", "--compare", tmp_path, tmp_path / "b.json"))
    assert line == f"{tmp_path}: is a folder, expected a file; choose another name"
    line = one_line(run(*TRAIN, "fit", tmp_path / "none.yaml", "--out", tmp_path / "run"))
    assert line == f"{tmp_path / 'none.yaml'}: does not exist; check the name"


def test_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    sheet = tmp_path / "file" / "sheet.png"
    line = one_line(run(*OCC, "town", "render", "--size", "160x90", "--out", sheet))
    why = f"{tmp_path / 'file'}: is a file, expected a folder; choose another name"
    assert line == f"{sheet} could not be written: {why}; no partial output is left"


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(bag: Path, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(900_000))
    data = bag.parent / "data"
    convert = ["convert", "nuscenes", data, "--version", VERSION, "--scene", "scene-0001"]
    line = one_line(run(*OCC, *convert, "--out", small_disk / "bag"))
    assert line.startswith(f"{small_disk / 'bag'} could not be written: there is no space left")
    assert [path.name for path in small_disk.iterdir()] == ["other"]


def test_too_little_memory_is_reported_with_a_remedy() -> None:
    code = (
        "import resource, sys, torch, numpy\n"
        "from occ_perception.cli import app, main\n"
        "@app.command()\n"
        "def hungry(library: str):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
        "    torch.ones(1 << 33) if library == 'torch' else numpy.ones(1 << 33)\n"
        "sys.argv = ['occ', 'hungry', sys.argv[1]]\n"
        "main()\n"
    )
    for library in ("torch", "numpy"):
        line = one_line(run(sys.executable, "-c", code, library))
        assert line.startswith("there is not enough memory; run with smaller images")


@pytest.mark.parametrize(
    ("package", "command", "brings"),
    [
        ("rclpy", ["play", "BAG"], "make setup"),
        ("rclpy", ["view", "--live"], "make setup"),
        ("numba", ["town", "render", "-o", "OUT"], "'occ_perception[synthetic]'"),
        ("lightning", ["overfit", "-o", "OUT"], "pip install ./training"),
    ],
)
def test_a_missing_package_is_reported_with_its_install_command(
    package, command, brings, bag, tmp_path
):
    program = "occ_training" if command[0] == "overfit" else "occ_perception"
    words = {"BAG": str(bag), "OUT": str(tmp_path / "out")}
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from {program}.cli import main\n"
        f"sys.argv = ['occ', *{[words.get(word, word) for word in command]!r}]\nmain()\n"
    )
    line = one_line(run(sys.executable, "-c", code))
    assert f"needs {package}, which is not installed; " in line and brings in line
    assert not (tmp_path / "out").exists()


def test_an_import_that_fails_for_another_reason_keeps_its_error() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match="nothing_like_it") as caught,
        needed_for("this test"),
    ):
        import nothing_like_it  # noqa: F401
    assert not isinstance(caught.value, MissingPackageError)
    assert sentence_for(caught.value) is None


def test_an_error_that_no_user_can_fix_has_no_message() -> None:
    assert sentence_for(ValueError("shape")) is None
    assert sentence_for(RuntimeError("mat1 and mat2")) is None
    assert sentence_for(OSError("11 requested and 3 written")) is None
    assert sentence_for(OptionError("--jobs is 0")) == "--jobs is 0"


def test_a_closed_pipe_is_not_an_error(bag: Path) -> None:
    script = '"$@" | head -n 1; echo "${PIPESTATUS[0]}"'
    for command in (["info", bag], ["models", "list"], ["models", "show", "alocc_3d"], ["--help"]):
        done = run("bash", "-c", script, "bash", *OCC, *command)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 2


def _interrupted(
    command: list[object], folder: Path, begun: str
) -> subprocess.CompletedProcess[str]:
    """Run a command and send Ctrl-C, which reaches its children too, after files have appeared.

    Args:
        command: writes below the folder.
        folder: the folder to watch.
        begun: pattern of the files to wait for.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 240
        while not list(folder.rglob(begun)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize("jobs", [[], ["--drive", "0-1", "--jobs", "2"]], ids=["one", "two"])
def test_ctrl_c_ends_a_drive_without_output_and_without_partial_files(tmp_path: Path, jobs) -> None:
    out = tmp_path / "out"
    drive = ["town", "drive", "--town", "20000", "--frames", "40", "--size", "704x396", *jobs]
    done = _interrupted([*OCC, *drive, "--bag", "mcap", "--out", out], tmp_path, "*.mcap")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.rglob("*.mcap")) and not list(tmp_path.rglob("*.unfinished"))
