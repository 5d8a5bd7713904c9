"""Training loop, and everything that a recipe configures."""
