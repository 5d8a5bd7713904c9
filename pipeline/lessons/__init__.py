"""The networks and comparisons of the fast.ai lessons."""
