"""Parts of `bench.serve`: workloads, contestants, measurements and their summary."""
