"""This node's network: overlay, name service, load balancing, ingress."""
