"""Speed, as ratios measured side by side: ``python -m benchmarks`` prints the table, README.md explains it."""
