"""History warp: features of the previous frame sampled where the current cells were then."""
