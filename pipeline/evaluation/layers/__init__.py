"""Layers of a network: their shapes, what they depend on, and what they compute of an image."""
