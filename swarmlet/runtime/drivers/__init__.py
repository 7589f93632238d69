"""Drivers run tasks: `docker`, `exec` and `raw_exec`."""
