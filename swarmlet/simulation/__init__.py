"""A deterministic world: virtual clock, network, disk and crashes around the same cores."""
