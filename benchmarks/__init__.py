"""Comparisons and measurements, one folder for each package that they measure: `python -m benchmarks.<folder>`."""
