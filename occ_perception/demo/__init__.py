"""The demonstration: a drive through the node over DDS, scored, filmed and reported."""
