"""README.md agrees with the code: commands run, links resolve, tables match."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from nuscenes_folder import VERSION, drawn_scene

from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.recording import Recording
from occ_perception.sensing.layouts import layout_names, load_layout, match_layout

ROOT = Path(__file__).parents[2]
# A command that continues on the next line is read as one line.
README = re.sub(r" *\\\n *", " ", (ROOT / "README.md").read_text())


def _commands() -> list[str]:
    """Lines of the bash blocks, comments cut off."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.S | re.M)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_make_targets_are_those_of_the_makefile_and_ci_runs_setup_and_test() -> None:
    targets = [command.split()[1] for command in _commands() if command.startswith("make ")]
    assert targets == ["setup", "test", "demo", "demo"]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make setup" in ci
    assert "make test" in ci


def test_occ_commands_run_as_documented(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "nuscenes", scene="scene-0103", keyframes=3)
    commands = [command for command in _commands() if command.startswith("occ ")]
    assert [command.split()[1] for command in commands] == ["convert", "info", "run"]
    for command in commands:
        subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env={**os.environ, "NUSCENES": "nuscenes", "OMP_NUM_THREADS": "2"},
            check=True,
            timeout=300,
        )
    assert (tmp_path / "drive" / "metadata.yaml").is_file()
    assert len(list((tmp_path / "predictions" / "images").glob("*.png"))) == 2


def test_launch_arguments_are_declared() -> None:
    declared = set(
        re.findall(
            r'DeclareLaunchArgument\(\s*"(\w+)"', (ROOT / "launch/alocc.launch.py").read_text()
        )
    )
    used = re.findall(r"(\w+):=", " ".join(re.findall(r"^ros2 launch.*$", README, re.M)))
    assert used
    assert set(used) <= declared


def test_started_nodes_subscribe_to_the_topics_of_the_converted_bag(tmp_path: Path) -> None:
    """Without the bag's layout they would wait on their private topics forever."""
    drawn_scene(tmp_path / "nuscenes", scene="scene-0103", keyframes=1, size=(160, 90))
    convert_nuscenes(tmp_path / "nuscenes", VERSION, "scene-0103", tmp_path / "drive")
    started = re.findall(r"^ros2 (?:launch .*bag:=drive|run .*).*$", README, re.M)
    assert len(started) == 2
    with Recording(tmp_path / "drive") as drive:
        for command in started:
            arguments = dict(word.split(":=") for word in command.split() if ":=" in word)
            match = match_layout(load_layout(arguments["layout"]), drive.topic_types)
            assert match.fits, match.problems


def test_parameters_and_defaults_are_the_nodes() -> None:
    section = README.split("## Parameters")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (?:`([^`]+)`)?", section, re.M)
    config = yaml.safe_load((ROOT / "config" / "occupancy_node.yaml").read_text())
    (node,) = config.values()
    parameters = _flatten(node["ros__parameters"])
    assert len(rows) >= 6
    for name, default in rows:
        assert name in parameters
        if default:
            assert str(parameters[name]) == default


def _flatten(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def test_layouts_named_are_those_shipped() -> None:
    row = next(line for line in README.splitlines() if line.startswith("| `layout` |"))
    named = set(re.findall(r"`(\w+)`", row.split("|", 3)[3]))
    assert named == set(layout_names())


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README))))
def test_links_lead_to_files(link: str) -> None:
    assert (ROOT / link).exists()
