"""The replicated state machine, pure: commands, store, apply, snapshot bytes."""
