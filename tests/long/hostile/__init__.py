"""Hostile inputs for a running service: `make test-hostile`. A sample is part of `make test`."""
