"""Data sets: the index, the frames, label files, pictures with augmentation."""
