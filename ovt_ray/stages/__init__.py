"""The stages of the recipe, one file each, and what they share."""
