"""Decoding of a user's image files by several processes, into a cache."""
