"""Export of a run as a verified artefact."""
