"""SparseOcc (arXiv 2312.17118): occupied cells from coarse to fine, and masks over them."""
