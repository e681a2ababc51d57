import numpy as np
import pytest

from openmm_scoremd.analysis.report.curves import LossCurve, read_loss_csv
from openmm_scoremd.errors import InvalidInputError

HEADER = "step,epoch,loss,learning_rate,samples_per_second\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + "10,0,0.9,3e-4,1000\n20,0,nan,2e-4,1100\n", encoding="utf-8")
    return path


def test_columns(log):
    curve = read_loss_csv(log)
    assert curve.steps.tolist() == [10, 20]
    np.testing.assert_array_equal(curve.losses, [0.9, np.nan])
    assert curve.learning_rates.tolist() == [3e-4, 2e-4]


def test_a_line_still_being_written_is_ignored(log):
    complete = read_loss_csv(log)
    with log.open("a", encoding="utf-8") as file:
        file.write("30,1,0.")
    np.testing.assert_array_equal(read_loss_csv(log).losses, complete.losses)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEADER, "no rows yet"),
        ("", "no rows yet"),
        ("step,loss\n1,2\n", "learning_rate"),
        (HEADER + "10,0,low,3e-4,1\n", "could not convert"),
        (HEADER + "10,0\n", "is not a training log"),
        (b"\xff\xfe", "cannot read"),
    ],
)
def test_damaged(tmp_path, text, complaint):
    path = tmp_path / "log.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidInputError, match=complaint):
        read_loss_csv(path)


def test_missing(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot read"):
        read_loss_csv(tmp_path / "none.csv")


def test_smoothing():
    curve = LossCurve(np.arange(5.0), np.array([1, 2, 6, 1, np.nan]), np.ones(5))
    smooth = curve.smoothed(window=3)
    assert smooth.steps == pytest.approx([1, 2, 3])
    np.testing.assert_allclose(smooth.losses, [3, 3, np.nan])
    with pytest.raises(InvalidInputError, match=r"1\.\.5"):
        curve.smoothed(window=6)
