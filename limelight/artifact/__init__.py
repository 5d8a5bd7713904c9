"""Artefacts: the contract between training and serving."""
