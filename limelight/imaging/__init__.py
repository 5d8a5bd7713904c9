"""Conversion of uploads to the input of a network."""
