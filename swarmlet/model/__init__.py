"""The nouns, frozen. Whether something fits on a node is decided here, once."""
