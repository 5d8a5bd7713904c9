"""The training loop and everything that a recipe chooses."""
