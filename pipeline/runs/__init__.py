"""Run folders: planning, writing, resuming and reading training runs."""
