"""The parts of `python -m bench.steady`: load, processes to load, and one file an aim."""
