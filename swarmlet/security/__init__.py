"""CA, certificates, join tokens, sealing, authorisation."""
