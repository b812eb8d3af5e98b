"""From what sensors send to camera frames: layouts, rings, images, ego pose."""
