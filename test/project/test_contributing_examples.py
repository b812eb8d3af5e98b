"""The worked examples of CONTRIBUTING.md: each is applied to a copy of this checkout, and tried."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from nuscenes_folder import VERSION, drawn_scene

from occ_perception.bags.nuscenes import convert_nuscenes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# A block of the page: the file that it is, where the line before names one, its language, its text.
BLOCK = re.compile(r"(?:^`([^`\n]+)`:?\n\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Example:
    """One section of the page.

    Attributes:
        title: its heading.
        stated: how many files it says to touch.
        new: path -> text of files to create.
        diffs: changes of files that are there.
        commands: what tries it.
        shown: lines that the commands print, among others.
    """

    title: str
    stated: int
    new: dict[str, str]
    diffs: tuple[str, ...]
    commands: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def files(self) -> set[str]:
        """All files that it touches."""
        return {*self.new, *re.findall(r"^\+\+\+ b/(\S+)$", "".join(self.diffs), re.M)}

    def apply(self, folder: Path) -> None:
        """Make the changes in a checkout."""
        for name, text in self.new.items():
            assert not (folder / name).exists(), f"{name} exists; show the change as a diff"
            (folder / name).write_text(text)
        for diff in self.diffs:
            run(["git", "apply", "-"], folder, diff)

    def try_out(self, folder: Path) -> None:
        """Run the commands in a checkout, and compare what they print."""
        printed = "".join(run(["bash", "-ec", command], folder) for command in self.commands)
        for line in self.shown:
            assert line in printed, f"{line!r} is not in\n{printed}"


def examples() -> dict[str, Example]:
    """By the first word of the heading that names a thing."""
    found = {}
    for section in PAGE.split("\n### ")[1:]:
        if not (heading := re.match(r"(\d)\. (.+)\n", section)):
            continue
        section = section.split("\n## ")[0]
        stated = re.search(r"touches (\d) files?", section)
        assert stated, f"{heading[2]}: how many files does it touch?"
        blocks = BLOCK.findall(section)
        found[heading[1]] = Example(
            title=heading[2],
            stated=int(stated[1]),
            new={path: text for path, kind, text in blocks if kind in ("python", "yaml")},
            diffs=tuple(text for _, kind, text in blocks if kind == "diff"),
            commands=tuple(_commands(text for _, kind, text in blocks if kind == "bash")),
            shown=tuple(
                line for _, kind, text in blocks if kind == "text" for line in text.splitlines()
            ),
        )
    return found


def _commands(blocks) -> list[str]:
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line]


EXAMPLES = examples()


def run(command: list[str], folder: Path, given: str | None = None) -> str:
    """What a command prints; it must succeed."""
    paths = [str(folder), str(folder / "training"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        cwd=folder,
        input=given,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files of this checkout, without those that git ignores."""
    folder = tmp_path / "checkout"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # a deleted file is listed until that is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "build").symlink_to(ROOT / "build")  # what node tests have built once
    return folder


def test_there_are_five_examples_of_three_files_at_most() -> None:
    assert list(EXAMPLES) == ["1", "2", "3", "4", "5"]
    assert all(0 < example.stated <= 3 for example in EXAMPLES.values())


def test_they_touch_as_many_files_as_they_say_and_keep_the_style(checkout: Path) -> None:
    for example in EXAMPLES.values():
        assert len(example.files) == example.stated, example.title
        example.apply(checkout)
    python = sorted(f for e in EXAMPLES.values() for f in e.files if f.endswith(".py"))
    run(["ruff", "check", "--no-cache", *python], checkout)
    run(["ruff", "format", "--no-cache", "--check", *python], checkout)


SLOW = pytest.mark.slow(ci=True)


@pytest.mark.parametrize(
    "number", [pytest.param("1", marks=SLOW), "3", pytest.param("4", marks=SLOW), "5"]
)
def test_an_example_works(number: str, checkout: Path) -> None:
    EXAMPLES[number].apply(checkout)
    EXAMPLES[number].try_out(checkout)


def test_the_layout_fits_the_bag(checkout: Path, tmp_path: Path) -> None:
    drawn_scene(tmp_path / "nuscenes", scene="scene-0103", keyframes=3, size=(160, 90))
    convert_nuscenes(tmp_path / "nuscenes", VERSION, "scene-0103", checkout / "drive")
    EXAMPLES["2"].apply(checkout)
    EXAMPLES["2"].try_out(checkout)
