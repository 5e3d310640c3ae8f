"""Benchmarks: each prints measured figures and the command that makes them."""
