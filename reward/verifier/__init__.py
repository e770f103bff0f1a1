"""The verifier: pure functions, a file for each kind of answer."""
