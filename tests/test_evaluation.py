"""Metrics from rows: names, checks, and equality with torch-fidelity on the same pictures."""
