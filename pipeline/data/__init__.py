"""Data sets: published ones, folders and tables of images, and how they are split."""
