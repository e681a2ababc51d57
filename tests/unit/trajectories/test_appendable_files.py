from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_scoremd.errors import CheckpointError
from openmm_scoremd.trajectories.appendable_files import AppendableFile
from openmm_scoremd.trajectories.formats import CSVFormat, DCDFormat, NpyFormat, XTCFormat
from openmm_scoremd.trajectories.reading import without_c_output


@pytest.fixture
def frames():
    return np.random.default_rng(0).normal(size=(7, 4, 3))


def format_of(kind):
    if kind == "dcd":
        return DCDFormat(4, timestep=0.002, interval=50)
    return XTCFormat(timestep=0.002, interval=50)


def read(path):
    formats = mdtraj.formats
    is_dcd = path.suffix == ".dcd"
    reader = formats.DCDTrajectoryFile if is_dcd else formats.XTCTrajectoryFile
    with without_c_output(), reader(str(path)) as file:
        content = file.read()
    return content[0] * (0.1 if is_dcd else 1.0), content


@pytest.mark.parametrize("kind", ["dcd", "xtc"])
def test_frames_come_back_however_they_were_appended(frames, tmp_path, kind):
    contents = []
    for name, pieces in (("whole", [7]), ("pieces", [1, 0, 4, 2])):
        file = AppendableFile(tmp_path / f"{name}.{kind}", format_of(kind))
        file.create()
        first = 0
        for count in pieces:
            file.append(frames[first : first + count])
            first += count
            if first:
                np.testing.assert_allclose(read(file.path)[0], frames[:first], atol=1e-5)
        assert (file.rows, file.length) == (7, file.path.stat().st_size)
        contents.append(file.path.read_bytes())
    assert contents[0] == contents[1]
    if kind == "xtc":
        _, (_, time, step, _) = read(file.path)
        assert step.tolist() == [50 * (i + 1) for i in range(7)]
        np.testing.assert_allclose(time, 0.1 * np.arange(1, 8), rtol=1e-5)


def test_dcd_is_that_of_openmm_but_for_the_date(toy, frames, tmp_path):
    from openmm import app

    topology = toy.metadata.topology.to_openmm()
    with open(tmp_path / "openmm.dcd", "w+b") as file:
        writer = app.DCDFile(file, topology, 0.002, 50, 50)
        for frame in frames:
            writer.writeModel(frame)
    ours = AppendableFile(tmp_path / "ours.dcd", format_of("dcd"))
    ours.create()
    ours.append(frames)
    expected, found = ((tmp_path / f"{name}.dcd").read_bytes() for name in ("openmm", "ours"))
    assert found[:180] == expected[:180]
    assert found[260:] == expected[260:]


@pytest.mark.parametrize("kind", ["dcd", "xtc"])
def test_cut_back_to_what_counts(frames, tmp_path, kind):
    file = AppendableFile(tmp_path / f"a.{kind}", format_of(kind))
    file.create()
    file.append(frames[:3])
    before, rows, length = file.path.read_bytes(), file.rows, file.length
    file.append(frames[3:])
    again = AppendableFile(file.path, format_of(kind), rows=rows, length=length)
    again.cut()
    assert file.path.read_bytes() == before
    again.append(frames[3:])
    np.testing.assert_allclose(read(file.path)[0], frames, atol=1e-5)


def test_a_shorter_file_cannot_be_cut(frames, tmp_path):
    file = AppendableFile(tmp_path / "a.dcd", format_of("dcd"))
    file.create()
    file.append(frames)
    file.path.write_bytes(file.path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"a\.dcd has \d+ bytes; at the last checkpoint"):
        file.cut()
    file.path.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        file.cut()


def test_numbers_as_npy_and_text(tmp_path):
    rows = np.arange(24.0).reshape(4, 3, 2)
    table = AppendableFile(tmp_path / "a.npy", NpyFormat((3, 2)))
    table.create()
    assert np.load(table.path).shape == (0, 3, 2)
    for count in range(4):
        table.append(rows[count : count + 1])
    np.testing.assert_array_equal(np.load(table.path), rows)
    # Room for the number of rows, however many there will be.
    assert len(NpyFormat((3, 2)).header(10**12)) == len(NpyFormat((3, 2)).header(0))
    text = AppendableFile(tmp_path / "a.csv", CSVFormat({"step": ".0f", "energy": ".2f"}))
    text.create()
    text.append(np.array([[10.0, -1.234], [20.0, 5.0]]))
    text.append(np.array([[30.0, 0.0]]))
    assert text.path.read_text() == "step,energy\n10,-1.23\n20,5.00\n30,0.00\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
def test_a_full_disk_is_named(frames, tmp_path):
    file = AppendableFile(tmp_path / "a.dcd", format_of("dcd"))
    file.create()
    file.path = Path("/dev/full")
    for call in (lambda: file.append(frames), lambda: file.append(np.zeros((1000, 4, 3)))):
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            call()
    assert file.rows == 0
    # What was there before stays what counts, and frames follow it when there is room again.
    file.path = tmp_path / "a.dcd"
    file.append(frames)
    np.testing.assert_allclose(read(file.path)[0], frames, atol=1e-5)


def test_files_that_are_there_are_not_made_anew(tmp_path):
    (tmp_path / "a.dcd").write_text("precious")
    with pytest.raises(FileExistsError):
        AppendableFile(tmp_path / "a.dcd", format_of("dcd")).create()
    assert (tmp_path / "a.dcd").read_text() == "precious"
