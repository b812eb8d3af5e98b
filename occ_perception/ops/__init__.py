"""Heavy operations, one module per family: readable torch references behind :mod:`.backend`.

An operation that has a faster implementation is a folder: ``reference.py`` defines it, beside it
``triton.py`` or ``numba.py`` have the same signature and are tested against it.
"""
