"""Benchmarks of qnumpy.arrays."""
