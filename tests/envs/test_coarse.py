"""Meshes with fewer faces: nothing moves by more than a cell, and what is fine enough already stays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pirl_core.envs.drawing.coarse import CELLS, merged


@given(st.integers(0, 2**32 - 1), st.integers(3, 200), st.integers(1, 400))
def test_faces_move_by_a_cell_at_most_and_none_is_left_twice(seed: int, points: int, faces: int) -> None:
    rng = np.random.default_rng(seed)
    mesh = rng.uniform(-1, 1, (points, 3)) * rng.uniform(0.1, 10, 3)
    before = rng.integers(0, points, (faces, 3))
    vertices, kept, corners = merged(mesh, before)
    after = mesh[vertices][corners]
    cell = np.ptp(mesh, axis=0).max() / CELLS
    assert np.abs(after - mesh[before[kept]]).max(initial=0) <= cell * 1.001
    assert all(len(set(face)) == 3 for face in corners.tolist())
    assert len({frozenset(face) for face in corners.tolist()}) == len(corners)
    assert (np.diff(kept) > 0).all()


def test_a_mesh_of_one_vertex_a_cell_is_left_as_it_is() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    faces = np.stack([np.arange(62), np.arange(1, 63), np.arange(2, 64)], 1)
    vertices, kept, corners = merged(grid, faces)
    assert np.array_equal(kept, np.arange(62))
    assert np.array_equal(vertices[corners], faces)
