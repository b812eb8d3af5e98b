"""Stereo cost: how well each depth hypothesis explains what the camera saw one frame ago."""
