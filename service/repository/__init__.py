"""Model repository: the parent process decides which versions are served, and workers follow."""
