"""Heavy operations, one module per family: readable torch references behind :mod:`.backend`.

A faster implementation of an operation is a module beside it, ``<operation>_numba.py`` or
``<operation>_triton.py``, with a function of the same signature that is tested against the
reference.
"""
