"""Pictures of predictions, made without a display."""
