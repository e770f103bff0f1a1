"""The stages of the recipe, one file each; `session` and `training` hold what they share."""
