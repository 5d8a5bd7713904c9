"""What explanations are worth and what they cost: the parts of `bench.zoom` and `bench.maps`."""
