"""A deterministic world: virtual clock, network, disk, crashes; it runs the same cores as the shells do."""
