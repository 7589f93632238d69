"""Raft consensus: a pure core, and shells for the log on disk."""
