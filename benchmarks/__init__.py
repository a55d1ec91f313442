"""Measurements of speed, each a module to run: `python -m benchmarks.NAME`. Raw numbers go to `results/`."""
