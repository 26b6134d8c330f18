"""Images for pages as data URIs: panoramas with saliency and viewpoints, BASD maps, mel spectrograms."""

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps

from con360av_jax.sphere.geometry import footprint

# Okabe and Ito's palette, which is safe for colour-blind readers; one colour per viewpoint, in order.
VIEWPOINT_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")


def data_uri(content: bytes, kind: str) -> str:
    """`content` as a data URI of MIME type `kind`, so that a page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_uri(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """An RGB picture as a data URI of a JPEG."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    return data_uri(encoded.tobytes(), "image/jpeg")


def viewpoint_colour(number: int) -> str:
    """The colour of viewpoint `number`, counted from 0."""
    return VIEWPOINT_COLOURS[number % len(VIEWPOINT_COLOURS)]


def saliency_overlay(
    panorama: UInt8[np.ndarray, "height width 3"],
    saliency: Float[np.ndarray, "map_height map_width"],
    strength: float = 0.65,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panorama with its saliency (0..1) as a heat map that is transparent where saliency is 0."""
    height, width = panorama.shape[:2]
    heat = np.clip(cv2.resize(saliency.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC), 0.0, 1.0)
    colours = colormaps["inferno"](heat)[..., :3] * 255.0
    opacity = strength * np.sqrt(heat)[..., None]
    return np.clip(panorama * (1.0 - opacity) + colours * opacity, 0, 255).astype(np.uint8)


def scene_images(
    preview: Path | None,
    saliency: Float[np.ndarray, "map_height map_width"],
    viewpoints: Sequence[tuple[int, Float[np.ndarray, "4"]]],
) -> tuple[str, str]:
    """Panorama of a segment, and the same with saliency and the outlines of numbered viewpoints, as data URIs.

    The panorama is plain grey without a readable file `preview`.
    """
    picture = cv2.imread(str(preview)) if preview is not None and preview.is_file() else None
    panorama = np.full((512, 1024, 3), 96, np.uint8) if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    overlay = saliency_overlay(panorama, saliency)
    for number, viewpoint in viewpoints:
        overlay = draw_footprint(overlay, viewpoint, number)
    return image_uri(panorama), image_uri(overlay)


def mel_image(mel: Float[np.ndarray, "time mel"], low: float, high: float) -> UInt8[np.ndarray, "height width 3"]:
    """Log-mel spectrogram as pixels, low bands at the bottom; `low` is black, `high` the brightest colour."""
    loudness = np.clip((mel.T[::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
    return (colormaps["magma"](loudness)[..., :3] * 255.0).astype(np.uint8)


def draw_footprint(
    panorama: UInt8[np.ndarray, "height width 3"],
    viewpoint: Float[np.ndarray, "4"],
    number: int,
    thickness: int = 3,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panorama with the outline and number of one view; `viewpoint` is yaw, pitch and both fields of view in rad."""
    height, width = panorama.shape[:2]
    yaw, pitch, horizontal_fov, vertical_fov = (float(value) for value in viewpoint)
    mask = footprint(yaw, pitch, horizontal_fov, vertical_fov, height, width).astype(np.uint8)
    wrapped = cv2.copyMakeBorder(mask, 0, 0, thickness, thickness, cv2.BORDER_WRAP)
    # The edge rows are repeated at top and bottom, because beyond them is the pole and not the outside of the view.
    wrapped = cv2.copyMakeBorder(wrapped, thickness, thickness, 0, 0, cv2.BORDER_REPLICATE)
    core = cv2.erode(wrapped, np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8))
    outline = (wrapped - core)[thickness:-thickness, thickness:-thickness].astype(bool)
    drawn, colour = panorama.copy(), tuple(bytes.fromhex(viewpoint_colour(number)[1:]))
    drawn[outline] = colour
    centre = (int((yaw / (2 * np.pi) + 0.5) * width) % width, int((0.5 - pitch / np.pi) * height))
    size = height / 400
    cv2.circle(drawn, centre, int(18 * size), colour, -1, cv2.LINE_AA)
    (text_width, text_height), _ = cv2.getTextSize(str(number + 1), cv2.FONT_HERSHEY_SIMPLEX, 0.8 * size, 2)
    corner = (centre[0] - text_width // 2, centre[1] + text_height // 2)
    cv2.putText(drawn, str(number + 1), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.8 * size, (0, 0, 0), 2, cv2.LINE_AA)
    return drawn


def basd_image(
    basd: Float[np.ndarray, "map_height map_width"], viewpoint: Float[np.ndarray, "4"], number: int
) -> UInt8[np.ndarray, "height width 3"]:
    """One frame's BASD map (0..1) in colour, with the outline of the view, where the signed distance is zero."""
    enlarged = cv2.resize(basd.astype(np.float32), (768, 384), interpolation=cv2.INTER_LINEAR)
    picture = (colormaps["viridis"](np.clip(enlarged, 0.0, 1.0))[..., :3] * 255.0).astype(np.uint8)
    return draw_footprint(picture, viewpoint, number, thickness=2)
