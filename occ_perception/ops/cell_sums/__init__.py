"""Sums of pixel features over the samples that fall into each cell."""
