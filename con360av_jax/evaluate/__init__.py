"""How near generated clips are to real ones: distances between stored features, without the networks that made them."""
