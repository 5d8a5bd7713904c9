"""Explanation methods, and the bounding boxes and overlays of their maps."""
