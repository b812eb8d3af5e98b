"""Networks composed from parts: recipes, the zoo, checkpoints, inputs and temporal state."""
