"""Framed MessagePack over mutual TLS: requests, streams and one-way messages on one TCP port.

`frame` is the wire form, `connection` what both ends share, `server` and `client` the two ends, `failure`
how errors cross, `limits` every bound, `dial` how a TCP connection is made and what its failure says.
"""
