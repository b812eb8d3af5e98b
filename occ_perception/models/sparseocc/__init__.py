"""SparseOcc (arXiv 2312.17118): occupied voxels from coarse to fine, and masks over them."""
