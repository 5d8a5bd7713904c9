"""From a run to a verified artefact."""
