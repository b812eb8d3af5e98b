"""Hard assignment: every sample of a ray goes to one cell."""
