"""What several benchmarks share: a sentence encoder in NumPy, and sentences for it."""
