"""Worker processes: their number, their connections, start and shutdown."""
