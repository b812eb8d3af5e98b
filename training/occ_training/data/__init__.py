"""Data sets: the index, the frames, label files, images with augmentation."""
