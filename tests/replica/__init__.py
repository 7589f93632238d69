"""A node's copy of the state, in clusters on virtual time."""
