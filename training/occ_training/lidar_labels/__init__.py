"""Occupancy labels from raw lidar, for recordings without annotations."""
