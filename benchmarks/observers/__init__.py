"""Benchmarks of qnumpy.observers."""
