"""Framed MessagePack over mutual TLS: requests and streams."""
