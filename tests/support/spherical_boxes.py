"""Spherical metadata put into mp4 files as Google's Spherical Video V1 (XML) and V2 (boxes) describe them.

https://github.com/google/spatial-media/blob/master/docs/spherical-video-v2-rfc.md
"""

import struct
from pathlib import Path

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
FLAGS = bytes(4)
V1_ID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
WHOLE, PART = bytes(16), struct.pack(">IIII", 0, 0, 1 << 30, 1 << 30)


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def stereo(mode: int) -> bytes:
    """0 one eye, 1 top-bottom, 2 side by side."""
    return box(b"st3d", FLAGS + bytes([mode]))


def projection(kind: bytes, payload: bytes, pose: tuple[float, float, float] = (0, 0, 0)) -> bytes:
    """ "equi" or "cbmp"; `pose` is yaw, pitch and roll in degrees."""
    angles = struct.pack(">3i", *(round(angle * 2**16) for angle in pose))
    inner = box(b"prhd", FLAGS + angles) + box(kind, FLAGS + payload)
    return box(b"sv3d", box(b"svhd", FLAGS + b"test\0") + box(b"proj", inner))


def first_version(mode: str, **more: str) -> bytes:
    """The XML of version 1."""
    tags = {"Spherical": "true", "Stitched": "true", "StitchingSoftware": "test", "ProjectionType": "equirectangular"}
    tags |= more
    inside = "".join(
        f"<GSpherical:{tag}>{text}</GSpherical:{tag}>" for tag, text in (tags | {"StereoMode": mode}).items()
    )
    xml = f'<?xml version="1.0"?><rdf:SphericalVideo xmlns:GSpherical="x">{inside}</rdf:SphericalVideo>'
    return box(b"uuid", V1_ID + xml.encode())


def add_metadata(path: Path, picture: bytes = b"", track: bytes = b"") -> None:
    """Adds boxes to the picture's sample entry and to its track; the file's header must lie behind its media data."""
    path.write_bytes(_with(path.read_bytes(), picture, track))


def _with(data: bytes, picture: bytes, track: bytes) -> bytes:
    parts, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body, at = data[at + 8 : at + size], at + size
        if kind == b"trak" and b"vide" not in body:
            pass
        elif kind in CONTAINERS:
            body = _with(body, picture, track) + (track if kind == b"trak" else b"")
        elif kind == b"stsd":
            body = body[:8] + box(body[12:16], body[16:] + picture)
        parts.append(box(kind, body))
    return b"".join(parts)
