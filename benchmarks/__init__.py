"""What the pipeline's speed claims rest on; ``make bench`` writes RESULTS.md."""
