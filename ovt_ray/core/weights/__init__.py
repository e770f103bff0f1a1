"""What a published version of the weights is, and how it travels."""
