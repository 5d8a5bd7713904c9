"""Run folders: planning, writing, resuming and reading runs, and what a person sees of one."""
