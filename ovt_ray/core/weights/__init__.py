"""A published version of the weights as data, and the ways that it travels."""
