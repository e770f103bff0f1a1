"""Code that all four packages share. It imports none of them, and nothing heavy when it is imported."""
