"""Parts of networks that look up features for voxels, instead of lifting pixels to a volume."""
