"""Syntax trees of the packages: what is defined, imported, mentioned and called where."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What paths on these pages may be relative to.
BASES = (ROOT, ROOT / "occ_perception", ROOT / "training" / "occ_training")
PACKAGES = {
    "occ_perception": ROOT / "occ_perception",
    "occ_training": ROOT / "training" / "occ_training",
}


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


def tree_of_class(file: Path, method: str) -> list[ast.stmt]:
    found = definition(file, method.split(".")[0])
    assert isinstance(found, ast.ClassDef)
    return found.body
