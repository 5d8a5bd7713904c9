"""Serving: artefacts, images, the engine, explanations and HTTP. Never imports torch."""
