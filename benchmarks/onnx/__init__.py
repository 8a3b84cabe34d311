"""Benchmarks of ONNX models."""
