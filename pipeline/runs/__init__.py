"""Run folders: what a training run is given, writes, and can be resumed or begun from."""
