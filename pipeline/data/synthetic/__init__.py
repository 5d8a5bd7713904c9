"""Images that are drawn: pictures without an object, and scenes with one at a known place."""
