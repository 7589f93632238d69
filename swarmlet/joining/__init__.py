"""How a machine becomes a node: the joiner's handshake and the cluster's answer to it."""
