"""Benchmarks: each prints the ratios that the documents quote."""
