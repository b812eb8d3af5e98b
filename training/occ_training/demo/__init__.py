"""The demonstration checkpoint: rendered, trained, scored and packed by one command.

Needs no files and no network: frames are rebuilt from seeds by processes beside the trainer. Runs
where torch, timm, numba, SciPy, Pillow and OpenCV are; see ``occ_training.demo.run``.
"""
