"""How fast a part of training is on this machine."""
