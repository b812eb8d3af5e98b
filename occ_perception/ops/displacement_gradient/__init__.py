"""Displacement gradient: how far a motion field disagrees with the one stored a frame ago."""
