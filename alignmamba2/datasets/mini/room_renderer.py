"""Rooms made of boxes, rendered as colour and depth by casting one ray per pixel."""

from dataclasses import dataclass

import numpy as np

from ..hha import CX, CY, FX, FY, HEIGHT, WIDTH

RAY_STEP = 2  # one ray per 2 × 2 pixels
LIGHT = np.array([0.35, 0.8, -0.5]) / np.linalg.norm([0.35, 0.8, -0.5])


@dataclass(frozen=True)
class Room:
    """A room [0, w] × [0, h] × [0, d] with boxes on its floor; x right, y up, z away from the camera's wall."""

    size: tuple[float, float, float]  # w, h, d
    boxes: np.ndarray  # (n, 6): x0, y0, z0, x1, y1, z1
    colors: np.ndarray  # (n + 3, 3) in [0, 1]: floor, walls, ceiling, boxes


def render(room: Room, eye: np.ndarray, yaw: float, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Render the picture and the depth map that NYU-Depth V2's colour camera would take.

    It is at `eye` (3,), inside the room and outside its boxes, turned by `yaw` and `pitch` in radians, to the right and
    down. The picture is (240, 320, 3) float32 in [0, 1], the depth (240, 320) float32, along the camera's axis, in the
    unit of the room.
    """
    direction = _rays(yaw, pitch)  # (3, 240, 320): an axis first, so that NumPy works on whole pictures
    with np.errstate(divide="ignore"):
        inverse = 1 / direction
    size, eye = (np.asarray(x, np.float32)[:, None, None] for x in (room.size, eye))
    # The room from inside: the nearest of the walls ahead.
    ahead = (np.where(direction > 0, size, 0) - eye) * inverse
    axis, depth = ahead.argmin(0), ahead.min(0)
    surface = np.where(axis == 1, np.where(direction[1] > 0, 2, 0), 1)
    for i, box in enumerate(np.asarray(room.boxes, np.float32)):
        sides = [(side[:, None, None] - eye) * inverse for side in (box[:3], box[3:])]
        near, far = np.minimum(*sides), np.maximum(*sides)
        enters = near.max(0)
        hit = (enters < far.min(0)) & (enters > 0) & (enters < depth)
        depth[hit], axis[hit], surface[hit] = enters[hit], near[:, hit].argmax(0), i + 3
    # Lambert's law and ambient light; the normal is the axis of the face that was hit, towards the camera.
    towards = -np.sign(np.take_along_axis(direction, axis[None], 0)[0])
    shade = 0.6 + 0.4 * np.clip(towards * LIGHT[axis], 0, None)
    return (room.colors[surface] * shade[..., None]).astype(np.float32), depth


def _rays(yaw: float, pitch: float) -> np.ndarray:
    """Directions (3, 240, 320) in the room's axes, of length 1 along the camera's axis: their multiple is the depth."""
    u, v = (np.arange(0, n, RAY_STEP) + (RAY_STEP - 1) / 2 for n in (WIDTH, HEIGHT))
    x, y = np.meshgrid((u - CX) / FX, -(v - CY) / FY)
    y, z = y * np.cos(pitch) - np.sin(pitch), np.cos(pitch) + y * np.sin(pitch)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    return np.stack([x, y, z]).astype(np.float32)
