"""A node's copy of the replicated state: apply loop, snapshots, reads, watches, forwarding."""
