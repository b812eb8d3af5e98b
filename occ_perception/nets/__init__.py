"""Pure network modules: no state between calls, no knowledge of streams."""
