"""ONNX models: look, quantize, run, evaluate, tune. Needs the extra ``onnx``."""
