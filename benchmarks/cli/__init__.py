"""Benchmarks of qnumpy.cli."""
