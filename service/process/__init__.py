"""Worker processes: how many, how they share connections, start and stop."""
