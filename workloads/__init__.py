"""What tests and benchmarks both run: judged answers, hostile answers, workers without an engine. Neither imports the other."""
