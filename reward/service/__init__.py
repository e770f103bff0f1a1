"""Processes and actors that score answers and can be killed."""
