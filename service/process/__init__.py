"""Worker processes: their number, state and connections, start and shutdown."""
