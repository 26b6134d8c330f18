"""Spherical metadata of a video file: projection of the sphere and stereo mode.

FFmpeg reads them from the boxes `sv3d` and `st3d` and the older `uuid` XML of mp4, from Matroska's Projection and
StereoMode and from H.264's frame packing messages, and reports all of them with the first frame:
    AVSphericalMapping = int projection, int yaw, pitch, roll (2^-16 degrees), ...        AVStereo3D = int type, ...
"""

import struct
from pathlib import Path

import av
from av.sidedata.sidedata import SideData, Type

from con360av_jax.media.presentation import side_data
from con360av_jax.media.projection_boxes import unreported_projection

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

# A pose of smaller angles turns the sphere by less than a pixel of 360, degrees.
LARGEST_ANGLE = 0.5


def spherical_metadata(path: Path, frame: av.VideoFrame | None) -> tuple[str, str]:
    """Returns projection and stereo mode of the file at `path`, "" if not stated.

    They are named as above, or as `unreported_projection` does; `frame` is the file's first decoded frame. A pose, by
    which players turn the sphere, is part of the projection's name.
    """
    if frame is None:
        return "", ""
    sides = side_data(frame)
    mapping = sides.get(Type.SPHERICAL)
    projection = unreported_projection(path) or f"{_named(PROJECTIONS, mapping)}{_pose(mapping)}"
    return projection, _named(STEREO_MODES, sides.get(Type.STEREO3D))


def _pose(mapping: SideData | None) -> str:
    """The pose of the sphere in words; "" if it stands as it is stored."""
    if mapping is None:
        return ""
    angles = [angle / 2**16 for angle in struct.unpack_from("=3i", bytes(mapping), 4)]
    if max(map(abs, angles)) < LARGEST_ANGLE:
        return ""
    yaw, pitch, roll = angles
    return f" posed at yaw {yaw:.4g}°, pitch {pitch:.4g}°, roll {roll:.4g}°"


def _named(names: tuple[str, ...], side: SideData | None) -> str:
    if side is None:
        return ""
    (number,) = struct.unpack_from("=i", bytes(side))
    # A later FFmpeg may have more kinds than this table.
    return names[number] if 0 <= number < len(names) else f"kind {number}"
