"""Captions by models: BLIP-2 describes the faces of the cube, a chat model joins their texts into one caption."""
