"""Projections that a file states and FFmpeg does not report: meshes, unknown kinds, and version 1 metadata of others.

Spherical Video V2 has mp4 boxes sv3d/proj and Matroska's ProjectionType, V1 an XML text in a uuid box of a track.
https://github.com/google/spatial-media/blob/master/docs/spherical-video-v2-rfc.md
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

V1_ID = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
EBML = b"\x1a\x45\xdf\xa3"
# Boxes and elements that lead to a projection, with the bytes of a box before the first one inside it.
BOXES = {b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8, b"sv3d": 0, b"proj": 0}
SAMPLE_ENTRY = 78
ELEMENTS = {0x18538067: "Segment", 0x1654AE6B: "Tracks", 0xAE: "TrackEntry", 0xE0: "Video", 0x7670: "Projection"}
PROJECTION_TYPE = 0x7671
# FFmpeg reports the first three; what else there is, is named here.
REPORTED = (b"prhd", b"equi", b"cbmp")
MATROSKA_REPORTED = (0, 1, 2)
# A header larger than this is not searched, bytes.
LARGEST_HEADER = 2**28


def unreported_projection(path: Path) -> str:
    """Name of the projection that the file states and FFmpeg leaves out, such as "mesh"; "" if there is none."""
    with path.open("rb") as file:
        if file.read(4) == EBML:
            return next(_of_matroska(file, 0, path.stat().st_size), "")
        return next(_of_mp4(file, path.stat().st_size), "")


def _of_mp4(file: BinaryIO, size: int) -> Iterator[str]:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1 and at + 16 <= size:
            (length,), head = struct.unpack(">Q", file.read(8)), 16
        length = length or size - at
        if length < head or not kind.isascii():
            return
        if kind == b"moov" and length <= LARGEST_HEADER:
            yield from _of_boxes(file.read(length - head), b"moov")
        at += length


def _of_boxes(data: bytes, inside: bytes) -> Iterator[str]:
    """Names in the boxes of `data`, which lie in a box of kind `inside`."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if not 8 <= length <= len(data) - at:
            return
        body = data[at + 8 : at + length]
        at += length
        if inside == b"proj" and kind not in REPORTED:
            yield "mesh" if kind == b"mshp" else kind.decode("ascii", "backslashreplace")
        elif kind in BOXES:
            yield from _of_boxes(body[BOXES[kind] :], kind)
        elif inside == b"stsd":
            yield from _of_boxes(body[SAMPLE_ENTRY:], kind)
        elif kind == b"uuid" and body.startswith(V1_ID):
            yield from _of_xml(body.decode("utf-8", "replace"))


def _of_xml(text: str) -> Iterator[str]:
    tags = dict(re.findall(r"<GSpherical:(\w+)>([^<]*)<", text))
    stated = tags.get("ProjectionType", "").strip()
    if stated.lower() not in ("", "equirectangular"):
        yield stated
    for side in ("Width", "Height"):
        seen, whole = tags.get(f"CroppedAreaImage{side}Pixels"), tags.get(f"FullPano{side}Pixels")
        if seen != whole and None not in (seen, whole):
            yield "equirectangular part"


def _of_matroska(file: BinaryIO, at: int, end: int) -> Iterator[str]:
    while at < end:
        file.seek(at)
        name, length, head = _element(file.read(12))
        if not head:
            return
        stop = end if length is None else min(end, at + head + length)
        if name == PROJECTION_TYPE:
            file.seek(at + head)
            number = int.from_bytes(file.read(min(8, stop - at - head)), "big")
            if number not in MATROSKA_REPORTED:
                yield "mesh" if number == 3 else f"kind {number}"
        elif name in ELEMENTS:
            yield from _of_matroska(file, at + head, stop)
            if ELEMENTS[name] == "Tracks":
                return
        at = stop


def _element(head: bytes) -> tuple[int, int | None, int]:
    """Id, length (None: to the end) and bytes of the head of an EBML element; (0, 0, 0) if it is none."""
    if len(head) < 2 or not head[0] & 0xF0:
        return 0, 0, 0
    name_bytes = 9 - head[0].bit_length()
    if len(head) <= name_bytes or not head[name_bytes]:
        return 0, 0, 0
    size_bytes = 9 - head[name_bytes].bit_length()
    digits = head[name_bytes : name_bytes + size_bytes]
    length = int.from_bytes(digits, "big") - (1 << 7 * size_bytes)
    unknown = length == (1 << 7 * size_bytes) - 1
    return int.from_bytes(head[:name_bytes], "big"), None if unknown else length, name_bytes + size_bytes
