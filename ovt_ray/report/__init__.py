"""The report of a run: page, curves, samples and traces."""
