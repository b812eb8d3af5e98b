"""Reader for pickled annotation files of public code bases that executes none of their code.

Unpickling can import and call anything that the file names. This reader builds only plain values
and numpy arrays of numbers or text. A file that names anything else is refused; the message gives
the name.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from occ_training.data.records import DatasetError

_PLAIN_KINDS = "biufcSU"
_NUMPY_SCALARS = (np.bool_, np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8)


def _dtype(name: Any, *_: Any) -> np.dtype[Any]:
    """A type of numbers or text by its name; a copy, because its state can be set."""
    dtype = np.dtype(name, False, True) if isinstance(name, str) else None
    if dtype is None or dtype.kind not in _PLAIN_KINDS:
        raise pickle.UnpicklingError(f"has arrays of {name!r}, expected numbers or text")
    return dtype


def _reconstruct(*_: Any) -> NDArray[Any]:
    """An empty array; the file then sets its state."""
    return np.empty(0, np.int8)


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    """One number from its bytes."""
    return np.frombuffer(raw, dtype, count=1)[0]


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Called by protocol 5 of pickle for contiguous arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy()


def _encode(text: str, encoding: str) -> bytes:
    """Called by pickles of protocol 2 and older for the bytes of an array."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    return dict(*items)


# Names that files use for arrays and containers, and the functions called instead.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # an argument of _reconstruct, never called
    ("numpy", "dtype"): _dtype,
    **{("numpy", scalar.__name__): scalar for scalar in _NUMPY_SCALARS},
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
    ("collections", "OrderedDict"): _ordered_dict,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _frombuffer


class _PlainUnpickler(pickle._Unpickler):
    """The unpickler in Python, which allows a check of whose state a file sets."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Set the state of an array, or of a dtype if numpy itself would write that state.

        Any other state of a dtype could declare its bytes to be addresses of objects.
        """
        state, value = self.stack[-1], self.stack[-2]  # type: ignore[attr-defined]
        if isinstance(value, np.dtype):
            written = [kind.__reduce__()[2] for kind in (value, value.newbyteorder())]
            if state not in written:
                raise pickle.UnpicklingError(f"gives the type {value} the state {state!r}")
        elif not isinstance(value, np.ndarray):
            raise pickle.UnpicklingError(f"sets the state of a {type(value).__name__}")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """The function or type that a pickle names, if it is one of the allowed ones."""
        module = {"__builtin__": "builtins"}.get(module, module)
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(
                f"names {module}.{name}, which is not one of the plain values and numpy arrays "
                "that annotation files consist of"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside of the file."""
        raise pickle.UnpicklingError(f"refers to an object outside of the file: {pid!r}")


def load_info_pickle(path: str | Path) -> Any:
    """Content of a pickle file: dicts, lists, numbers, text and numpy arrays of numbers or text.

    Raises:
        DatasetError: missing, damaged, or it names something else.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream).load()
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DatasetError(
            f"{file} cannot be read as an annotation file: {error}. If you trust its source, "
            "rewrite it with plain lists, and numpy arrays of numbers or text"
        ) from error
