"""Run folders: planning, writing, resuming and reading runs, and their display in the terminal."""
