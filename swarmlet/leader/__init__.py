"""What only the leader does: evaluation broker, deployments, drains, node failures, autopilot, GC."""
