"""The artefact: the contract between training and serving."""
