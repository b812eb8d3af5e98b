"""Pickled annotation files of published code bases, read without running anything.

Unpickling may import and call whatever the file names. Here only plain values and numpy arrays are
built; a file that names anything else is refused, and the message says what.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from occ_training.data.records import DatasetError

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_SCALARS = (np.bool_, np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8)

# Rebuilding an array calls these; each makes an array, a type or a number and nothing else.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{("numpy", scalar.__name__): scalar for scalar in _NUMPY_SCALARS},
    **{(m, "_reconstruct"): np.empty(0).__reduce__()[0] for m in _ARRAY_MODULES},
    **{(m, "scalar"): np.float64(0).__reduce__()[0] for m in _ARRAY_MODULES},
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "complex"): complex,
}


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """What protocol 5 of pickle calls for contiguous arrays."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order).copy()


def _encode(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 and older call for the bytes of an array."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[(_module, "_frombuffer")] = _frombuffer
_ALLOWED[("_codecs", "encode")] = _encode


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    return dict(*items)


_ALLOWED[("collections", "OrderedDict")] = _ordered_dict


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The function or type a pickle names, if it is one of the few that are harmless."""
        module = {"__builtin__": "builtins"}.get(module, module)
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise pickle.UnpicklingError(
                f"names {module}.{name}, which is not one of the plain values and numpy arrays "
                "that annotation files consist of"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to things outside of the file."""
        raise pickle.UnpicklingError(f"refers to something outside of the file: {pid!r}")


def load_info_pickle(path: str | Path) -> Any:
    """Content of a pickle file: dicts, lists, numbers, text and numpy arrays.

    Raises:
        DatasetError: missing, damaged, or it names something that is not needed for that.
    """
    file = Path(path)
    try:
        return _PlainUnpickler(io.BytesIO(file.read_bytes())).load()
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle may fail in any way
        raise DatasetError(
            f"{file} cannot be read as an annotation file: {error}. If you trust where it comes "
            "from, rewrite it with plain lists and numpy arrays"
        ) from error
