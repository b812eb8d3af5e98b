"""Compiled loops of the town: everything that touches pixels, voxels or ground cells.

Importing this package loads numba; the rest of :mod:`occ_perception.synthetic` imports it inside
the functions that need it. Kernels release the GIL and are run by threads, so their results do not
depend on how many threads there are. Compiled code is kept on disk, see ``compiled.py``.
"""
