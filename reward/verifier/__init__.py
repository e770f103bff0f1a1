"""The verifier: pure functions, one file for each kind of answer."""
