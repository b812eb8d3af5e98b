"""Occupancy labels from a recording's own lidar: geometry for people without annotations."""
