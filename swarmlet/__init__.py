"""swarmlet: runs containers across machines without a special machine among them."""
