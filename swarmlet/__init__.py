"""swarmlet: runs containers across machines without a special machine among them."""

VERSION = "0.1.0"
