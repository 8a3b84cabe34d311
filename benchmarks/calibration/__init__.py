"""Benchmarks of qnumpy.calibration."""
