"""A user's own images: how a folder or a CSV file of them is listed and loaded."""
