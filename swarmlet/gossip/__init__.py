"""SWIM membership: a pure core and one shell."""
