"""The console script occ."""
