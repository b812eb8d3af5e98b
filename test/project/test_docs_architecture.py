"""docs/architecture.md, docs/tour.md and docs/deviations.md against the code that they describe.

Everything is read from syntax trees; nothing of the packages is imported. The checks are functions
of a page's text, so that the tests at the end can show that each one fails on a wrong page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
# What paths on these pages may be relative to.
BASES = (ROOT, ROOT / "occ_perception", ROOT / "training" / "occ_training")
PACKAGES = {
    "occ_perception": ROOT / "occ_perception",
    "occ_training": ROOT / "training" / "occ_training",
}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


ARCHITECTURE, TOUR, DEVIATIONS = (
    page(name) for name in ("architecture.md", "tour.md", "deviations.md")
)


# -- names in the code ---------------------------------------------------------------------------


def located(path: str) -> Path | None:
    """The file or folder that a page means."""
    return next((base / path for base in BASES if (base / path).exists()), None)


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def members(body: Iterable[ast.stmt]) -> dict[str, ast.stmt]:
    """Name -> what defines it: functions, classes, assigned names."""
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = statement
        elif isinstance(statement, ast.Assign):
            targets = [name for target in statement.targets for name in ast.walk(target)]
            found |= {name.id: statement for name in targets if isinstance(name, ast.Name)}
    return found


def definition(file: Path, dotted: str) -> ast.stmt | None:
    """What defines ``function``, ``Class`` or ``Class.method`` in a file."""
    found: ast.stmt | None = None
    body: Iterable[ast.stmt] = tree(file).body
    for name in dotted.split("."):
        found = members(body).get(name)
        if found is None:
            return None
        body = found.body if isinstance(found, ast.ClassDef) else ()
    return found


def modules_below(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    return [path] if path.suffix == ".py" else []


def is_defined(name: str, files: Iterable[Path]) -> bool:
    """Whether some file defines the name, as a member of the module or of one of its classes."""
    for file in files:
        if definition(file, name) is not None:
            return True
        classes = [node for node in tree(file).body if isinstance(node, ast.ClassDef)]
        if any(name in members(node.body) for node in classes):
            return True
    return False


def imported_modules(file: Path) -> set[str]:
    """Modules that a file imports from, wherever in it; ``from a import b`` counts for a.b, too."""
    found: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def module_name(file: Path) -> str:
    base = ROOT / "training" if ROOT / "training" in file.parents else ROOT
    return ".".join(file.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def mentions(node: ast.AST, name: str) -> bool:
    """Whether code reads a name or attribute called so."""
    return any(
        (isinstance(part, ast.Name) and part.id == name)
        or (isinstance(part, ast.Attribute) and part.attr == name)
        for part in ast.walk(node)
    )


def calls(node: ast.AST, expression: str) -> bool:
    """Whether code calls exactly this expression, such as ``self._net``."""
    return any(
        isinstance(part, ast.Call) and ast.unparse(part.func) == expression
        for part in ast.walk(node)
    )


# -- pages ---------------------------------------------------------------------------------------


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, text below it) of every heading; the text includes the heading."""
    for part in re.split(r"^(?=#{1,4} )", text, flags=re.M):
        if part.strip():
            yield part.splitlines()[0].lstrip("# "), part


def spans(text: str) -> list[str]:
    """Code spans, with the line breaks in them undone."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def is_path(span: str) -> bool:
    return (
        re.fullmatch(r"[\w./-]+", span) is not None
        and not span.startswith("/")
        and (span.endswith((".py", ".md", ".yaml", ".toml", ".msg", "/")))
    )


def paths_of(text: str) -> list[str]:
    """Files and folders that a text names, links included."""
    links = [f"docs/{link}" for link in re.findall(r"\]\(([\w./-]+\.md)[^)]*\)", text)]
    return [span for span in spans(text) if is_path(span)] + links


def wrong_paths(text: str) -> list[str]:
    return [
        path
        for path in paths_of(text)
        if (place := located(path)) is None or place.is_dir() != path.endswith("/")
    ]


FORBIDDEN = {
    name
    for contract in CONTRACTS
    if contract["type"] == "forbidden"
    for name in contract["forbidden_modules"]
}
# Programs, and what tells whether one has a command.
COMMANDS = {
    "occ": ROOT / "occ_perception" / "cli" / "__init__.py",
    "occ-train": ROOT / "training" / "occ_training" / "cli.py",
    "make": ROOT / "Makefile",
}


def is_command(span: str) -> bool:
    program, _, rest = span.partition(" ")
    if span in PACKAGES or span == "python -m occ_training":
        return True
    if program not in COMMANDS:
        return False
    word = rest.split(" ")[0]
    text = COMMANDS[program].read_text()
    return not word or word == "--help" or re.search(rf"\b{re.escape(word)}\b", text) is not None


def wrong_names(text: str) -> list[str]:
    """Code spans that are no path, and that nothing named in the same section defines."""
    wrong = []
    for _, section in sections(text):
        places = [place for path in paths_of(section) if (place := located(path)) is not None]
        files = [file for place in places for file in modules_below(place)]
        source = "\n".join(file.read_text() for file in files)
        for span in spans(section):
            name = span.removesuffix("()")
            known = (
                is_path(span)
                or is_command(span)
                or span in FORBIDDEN
                or (name.replace(".", "").isidentifier() and is_defined(name, files))
                or (re.fullmatch(r"~/\w+|self\.\w+|\w+=True|\w+_T_\w+", span) and span in source)
                or (span.endswith("=False") and span.replace("=False", ": bool") in source)
                or any(place.stem == span for place in places)
            )
            if not known:
                wrong.append(span)
    return wrong


# -- floors --------------------------------------------------------------------------------------


def floors_of_contract(package: str) -> list[set[str]]:
    """Rooms of every floor, from the ground up, as import-linter enforces them."""
    (contract,) = (c for c in CONTRACTS if c["type"] == "layers" and c["containers"] == [package])
    assert contract["exhaustive"]
    return [set(re.findall(r"\w+", layer)) for layer in reversed(contract["layers"])]


def floors_of_page(text: str, package: str) -> list[set[str]]:
    part = text.split(f"\n## Floors of {package}\n")[1].split("\n## ")[0]
    headings = re.findall(r"^### (.+)$", part, re.M)
    assert headings == [f"Floor {number}" for number in range(1, len(headings) + 1)]
    found = []
    for floor in part.split("\n### ")[1:]:
        rooms = re.findall(r"^- `([\w.]+/?)`:", floor, re.M)
        assert len(rooms) == floor.count("\n- "), floor
        assert len(set(rooms)) == len(rooms), rooms
        for room in rooms:
            assert (PACKAGES[package] / room).exists(), room
        found.append({room.removesuffix("/").removesuffix(".py") for room in rooms})
    return found


def rooms_of(package: str) -> set[str]:
    folder = PACKAGES[package]
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    return files | {file.parent.name for file in folder.glob("*/__init__.py")}


@pytest.mark.parametrize("package", PACKAGES)
def test_floors_are_those_that_the_import_rules_enforce(package: str) -> None:
    floors = floors_of_page(ARCHITECTURE, package)
    assert floors == floors_of_contract(package)
    assert set.union(*floors) == rooms_of(package)


def test_import_rules_of_the_page_name_every_forbidden_package() -> None:
    rules = dict(sections(ARCHITECTURE))["Import rules"]
    assert set(spans(rules)) >= FORBIDDEN


# -- the tour ------------------------------------------------------------------------------------

STEP = re.compile(r"^### \d+\. `([\w./]+)`: `([\w.]+)`$", re.M)
CALLED = re.compile(
    r"^Called by `([\w.]+)` in `([\w./]+)`(?: as `([\w.]+)`, set in `([\w.]+)` in `([\w./]+)`)?\.$"
)
PART = re.compile(r"^- `(self\.\w+)`: `(\w+)` in `([\w./]+)`", re.M)


def chains(text: str) -> Iterator[list[tuple[str, str, str]]]:
    """Steps of every chain of a page: file, function, and the text below."""
    for chain in re.split(r"^## ", text, flags=re.M):
        found = STEP.split(chain)[1:]
        if found:
            numbers = re.findall(r"^### (\d+)\.", chain, re.M)
            assert numbers == [str(number) for number in range(1, len(found) // 3 + 1)], numbers
            yield list(zip(found[::3], found[1::3], found[2::3], strict=True))


def broken_links(text: str) -> list[str]:
    """Steps that the one before does not lead to, as far as syntax trees show."""
    return [wrong for chain in chains(text) for wrong in _broken_links(chain)]


def _broken_links(chain: list[tuple[str, str, str]]) -> Iterator[str]:
    seen: list[Path] = []
    for number, (path, function, below) in enumerate(chain, start=1):
        step = f"step {number}, {path}: {function}"
        file = located(path)
        if file is None or definition(file, function) is None:
            yield f"{step} does not exist"
            continue
        called = [
            match
            for paragraph in below.split("\n\n")
            if (match := CALLED.match(" ".join(paragraph.split())))
        ]
        if number > 1 and len(called) != 1:
            yield f"{step} says {len(called)} times what calls it"
        for match in called:
            problem = _wrong_call(file, function, *match.groups())
            if problem:
                yield f"{step}: {problem}"
            caller_file = located(match[2])
            follows = caller_file in seen or (
                seen and module_name(seen[-1]) in imported_modules(file)
            )
            if number > 1 and not follows:
                yield f"{step}: neither its caller nor what it imports came before"
        seen.append(file)


def _wrong_call(
    file: Path,
    function: str,
    caller: str,
    caller_path: str,
    expression: str | None,
    setter: str | None,
    setter_path: str | None,
) -> str:
    """What is wrong with "Called by CALLER in FILE (as EXPRESSION, set in SETTER in FILE)"."""
    name = function.removesuffix(".__call__").removesuffix(".forward").split(".")[-1]
    caller_file = located(caller_path)
    calling = caller_file and definition(caller_file, caller)
    if not calling:
        return f"{caller} in {caller_path} does not exist"
    knows, where = calling, caller_file
    if expression:
        if not calls(calling, expression):
            return f"{caller} does not call {expression}"
        where = located(setter_path or "")
        knows = where and definition(where, setter or "")
        if not knows:
            return f"{setter} in {setter_path} does not exist"
    assert where is not None
    if not mentions(knows, name):
        return f"{setter or caller} does not mention {name}"
    if where != file and module_name(file) not in imported_modules(where):
        return f"{where.name} does not import {module_name(file)}"
    return ""


def wrong_parts(text: str, network: Path, forward: str) -> list[str]:
    """Parts of the forward pass that it does not call, or not in this order."""
    body = definition(network, forward)
    assert body is not None
    source = ast.unparse(body)
    wrong, last = [], -1
    for expression, part, path in PART.findall(text):
        file = located(path)
        at = source.find(f"{expression}(")
        within = [at] + [  # a part that a helper of the class calls is called where the helper is
            source.find(f"self.{name}(")
            for name, helper in members(tree_of_class(network, forward)).items()
            if name.startswith("_") and calls(helper, expression)
        ]
        at = max(within)
        if file is None or definition(file, part) is None or at <= last:
            wrong.append(f"{expression}: {part} in {path}")
        elif module_name(file) not in imported_modules(network):
            wrong.append(f"{network.name} does not import {path}")
        last = at
    return wrong


def tree_of_class(file: Path, method: str) -> list[ast.stmt]:
    found = definition(file, method.split(".")[0])
    assert isinstance(found, ast.ClassDef)
    return found.body


OCCUPANCY_NET = ROOT / "occ_perception" / "models" / "occupancy_net.py"


def test_every_step_of_the_tour_follows_from_the_code() -> None:
    lengths = [len(chain) for chain in chains(TOUR)]
    assert len(lengths) == 2
    assert min(lengths) > 8
    assert broken_links(TOUR) == []


def test_parts_of_the_forward_pass_are_called_in_the_order_of_the_tour() -> None:
    assert len(PART.findall(TOUR)) >= 10
    assert wrong_parts(TOUR, OCCUPANCY_NET, "OccupancyNet.forward") == []


# -- deviations ----------------------------------------------------------------------------------

WHERE = re.compile(r"Code: (.+?) Test: (.+?)\.(?= |$)")
CODE = re.compile(r"`([\w./]+)`(?: \(((?:`[\w.]+`(?:, )?)+)\))?")


def entries(text: str) -> list[tuple[str, str]]:
    """Title of every quirk, and the "Code: ... Test: ..." after it, "" without."""
    found = []
    for heading, section in sections(text):
        if heading in ("Fewer cameras than a model was trained with", "Where rounding decides"):
            continue
        paragraphs = [" ".join(paragraph.split()) for paragraph in section.split("\n\n")]
        for paragraph, after in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
            if title := re.match(r"\*\*(.+?)\*\*", paragraph):
                found.append((title[1], after if after.startswith("Code: ") else ""))
    return found


def wrong_places(text: str) -> list[str]:
    """Code and tests that a page names and that do not exist; entries that name none."""
    wrong = [f"{title}: no code or no test" for title, where in entries(text) if not where]
    for code, tests in WHERE.findall(" ".join(text.split())):
        named = CODE.findall(code)
        if not named or CODE.sub("", code).strip(", ") != ".":
            wrong.append(f"code: {code}")
        for path, names in named:
            file = located(path)
            if file is None or not file.is_file():
                wrong.append(path)
                continue
            missing = [name for name in spans(names) if definition(file, name) is None]
            wrong += [f"{path}: {name}" for name in missing]
        files = re.findall(r"`([\w./]+)`", tests)
        if not files or re.sub(r"`[\w./]+`", "", tests).strip(", "):
            wrong.append(f"test: {tests}")
        wrong += [path for path in files if not has_tests(ROOT / path)]
    return wrong


def has_tests(file: Path) -> bool:
    return (
        file.name.startswith("test_")
        and file.is_file()
        and any(name.startswith("test_") for name in members(tree(file).body))
    )


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
        ("`OccupancyNode.__init__` in", "`OccupancyNode.stop` in", "does not mention add"),
        ("\n\nCalled by `Worker._run` in `ros/worker.py`.", "", "says 0 times what calls it"),
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
