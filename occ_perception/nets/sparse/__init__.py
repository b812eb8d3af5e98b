"""Parts of networks that look up features for cells, instead of lifting pixels to a volume."""
