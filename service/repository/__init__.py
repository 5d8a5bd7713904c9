"""Model repository in the parent process: it decides which versions all workers serve."""
