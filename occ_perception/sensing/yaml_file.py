"""Reads hand-written YAML files (rigs and topic layouts), with errors that name the key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from occ_perception.errors import OccError, did_you_mean


class YamlError(OccError):
    """A file with missing or wrong content; the message names file, key, expected and got."""


class YamlSection:
    """A mapping of a YAML file, with its position for error messages.

    Args:
        source: the file.
        path: keys from the top of the file to this section.
        content: the mapping itself.
    """

    def __init__(self, source: str, path: str, content: Any) -> None:
        self.source = source
        self.path = path
        if not isinstance(content, dict):
            raise YamlError(f"{source}: {path or 'the file'} must be a mapping, got {content!r}")
        self._content = content

    def __contains__(self, key: str) -> bool:
        return self._content.get(key) is not None

    def allow(self, *keys: str) -> None:
        """Refuse unknown keys, which are typing mistakes."""
        unknown = [str(key) for key in self._content if key not in keys]
        if unknown:
            raise YamlError(
                f"{self.source}: unknown key {self._name(unknown[0])}; "
                f"{self.path or 'the file'} may have {', '.join(keys)}"
            )

    def section(self, key: str) -> YamlSection:
        """A required mapping."""
        return YamlSection(self.source, self._name(key), self._required(key))

    def __iter__(self) -> Iterator[str]:
        """Keys, in the file's order."""
        return map(str, self._content)

    def sections(self) -> Iterator[tuple[str, YamlSection]]:
        """All entries, each of which must be a mapping."""
        for key in self._content:
            yield str(key), self.section(key)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; required if there is no default."""
        value = self._content.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._wrong(key, "text", value)
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """One of a few strings."""
        value = self.text(key, default)
        if value not in choices:
            raise self._wrong(key, " or ".join(choices), value)
        return value

    def flag(self, key: str) -> bool | None:
        """True or false; None if the key is missing."""
        value = self._content.get(key)
        if not isinstance(value, bool | None):
            raise self._wrong(key, "true or false", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; required if there is no default."""
        if key not in self and default is not None:
            return default
        return self._finite(key, self._required(key))

    def numbers(self, key: str, *counts: int) -> tuple[float, ...]:
        """A flat list of finite numbers with one of the given lengths, or of any length."""
        value = self._required(key)
        if not isinstance(value, list) or (counts and len(value) not in counts):
            wanted = f"{' or '.join(map(str, counts))} numbers" if counts else "a list of numbers"
            raise self._wrong(key, wanted, value)
        return tuple(self._finite(key, item) for item in value)

    def _finite(self, key: str, value: Any) -> float:
        # bool is an int to Python, and YAML 1.1 reads 1e3 as text.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number (exponents need a point: 1.0e3)", value)
        if not math.isfinite(value):
            raise self._wrong(key, "a finite number", value)
        return float(value)

    def _required(self, key: str) -> Any:
        if key not in self:
            raise YamlError(f"{self.source}: {self._name(key)} is missing")
        return self._content[key]

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else str(key)

    def _wrong(self, key: str, expected: str, got: Any) -> YamlError:
        return YamlError(f"{self.source}: {self._name(key)} must be {expected}, got {got!r}")


def shipped_names(package: str) -> tuple[str, ...]:
    """Names of the YAML files that are package data of ``package``, sorted."""
    files = resources.files(package).iterdir()
    return tuple(sorted(Path(f.name).stem for f in files if f.name.endswith(".yaml")))


def read_yaml(name_or_path: str | Path, package: str, kind: str) -> YamlSection:
    """Read a shipped file by its name, or any file by its path.

    Args:
        name_or_path: a name without suffix among :func:`shipped_names`, or a path.
        package: package that contains the shipped files.
        kind: kind of the file, for messages.

    Raises:
        YamlError: the name or file does not exist, or the file is not YAML.
    """
    name = str(name_or_path)
    if name in shipped_names(package):
        data = (resources.files(package) / f"{name}.yaml").read_bytes()
    else:
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            shipped = shipped_names(package)
            meant = did_you_mean(name, shipped)
            raise YamlError(
                f"no {kind} {name!r}: it is neither a file nor one of the shipped "
                f"{', '.join(shipped)}" + (f"; {meant}" if meant else "")
            )
        data = path.read_bytes()
    try:
        return YamlSection(name, "", yaml.safe_load(data.decode()))
    # A ValueError is text in another encoding than UTF-8, or a date that does not exist.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())  # of several lines
        raise YamlError(f"{name} is not YAML: {reason}") from error
