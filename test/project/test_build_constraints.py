"""All installed packages are pinned, and the pins satisfy the requirements."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = ("workspace.txt", "torch.txt", "kilted.txt")
JAZZY_FILES = ("workspace.txt", "torch.txt", "jazzy.txt")
EXTRAS = ("", "dev", "ros", "workspace_kilted", "backbones", "export", "synthetic", "viewer")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def requirements_in(path: Path) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pins(python: str, files: tuple[str, ...] = FILES) -> dict[str, str]:
    """Name to version of everything pinned for one Python version."""
    environment = {**default_environment(), "python_version": python, "extra": ""}
    found: dict[str, str] = {}
    for file in files:
        for requirement in requirements_in(ROOT / "constraints" / file):
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (specifier,) = requirement.specifier
                assert specifier.operator == "==", requirement
                name = canonicalize_name(requirement.name)
                assert name not in found, f"{name} is pinned twice for Python {python}"
                found[name] = specifier.version
    return found


def required_by(package: str, extras: tuple[str, ...]) -> Iterator[Requirement]:
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            yield requirement


@pytest.fixture(scope="module")
def direct() -> list[Requirement]:
    try:
        ours = required_by("occ_perception", EXTRAS)
        training = required_by("occ_training", ("",))
        return [*ours, *(r for r in training if r.name != "occ_perception")]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the packages are not installed in this environment")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_requirement_is_pinned_to_a_version_it_allows(
    direct: list[Requirement], python: str
) -> None:
    pinned = pins(python)
    wrong = [
        str(requirement)
        for requirement in direct
        if not requirement.specifier.contains(
            pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]
    assert wrong == []


def test_the_wheels_of_jazzy_are_pinned_too(direct: list[Requirement]) -> None:
    assert direct
    pinned = pins("3.12", JAZZY_FILES)
    needed = required_by("occ_perception", ("ros", "workspace_jazzy"))
    assert [str(item) for item in needed if canonicalize_name(item.name) not in pinned] == []
    assert pinned["ros-rclpy"] != pins("3.12")["ros-rclpy"]


def test_everything_installed_by_set_up_is_pinned_at_its_version(
    direct: list[Requirement],
) -> None:
    if not (ROOT / ".venv/.setup/packages").is_file():
        pytest.skip("the environment was not made by make setup")
    ros = ROOT / ".venv/.setup/ros"
    is_jazzy = ros.is_file() and ros.read_text().strip() == "jazzy"
    files = JAZZY_FILES if is_jazzy else FILES
    pinned, seen, wrong = pins(f"3.{sys.version_info.minor}", files), set(), []
    waiting = list(direct)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, tuple(sorted(requirement.extras)))
        if key in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue  # torch pins its CUDA packages itself
        seen.add(key)
        installed = importlib.metadata.version(name)
        if name not in {"torch", "torchvision"} and pinned.get(name) != installed:
            wrong.append(f"{name}: installed {installed}, pinned {pinned.get(name)}")
        waiting += required_by(name, ("", *requirement.extras))
    assert len(seen) > 100
    assert sorted(wrong) == []


@pytest.mark.parametrize("file", sorted({*FILES, *JAZZY_FILES}))
def test_constraints_name_versions_only(file: str) -> None:
    # An index or a file address would bind every user to one machine's package source.
    lines = (ROOT / "constraints" / file).read_text().splitlines()
    assert [line for line in lines if line.startswith("-") or "://" in line or "@" in line] == []
