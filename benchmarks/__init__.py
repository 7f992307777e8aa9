"""What kling-flows costs and how fast it is, measured with ``python -m benchmarks``; see README.md."""
