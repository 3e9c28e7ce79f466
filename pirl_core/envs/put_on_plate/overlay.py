"""Pictures of put-on-plate: the rendered robot and objects over a photograph of a table, with textures mixed in.

Axes: H W pixels; colours uint8. ``shown`` (H, W) says which pixels are robot or object.
"""

import numpy as np
from PIL import Image

WHOLE = (slice(None), slice(None))


def resize(image: np.ndarray, height: int, width: int, window: tuple[slice, slice] = WHOLE) -> np.ndarray:
    """Bilinear between pixel centres, without smoothing: (H, W, 3) → (height, width, 3) float64, or a window of that.

    What the public code's cv2.resize and interpolate(align_corners=False) do, to rounding.
    """

    def weights(old: int, new: int, kept: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(new)[kept] + 0.5) * old / new - 0.5, 0, old - 1)
        low = at.astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    top, bottom, down = weights(image.shape[0], height, window[0])
    left, right, across = weights(image.shape[1], width, window[1])
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    mixed: np.ndarray = rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]
    return mixed


def square(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) → (size, size, 3): the whole picture, its width squeezed; what shrinks is averaged."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def on_table(rendered: np.ndarray, shown: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Robot and objects (H, W, 3) over the photograph (H, W, 3)."""
    return np.where(shown[..., None], rendered, table)


def box_of(shown: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row, first and last column of what is shown; zeros where nothing is."""
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def with_texture(
    rendered: np.ndarray, shown: np.ndarray, table: np.ndarray, texture: np.ndarray, mix: float
) -> np.ndarray:
    """As ``on_table``, the texture, stretched over the box of what is shown, mixed into robot and objects."""
    top, bottom, left, right = box_of(shown)
    painted = rendered.astype(np.float64)
    box = painted[top : bottom + 1, left : right + 1]
    box[:] = box * (1 - mix) + resize(texture, box.shape[0], box.shape[1]) * mix
    return on_table(painted, shown, table).astype(np.uint8)


def with_whole(
    rendered: np.ndarray, shown: np.ndarray, table: np.ndarray, texture: np.ndarray, mix: float
) -> np.ndarray:
    """As ``on_table``, a window of the texture at double size mixed into everything; the window moves with the middle
    of what is shown."""
    height, width = shown.shape
    top, bottom, left, right = box_of(shown)
    row = min(max((top + bottom) // 2, 1), height - 1)
    column = min(max((left + right) // 2, 1), width - 1)
    window = (slice(row, row + height), slice(column, column + width))
    paint = resize(texture, 2 * height, 2 * width, window)
    mixed: np.ndarray = on_table(rendered, shown, table) * (1 - mix) + paint * mix
    return mixed.astype(np.uint8)
