"""Training and evaluation of the occ_perception networks."""

__version__ = "0.1.0"
