"""Peers: the same two networks behind other servers, each as its documentation shows it.

They run in environments of their own (`bench.serving.environments`), never in the project's.
"""
