"""Benchmarks of qnumpy.ops."""
