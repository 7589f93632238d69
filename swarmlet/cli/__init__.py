"""The commands. They talk to a node through `swarmlet.api.client` and nothing else."""
