"""From chains to traces: filters, duplicates, contamination, selection, and the endpoint that writes chains."""
