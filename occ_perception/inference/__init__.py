"""Models on recorded drives: from a name and a path to predictions."""
