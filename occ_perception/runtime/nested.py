"""Tensors in nested dataclasses and tuples, such as the inputs, outputs and state of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def leaves_of(value: Any) -> Iterator[Any]:
    """Everything that is neither a dataclass nor a tuple, in order: tensors, constants, None."""
    if is_dataclass(value):
        for field in fields(value):
            yield from leaves_of(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from leaves_of(item)
    else:
        yield value


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors among the leaves."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor)]


def named_tensors_of(value: Any) -> dict[str, Tensor]:
    """The tensors among the leaves, in the same order, by the path of fields that leads to them."""
    named: dict[str, Tensor] = {}

    def visit(part: Any, path: str) -> None:
        if isinstance(part, Tensor):
            named[path] = part
            return
        inner: list[tuple[str, Any]] = []
        if is_dataclass(part):
            inner = [(field.name, getattr(part, field.name)) for field in fields(part)]
        elif isinstance(part, tuple):
            names = getattr(part, "_fields", map(str, range(len(part))))
            inner = list(zip(names, part, strict=True))
        for name, item in inner:
            visit(item, f"{path}.{name}" if path else name)

    visit(value, "")
    return named


def with_tensors(value: T, tensors: Iterable[Tensor]) -> T:
    """The same with other tensors, given in the order of :func:`tensors_of`."""
    result: T = _rebuilt(value, iter(tensors))
    return result


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        return replace(value, **{n: _rebuilt(getattr(value, n), tensors) for n in names})
    if isinstance(value, tuple):
        items = [_rebuilt(item, tensors) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
