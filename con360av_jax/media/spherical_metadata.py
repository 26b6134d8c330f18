"""What a file's own metadata say about its pictures: how the sphere is projected, and how two eyes share a picture.

FFmpeg reads them from the boxes `sv3d` and `st3d` and the older `uuid` XML of mp4, from Matroska's Projection and
StereoMode and from H.264's frame packing messages, and hands them all out with the first picture:
    AVSphericalMapping = int projection, ...        AVStereo3D = int type, ...
"""

import struct
from typing import cast

from av.container import InputContainer
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.stream import VideoStream

# In the order of FFmpeg's enums AVSphericalProjection and AVStereo3DType.
PROJECTIONS = (
    "equirectangular",
    "cubemap",
    "equirectangular part",
    "half equirectangular",
    "rectilinear",
    "fisheye",
    "parametric immersive",
)
STEREO_MODES = (
    "mono",
    "side-by-side",
    "top-bottom",
    "frame sequence",
    "checkerboard",
    "side-by-side quincunx",
    "lines",
    "columns",
    "",
)


def spherical_metadata(container: InputContainer, stream: VideoStream) -> tuple[str, str]:
    """(projection, stereo mode) by the names above, "" for what is not said; decodes one picture and stays there."""
    frame = next(iter(container.decode(stream)), None)
    if frame is None:
        return "", ""
    # PyAV's stub calls this a dictionary by name; what iterating over it gives depends on PyAV's version.
    sides = cast(SideDataContainer, cast(object, frame.side_data))
    return _named(PROJECTIONS, sides.get(Type.SPHERICAL)), _named(STEREO_MODES, sides.get(Type.STEREO3D))


def _named(names: tuple[str, ...], side: SideData | None) -> str:
    if side is None:
        return ""
    (number,) = struct.unpack_from("=i", bytes(side))
    # A later FFmpeg may know more kinds than this table.
    return names[number] if 0 <= number < len(names) else f"kind {number}"
