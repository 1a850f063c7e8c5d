"""Where a volume lies in the world, also after resizing."""

import nibabel
import numpy as np
import pytest

from lightning_xai.data.grids import resize_affine
from lightning_xai.data.items import Item
from lightning_xai.data.loading import LoadItem
from lightning_xai.data.reading import read_located

AFFINE = np.array([[0.0, 2.0, 0.0, 5.0], [-3.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5, -4.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.random.rand(8, 6, 4).astype(np.float32), AFFINE), path)
    return path


def corners(affine, size):
    """World coordinates of two opposite corners: half a voxel beyond the outermost centers."""
    corner_points = np.array([[-0.5, -0.5, -0.5, 1.0], [*(np.array(size) - 0.5), 1.0]])
    return corner_points @ affine.T


@pytest.mark.parametrize("new", [(8, 6, 4), (4, 3, 2), (16, 6, 5)])
def test_resizing_keeps_the_corners(new):
    assert np.allclose(corners(resize_affine(AFFINE, (8, 6, 4), new), new), corners(AFFINE, (8, 6, 4)))


def test_nifti_has_its_own_and_everything_else_the_identity(volume, tmp_path):
    assert np.allclose(read_located(volume).affine, AFFINE)
    np.save(tmp_path / "volume.npy", np.zeros((8, 6, 4)))
    for source in (tmp_path / "volume.npy", np.zeros((8, 6, 4))):
        assert read_located(source, channel_axis="none").affine is None
        assert np.array_equal(LoadItem(None, "none", False)(Item("a", source))["affine"], np.eye(4))


def test_samples_of_volumes_carry_it_and_pictures_do_not(volume):
    sample = LoadItem((4, 3, 2), None, False)(Item("a", volume, 0))
    assert np.allclose(sample["affine"], resize_affine(AFFINE, (8, 6, 4), (4, 3, 2)))
    assert "affine" not in LoadItem(None, None, False)(Item("b", np.zeros((8, 6), np.uint8), 0))
