"""What a run says about its trajectories."""

import json

import pytest

from openmm_scoremd.errors import DatasetError
from openmm_scoremd.trajectories.segments import SIDECAR, restarts_per_frame, unbroken_segments


class TestSegments:
    def write(self, folder, **changes):
        content = {"files": [], "replicas": 2, "frames": 10, "interval": 5, "jump_interval": 0}
        content |= {"breaks": [], "frozen": {}, **changes}
        (folder / SIDECAR).write_text(json.dumps(content))

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, [(0, 0, 10), (1, 0, 10)]),
            (
                {"breaks": [{"replica": 1, "frame": 4}, {"replica": 1, "frame": 4}]},
                [(0, 0, 10), (1, 0, 4), (1, 4, 10)],
            ),
            ({"frozen": {"0": 3}}, [(0, 0, 3), (1, 0, 10)]),
            ({"frozen": {"0": 0}}, [(1, 0, 10)]),
            ({"breaks": [{"replica": 0, "frame": 10}]}, [(0, 0, 10), (1, 0, 10)]),
            (
                {"jump_interval": 20},
                [(r, *piece) for r in range(2) for piece in [(0, 4), (4, 8), (8, 10)]],
            ),
        ],
    )
    def test_pieces(self, tmp_path, changes, expected):
        self.write(tmp_path, **changes)
        assert unbroken_segments(tmp_path) == expected

    def test_missing_and_damaged(self, tmp_path):
        with pytest.raises(DatasetError, match="is missing"):
            unbroken_segments(tmp_path)
        self.write(tmp_path, breaks=[{"replica": 7, "frame": 1}])
        with pytest.raises(DatasetError, match="is damaged"):
            unbroken_segments(tmp_path)

    @pytest.mark.parametrize(
        ("breaks", "frozen", "expected"),
        [(0, {}, 0.0), (5, {}, 5 / 20), (5, {"0": 4}, 5 / 14), (2, {"0": 0, "1": 0}, 2.0)],
    )
    def test_restarts_per_frame(self, tmp_path, breaks, frozen, expected):
        self.write(tmp_path, breaks=[{"replica": 1, "frame": 4}] * breaks, frozen=frozen)
        assert restarts_per_frame(tmp_path) == pytest.approx(expected)
