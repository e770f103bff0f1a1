"""The stages of the recipe, one file each; `session` and `training` hold their common parts."""
