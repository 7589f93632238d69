"""Drivers run tasks: `docker` and `raw_exec`."""
