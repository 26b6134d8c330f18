"""What tests share: small configs and networks, files of every kind, originals to compare with."""
