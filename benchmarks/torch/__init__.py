"""Benchmarks of models of PyTorch."""
