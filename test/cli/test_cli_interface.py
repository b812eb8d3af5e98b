"""The command line as an interface: options, errors, and the duration of --help."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import occ_perception
from occ_perception.cli import app
from occ_perception.models.card import ModelError
from occ_perception.models.zoo import MODELS

# Every command with its arguments and options. A change here is a change for users and belongs in
# the change log.
INTERFACE = {
    "": ["--version", "--debug", "--install-completion", "--show-completion"],
    "bench": [
        "MODEL",
        "--device",
        "--precision",
        "--execution",
        "--stages",
        "--frames",
        "--warm-up",
        "--json",
        "--compare",
    ],
    "convert nuscenes": [
        "ROOT",
        "--version",
        "--out -o",
        "--scene",
        "--storage",
        "--keyframes",
        "--lidar",
    ],
    "demo": [
        "BAG",
        "--model",
        "--weights",
        "--random-weights",
        "--device",
        "--realtime",
        "--output-timeout",
        "--layout",
        "--frames",
        "--rate",
        "--size",
        "--quick",
        "--in-process",
        "--out",
    ],
    "export": [
        "SOURCE",
        "--ply",
        "--lidar",
        "--lidar-topic",
        "--topic",
        "--every",
        "--limit",
    ],
    "info": ["BAG", "--layout", "--rig", "--json"],
    "map": [
        "RECORDING",
        "--out -o",
        "--model -m",
        "--weights",
        "--random-weights",
        "--layout",
        "--rig",
        "--rate",
        "--lidar-topic",
        "--device",
        "--precision",
        "--execution",
        "--topic",
        "--poses",
        "--every",
        "--limit",
        "--voxel-size",
        "--moving-speed",
        "--keep-movable",
        "--local",
    ],
    "models export": ["NAME", "--out -o", "--weights", "--random-weights", "--frames"],
    "models list": [],
    "models show": ["NAME"],
    "play": [
        "BAG",
        "--rate",
        "--loop",
        "--start",
        "--delay",
        "--topic",
        "--remap",
        "--clock",
        "--wait",
        "--wait-for",
        "--lockstep",
        "--output-timeout",
        "--layout",
    ],
    "run": [
        "SOURCE",
        "--out -o",
        "--model -m",
        "--weights",
        "--random-weights",
        "--layout",
        "--rig",
        "--poses",
        "--rate",
        "--lidar-topic",
        "--device",
        "--precision",
        "--execution",
        "--engine",
        "--commit-spacing",
        "--every",
        "--limit",
        "--npz",
        "--film",
    ],
    "score": ["PREDICTIONS", "--ground-truth", "--topic", "--json", "--csv"],
    "town drive": [
        "--out -o",
        "--town",
        "--drive",
        "--frames",
        "--bag",
        "--size",
        "--rate",
        "--odometry-noise",
        "--lidar",
        "--jitter-rig",
        "--jobs",
    ],
    "town render": [
        "--out -o",
        "--town",
        "--drive",
        "--time",
        "--size",
        "--samples",
        "--jobs",
    ],
    "view": [
        "SOURCE",
        "--out -o",
        "--rerun",
        "--live",
        "--open3d",
        "--cameras",
        "--ground-truth",
        "--topic",
        "--every",
        "--limit",
        "--rate",
    ],
    "weights check": ["FILE", "--model -m", "--all", "--run"],
    "weights convert": ["FILE", "--model -m", "--out -o"],
    "weights fetch": ["NAME"],
}
HEAVY = ("torch", "rclpy", "rosbags", "cv2", "numpy", "PIL", "scipy")


def _interface() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}

    def visit(command, path: str) -> None:
        options = [
            " ".join(parameter.opts)
            if parameter.param_type_name == "option"
            else parameter.name.upper()
            for parameter in command.params
        ]
        children = getattr(command, "commands", {})
        if options or not children:
            found[path] = options
        for name, child in children.items():
            visit(child, f"{path} {name}".strip())

    visit(get_command(app), "")
    return found


def test_commands_and_options_are_frozen() -> None:
    assert _interface() == INTERFACE


@pytest.mark.parametrize("path", [path for path in INTERFACE if path])
def test_every_command_explains_itself(path: str) -> None:
    result = CliRunner().invoke(app, [*path.split(), "--help"])
    assert result.exit_code == 0, result.output
    for option in INTERFACE[path]:
        assert option.split()[0].lower() in result.output.lower()


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time, typer\n"
        "from typer.testing import CliRunner\n"
        "begun = time.process_time()\n"
        "from occ_perception.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\n"
        "assert result.exit_code == 0 and 'Usage' in result.output\n"
        "print(time.process_time() - begun)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    result = _python(code)
    assert result.returncode == 0, result.stderr
    cpu_seconds, heavy = result.stdout.splitlines()
    assert heavy == "[]"
    assert float(cpu_seconds) < 1.0


def test_the_console_script_starts_fast() -> None:
    begun = time.perf_counter()
    result = _python(
        "import sys; sys.argv = ['occ', '--help']\nfrom occ_perception.cli import main; main()"
    )
    assert result.returncode == 0 and "Usage: occ" in result.stdout
    assert time.perf_counter() - begun < 10  # seconds would mean that torch was imported


def test_version_and_completion() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.output == f"occ_perception {occ_perception.__version__}\n"
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "occ_perception", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert output == f"occ_perception {occ_perception.__version__}\n"


def test_errors_are_one_line_and_exit_code_2() -> None:
    result = CliRunner().invoke(app, ["models", "show", "alocc_9d"])
    assert result.exit_code == 2
    assert result.output.startswith("error: no model 'alocc_9d'; did you mean alocc_3d, ")
    assert len(result.output.splitlines()) == 1


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["--debug", "models", "show", "alocc_9d"])
    assert isinstance(result.exception, ModelError)


@pytest.mark.parametrize(
    "defect",
    [
        "numpy.zeros(3).reshape(2, 2)",  # raised in compiled code
        "pathlib.PurePath('x').with_suffix('y')",  # raised in Python code
    ],
)
def test_defects_are_not_reported_as_user_errors(defect: str) -> None:
    """A ValueError from a library does not help a user, so its traceback is shown."""
    result = _python(
        "import sys, numpy, pathlib\n"
        "from occ_perception.cli import app, main, models\n"
        f"code = compile({'def broken(): ' + defect!r}, models.__file__, 'exec')\n"
        "exec(code, globals())\n"
        "app.command('broken')(broken)\n"
        "sys.argv = ['occ', 'broken']\n"
        "main()\n"
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "ValueError" in result.stderr


def test_mistyped_options_are_usage_errors() -> None:
    result = CliRunner().invoke(app, ["run", "bag", "--modle", "alocc_2d_mini"])
    assert result.exit_code == 2
    assert "modle" in result.output


def test_models_are_listed_and_described() -> None:
    listing = CliRunner().invoke(app, ["models", "list"])
    assert listing.exit_code == 0
    rows = [line.split() for line in listing.output.splitlines()]
    assert [row[0] for row in rows[1:]] == list(MODELS)  # every name in full
    row = next(row for row in rows if row[0] == "alocc_3d_gf_depth")
    assert row[1:] == ["6", "+", "lidar", "256x704", "1", "occ3d", "mIoU", "54.9"]
    assert CliRunner().invoke(app, ["models"]).output == listing.output
    shown = CliRunner().invoke(app, ["models", "show", "alocc_2d_mini"])
    assert shown.exit_code == 0
    facts = ("256x704", "36,228,096", "102.4 MB", "16 frames, 0.5 s apart", "Apache-2.0")
    for fact in (*facts, "176.3", "ConcatHistory", "history.slots_BTYXC: 16x200x200x40"):
        assert fact in shown.output


@pytest.mark.parametrize("name", ["causal_bevdetocc", "sparseocc_even", "alocc_town"])
def test_the_notes_of_a_card_are_shown(name: str) -> None:
    shown = CliRunner().invoke(app, ["models", "show", name])
    assert MODELS[name].note and f"note            {MODELS[name].note}" in shown.output
