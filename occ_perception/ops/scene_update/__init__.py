"""Scene update: one gradient step of a scene's own linear layer, and the layer's application."""
