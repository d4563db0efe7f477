"""Depth in metres → three channels: horizontal disparity, height above ground, angle with gravity (HHA).

The encoding is that of Gupta, Girshick, Arbeláez and Malik (ECCV 2014); the numbers are those of their published code:

    disparity   31000 / max(z, 100),  z in cm
    height      in cm above the ground, at most 255
    angle       degrees between the surface's normal (towards the camera) and gravity, plus 38: floors 218, walls 128

Gravity is found from the normals themselves: the direction that is most nearly parallel or perpendicular to them, in
five rounds with the normals within 45° of it, and five within 15°.

Approximations, all our choice: a normal is the cross product of differences between points 3 grid steps apart (theirs
fits planes to larger neighbourhoods), on every second pixel; the ground is the 1st percentile of heights (theirs is the
lowest point), or 1.3 m below the camera if that is less than 0.9 m down, as theirs.
"""

import numpy as np

# Focal lengths and principal point of NYU-Depth V2's colour camera in pixels of 640 × 480, from the data set's toolbox.
# Depth is registered to it.
FX, FY, CX, CY = 518.8579, 519.4696, 325.5824, 253.7362
WIDTH, HEIGHT = 640, 480
STRIDE, REACH = 2, 3
ROUNDS = ((45.0, 5), (15.0, 5))


def points(depth: np.ndarray, stride: int = 1) -> np.ndarray:
    """Return points (h, w, 3) in metres, x right, y down, z forward, of every `stride`-th pixel of depth (H, W)."""
    rows, columns = depth.shape
    scale_x, scale_y = columns / WIDTH, rows / HEIGHT
    z = np.asarray(depth[::stride, ::stride], np.float64)
    u = (np.arange(0, columns, stride) + 0.5) / scale_x - 0.5
    v = (np.arange(0, rows, stride) + 0.5) / scale_y - 0.5
    return np.stack([(u - CX) / FX * z, ((v - CY) / FY)[:, None] * z, z], axis=-1)


def normals(cloud: np.ndarray, reach: int = REACH) -> np.ndarray:
    """Return unit normals (h, w, 3) towards the camera; 0 if a normal is not defined."""
    padded = np.pad(cloud, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    across = padded[reach:-reach, 2 * reach :] - padded[reach:-reach, : -2 * reach]
    down = padded[2 * reach :, reach:-reach] - padded[: -2 * reach, reach:-reach]
    n = np.cross(across, down)
    length = np.linalg.norm(n, axis=-1, keepdims=True)
    n = np.divide(n, length, out=np.zeros_like(n), where=length > 1e-12)
    return np.where((n * cloud).sum(-1, keepdims=True) > 0, -n, n)


def gravity(normal: np.ndarray) -> np.ndarray:
    """Return the direction (3,) of gravity: the camera's own down, corrected by floors and walls."""
    n = normal.reshape(-1, 3)
    n = n[(n != 0).any(-1)]
    down = np.array([0.0, 1.0, 0.0])
    for degrees, rounds in ROUNDS:
        for _ in range(rounds):
            cosine = np.abs(n @ down)
            flat, upright = n[cosine > np.cos(np.radians(degrees))], n[cosine < np.sin(np.radians(degrees))]
            if not len(flat) + len(upright):
                return down
            # The unit vector with the least Σ (upright · g)² − Σ (flat · g)²: an eigenvector.
            _, vectors = np.linalg.eigh(upright.T @ upright - flat.T @ flat)
            down = vectors[:, 0] * (np.sign(vectors[:, 0] @ down) or 1.0)
    return down


def hha(depth: np.ndarray) -> np.ndarray:
    """Return disparity, height and angle (⌈H/2⌉, ⌈W/2⌉, 3) uint8 of depth (H, W) in metres (see the module).

    Pixels without depth (0) are 0 in all channels.
    """
    cloud = points(depth, STRIDE)
    known = cloud[..., 2] > 0
    if not known.any():
        return np.zeros((*known.shape, 3), np.uint8)
    normal = normals(cloud)
    down = gravity(normal[known])
    height = -(cloud @ down) * 100
    ground = np.percentile(height[known], 1)
    height -= -130.0 if ground > -90 else ground
    angle = np.degrees(np.arccos(np.clip(normal @ down, -1, 1)))
    channels = np.stack([31000 / np.maximum(cloud[..., 2] * 100, 100), height, angle + 38], axis=-1)
    channels = np.where(known[..., None], channels, 0)
    return np.clip(np.rint(channels), 0, 255).astype(np.uint8)
