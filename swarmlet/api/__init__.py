"""The HTTP API: routes by resource, the client, the event stream. Every route names the capability it needs."""
