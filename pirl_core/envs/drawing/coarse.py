"""Fewer faces for fast frames: in software rendering, vertices cost the time, not pixels.

V: vertices of a mesh; F: its faces; C: cells that hold a vertex; N: faces that are left.
"""

import numpy as np

CELLS = 24
"""A mesh's longest side is cut into so many cells; all vertices of a cell become one."""


def merged(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the vertices of a mesh within cells of a grid, and drop the faces that collapse or coincide.

    Shapes stay as they are to a 24th of their size, textures nearly so. points: (V, 3) floats; faces: (F, 3) vertex
    numbers. Returns the vertices that are kept (C,), as numbers of points; the faces that are kept (N,), as numbers of
    faces, ascending; and their corners (N, 3), as positions among the kept vertices.
    """
    low = points.min(0)
    cells = np.floor((points - low) / (points - low).max() * (CELLS - 1e-3)).astype(np.int64)
    _, vertices, cell = np.unique(cells @ (1, CELLS, CELLS**2), return_index=True, return_inverse=True)
    corners = cell[faces]
    a, b, c = corners.T
    distinct = np.flatnonzero((a != b) & (b != c) & (c != a))
    _, once = np.unique(np.sort(corners[distinct], axis=1), axis=0, return_index=True)
    kept = distinct[np.sort(once)]
    return vertices, kept, corners[kept]
