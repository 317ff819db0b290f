"""What it costs, beside the peers, as ratios of one run: `python -m benchmarks`."""
