"""What `bench.serve` and `bench.stages` share: workloads, load, servers, results, reports."""
