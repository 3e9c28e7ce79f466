"""Fewer faces for fast frames: in software OpenGL, vertices cost the time, not pixels."""

import mujoco
import numpy as np

CELLS = 24
"""A mesh's longest side is cut into so many cells; all vertices of a cell become one."""


def coarsen(model: mujoco.MjModel) -> None:
    """Merge the vertices of each mesh within cells of a grid and drop the faces that collapse, in place.

    Shapes stay as they are to a 24th of their size, textures nearly so. The model must not be simulated after.
    """
    for mesh in range(model.nmesh):
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        points = model.mesh_vert[start : start + count]
        faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        low = points.min(0)
        cells = np.floor((points - low) / (points - low).max() * (CELLS - 1e-3)).astype(np.int64)
        _, first, cell = np.unique(cells @ (1, CELLS, CELLS**2), return_index=True, return_inverse=True)
        corners = cell[model.mesh_face[faces]]
        a, b, c = corners.T
        distinct = np.flatnonzero((a != b) & (b != c) & (c != a))
        _, once = np.unique(np.sort(corners[distinct], axis=1), axis=0, return_index=True)
        kept = distinct[np.sort(once)]
        for part in (model.mesh_facenormal, model.mesh_facetexcoord):
            part[faces][: len(kept)] = part[faces][kept]
        model.mesh_face[faces][: len(kept)] = first[corners[kept]]
        model.mesh_facenum[mesh] = len(kept)
