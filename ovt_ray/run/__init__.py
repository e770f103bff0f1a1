"""The run folder: ledger, metrics, timeline, progress and results."""
