"""This node's work: allocations become runners, runners drive drivers."""
