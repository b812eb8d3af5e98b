"""The demonstration: plays a drive into the node over DDS, scores it, writes film and report."""
