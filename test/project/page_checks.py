"""What the pages about the code name: floors, paths, names, steps and places, and what is wrong."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from code_tree import (
    PACKAGES,
    ROOT,
    calls,
    definition,
    imported_modules,
    is_defined,
    located,
    members,
    mentions,
    module_name,
    modules_below,
    tree,
    tree_of_class,
)

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


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
    if span in PACKAGES or span in [f"python -m {package}" for package in PACKAGES]:
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
