"""One file for each command of `ovt-ray`."""
