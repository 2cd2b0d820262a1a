"""A full disk, or a file size limit, is an OSError with errno and path; no partial file stays, the table is as it was."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from core_oracle import pulled, random_ids, save, table


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_disk_full(small_disk: Path) -> None:
    rows, ids = table(16), random_ids(20_000)
    pulled(rows, ids, create=True)
    path = small_disk / "part"
    with pytest.raises(OSError) as caught:
        save(rows, path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == f"{path}-00000.safetensors"
    assert os.listdir(small_disk) == [] and rows.size == 20_000
    assert save(rows, path, 0, 16)[0]["rows"] > 0  # what fits is saved


def test_file_size_limit(tmp_path: Path) -> None:
    rows = table(16)
    pulled(rows, random_ids(20_000), create=True)
    path = tmp_path / "part"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            save(rows, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and list(tmp_path.iterdir()) == []
    assert np.isfinite(rows.read(rows.keys())[1]).all()
