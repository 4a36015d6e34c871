"""Side-by-side timings; each prints ratios. `python -m benchmarks.NAME`, on an idle machine."""
