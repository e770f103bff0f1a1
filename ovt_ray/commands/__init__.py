"""The commands of `ovt-ray`, one file each with its arguments and its verb. Importing them costs nothing heavy.

A new command is a new file here with `SUMMARY`, `DESCRIPTION`, `add_arguments` and `main`, and its name in `ovt_ray.cli.COMMANDS`.
"""
