"""Deformable convolution of the fourth kind: a weighted sum of displaced neighbours per group."""
