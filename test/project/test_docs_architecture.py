"""docs/architecture.md, docs/tour.md and docs/deviations.md against the code that they describe.

Everything is read from syntax trees; nothing of the packages is imported. The checks are functions
of a page's text, so that the tests at the end can show that each one fails on a wrong page.
"""

from __future__ import annotations

import re

import pytest
from code_tree import (
    PACKAGES,
    ROOT,
)
from page_checks import (
    FORBIDDEN,
    PART,
    STEP,
    WHERE,
    broken_links,
    chains,
    entries,
    floors_of_contract,
    floors_of_page,
    page,
    paths_of,
    rooms_of,
    sections,
    spans,
    wrong_names,
    wrong_parts,
    wrong_paths,
    wrong_places,
)

ARCHITECTURE, TOUR, DEVIATIONS = (
    page(name) for name in ("architecture.md", "tour.md", "deviations.md")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_floors_are_those_that_the_import_rules_enforce(package: str) -> None:
    floors = floors_of_page(ARCHITECTURE, package)
    assert floors == floors_of_contract(package)
    assert set.union(*floors) == rooms_of(package)


def test_import_rules_of_the_page_name_every_forbidden_package() -> None:
    rules = dict(sections(ARCHITECTURE))["Import rules"]
    assert set(spans(rules)) >= FORBIDDEN


OCCUPANCY_NET = ROOT / "occ_perception" / "models" / "occupancy_net.py"


def test_every_step_of_the_tour_follows_from_the_code() -> None:
    lengths = [len(chain) for chain in chains(TOUR)]
    assert len(lengths) == 2
    assert min(lengths) > 8
    assert broken_links(TOUR) == []


def test_parts_of_the_forward_pass_are_called_in_the_order_of_the_tour() -> None:
    assert len(PART.findall(TOUR)) >= 10
    assert wrong_parts(TOUR, OCCUPANCY_NET, "OccupancyNet.forward") == []


def test_every_deviation_names_code_and_tests_that_exist() -> None:
    titles = [title for title, _ in entries(DEVIATIONS)]
    assert len(titles) > 55
    assert len(set(titles)) == len(titles)
    assert wrong_places(DEVIATIONS) == []
    assert wrong_paths(DEVIATIONS) == []
    # Every "Code:" is read: none is passed over because its line is written another way.
    words = " ".join(DEVIATIONS.split())
    assert len(WHERE.findall(words)) == words.count("Code: ") == words.count("Test: ")


# -- names on all pages --------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ARCHITECTURE, TOUR], ids=["architecture", "tour"])
def test_paths_and_names_exist(text: str) -> None:
    assert len(paths_of(text)) > 50
    assert wrong_paths(text) == []
    assert wrong_names(text) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_front_pages_lead_to_both(name: str) -> None:
    text = (ROOT / name).read_text()
    for linked in ("docs/architecture.md", "docs/tour.md"):
        assert f"]({linked})" in text, linked


# -- wrong pages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- `geometry/`:", "- `geometry.py`:"),  # a folder, not a file
        ("- `codec.py`:", "- `decoder.py`:"),
        ("- `codec.py`:", "- `frames.py`:"),  # twice, and one missing
        ("### Floor 2\n", ""),  # two floors become one
    ],
)
def test_a_wrong_room_is_noticed(old: str, new: str) -> None:
    assert old in ARCHITECTURE
    wrong = ARCHITECTURE.replace(old, new, 1)
    try:
        floors = floors_of_page(wrong, "occ_perception")
    except AssertionError:
        return
    assert floors != floors_of_contract("occ_perception")


def test_a_room_on_another_floor_is_noticed() -> None:
    line = re.search(r"^- `atomic.py`:.*\n(?:  .*\n)*", ARCHITECTURE, re.M)
    assert line is not None
    wrong = ARCHITECTURE.replace(line[0], "").replace("- `errors.py`", line[0] + "- `errors.py`")
    assert floors_of_page(wrong, "occ_perception") != floors_of_contract("occ_perception")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("`FrameAssembler.assemble`\n", "`FrameAssembler.build`\n", "does not exist"),
        ("`sensing/images.py`: `decode", "`sensing/frame_sets.py`: `decode", "does not exist"),
        ("`FrameAssembler.image` in", "`FrameAssembler.reset` in", "does not mention decode_image"),
        ("`CameraInput._take_image` in `ros/c", "`CameraInput.gone` in `ros/c", "does not exist"),
        ("as `self._net`", "as `self._network`", "does not call self._network"),
        ("`Activation.__init__` in", "`Activation.stop` in", "does not mention add"),
        (
            "\n\nCalled by `AssemblyStage._run` in `ros/assembly_stage.py`.",
            "",
            "says 0 times what calls it",
        ),
    ],
)
def test_a_wrong_step_is_noticed(old: str, new: str, problem: str) -> None:
    assert old in TOUR
    assert problem in "; ".join(broken_links(TOUR.replace(old, new, 1)))


def test_steps_in_the_wrong_order_are_noticed() -> None:
    """A step before the one that its caller belongs to follows from nothing."""
    first, *steps = STEP.split(TOUR.split("\n## From one recording")[0])
    whole = list(zip(steps[::3], steps[1::3], steps[2::3], strict=True))
    moved = [whole[0], whole[-1], *whole[1:-1]]
    page = first + "".join(
        f"### {number}. `{path}`: `{function}`{below}"
        for number, (path, function, below) in enumerate(moved, start=1)
    )
    assert "neither its caller nor what it imports came before" in "; ".join(broken_links(page))


def test_parts_in_the_wrong_order_are_noticed() -> None:
    lines = [match[0] for match in PART.finditer(TOUR)]
    backwards = "\n".join(reversed(lines))
    assert wrong_parts("\n".join(lines), OCCUPANCY_NET, "OccupancyNet.forward") == []
    assert wrong_parts(backwards, OCCUPANCY_NET, "OccupancyNet.forward")


@pytest.mark.parametrize(
    "text",
    [
        "# A\n`frames.py` has `CameraFrames`.",
        "# A\n`frames.py` has no `decode_image`.",
        "# A\n`frames.py`\n# B\n`CameraFrame` without its file",
        "# A\n`occ demonstrate`",
        "# A\n`make everything`",
        "# A\n`runtime/stream.py` has `commits=False`.",
    ],
)
def test_a_wrong_name_is_noticed(text: str) -> None:
    assert len(wrong_names(text)) == 1


@pytest.mark.parametrize("text", ["`nets/rays_of_light.py`", "`nets.py`", "[page](nowhere.md)"])
def test_a_wrong_path_is_noticed(text: str) -> None:
    assert len(wrong_paths(text)) == 1
    assert wrong_paths("`frames.py` `nets/` [page](conventions.md)") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(`feature_pixels`)", "(`pixel_features`)"),
        ("`ops/splat.py`", "`ops/soft_splat`"),
        ("Test: `test/nets/test_nets_cameras.py`.", "Test: `test/nets/test_nets_rays.py`."),
        ("Test: `test/nets/test_nets_cameras.py`.", "Test: parity."),
        ("\nCode: `nets/cameras.py` (`feature_pixels`).\n", "\n"),
    ],
)
def test_a_deviation_without_its_code_or_test_is_noticed(old: str, new: str) -> None:
    assert old in DEVIATIONS
    assert wrong_places(DEVIATIONS.replace(old, new, 1))
