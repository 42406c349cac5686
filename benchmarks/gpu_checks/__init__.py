"""The checks of benchmarks/gpu.py, each a function from a Setup to rows."""
