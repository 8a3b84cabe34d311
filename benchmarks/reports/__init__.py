"""Benchmarks of qnumpy.reports."""
