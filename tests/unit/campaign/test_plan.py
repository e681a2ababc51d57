"""Campaign files: the jobs that follow, and what is wrong with others."""

import os
import shutil

import pytest

from openmm_scoremd.campaign.plan import load_campaign
from openmm_scoremd.errors import ConfigurationError

CAMPAIGN = """
output: runs
molecules:
  dipeptide: {data: beads.npz, replicas: 10}
  helix: {data: "other beads.npz", replicas: 4}
models:
  plain: {config: plain.yaml}
  both: {config: both.yaml}
seeds: [0, 7]
steps:
  train: >
    scoremd train --config {model.config} --data.path={molecule.data} --seed {seed}
    --output {folder}
  export: scoremd export {train}/weights.safetensors {folder}/model.pt
"""


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a campaign file, with replacements, beside its inputs."""
    for name in ("beads.npz", "other beads.npz", "plain.yaml", "both.yaml"):
        (tmp_path / name).write_text(f"content of {name}")

    def write(old="", new=""):
        assert old in CAMPAIGN
        path = tmp_path / "campaign.yaml"
        path.write_text(CAMPAIGN.replace(old, new) if old else CAMPAIGN)
        return path

    return write


def test_every_molecule_model_and_seed_is_a_job(write, tmp_path):
    jobs = load_campaign(write())
    assert [job.name for job in jobs] == [
        f"{molecule}/{model}/seed-{seed}"
        for molecule in ("dipeptide", "helix")
        for model in ("plain", "both")
        for seed in (0, 7)
    ]
    train, export = jobs[-1].steps
    folder = tmp_path / "runs/helix/both/seed-7"
    # A space in a value does not make two arguments of it.
    assert train.arguments == (
        *("train", "--config", "both.yaml", "--data.path=other beads.npz"),
        *("--seed", "7", "--output", str(folder / "train")),
    )
    assert export.arguments[1:] == (
        str(folder / "train/weights.safetensors"),
        str(folder / "export/model.pt"),
    )
    assert (jobs[0].cwd, jobs[0].threads) == (tmp_path, 1)
    assert train.record == folder / "train.json"
    digests = [step.digest for job in jobs for step in job.steps]
    assert len({*digests}) == len(digests)


def digests(path):
    return {job.name: tuple(step.digest for step in job.steps) for job in load_campaign(path)}


def test_digest_follows_what_is_done(write, tmp_path):
    before = digests(write())
    assert (
        digests(write("seeds: [0, 7]", "seeds: [7, 3]"))["helix/both/seed-7"]
        == before["helix/both/seed-7"]
    )
    assert digests(write("output: runs", "output: elsewhere")) == before
    changed = digests(write("--seed {seed}", "--seed {seed} --epochs 3"))
    assert not {*changed.values()} & {*before.values()}
    # The export is another one, too, if the training was.
    assert all(changed[name][1] != before[name][1] for name in before)
    (tmp_path / "beads.npz").write_text("new data")
    now = digests(write())
    assert {name for name in now if now[name] != before[name]} == {
        name for name in now if name.startswith("dipeptide")
    }


def test_digest_follows_the_content_of_folders(write, tmp_path):
    line = "scoremd export {train}/weights.safetensors {folder}/model.pt"
    other = "scoremd evaluate m.pt beads.npz {folder}/x --simulation=md --iid iid --weights ''"
    path = write(line, other)
    (tmp_path / "iid").mkdir()
    (tmp_path / "md/below").mkdir(parents=True)
    (tmp_path / "md/replica_0000.dcd").write_text("frames")
    (tmp_path / "md/below/a.dcd").write_text("frames")
    known = [digests(path)]
    for change in (
        lambda: (tmp_path / "md/replica_0000.dcd").write_text("Frames"),
        lambda: (tmp_path / "md/below/a.dcd").rename(tmp_path / "md/below/b.dcd"),
        lambda: (tmp_path / "md/below/b.dcd").write_text("longer"),
        lambda: (tmp_path / "iid/iid.dcd").touch(),
    ):
        change()
        known.append(digests(path))
    for name in known[0]:
        assert len({now[name][1] for now in known}) == 5
        assert len({now[name][0] for now in known}) == 1
    # Neither what nobody named nor what has the name of the command.
    (tmp_path / "train").mkdir()
    (tmp_path / "train/log.csv").touch()
    assert digests(path) == known[-1]


def test_what_the_campaign_writes_is_no_input_of_it(write, tmp_path):
    path = write("--output {folder}", "--output {folder} --data.scale=.")
    before = digests(path)
    (tmp_path / "runs/helix").mkdir(parents=True)
    (tmp_path / "runs/helix/result").touch()
    assert digests(path) == before
    (tmp_path / "another").touch()
    assert digests(path) != before


def test_pipes_are_not_read(write, tmp_path):
    (tmp_path / "md").mkdir()
    os.mkfifo(tmp_path / "md/pipe")
    assert digests(write("--output {folder}", "--output {folder} --data.scale=md"))


def test_digest_does_not_depend_on_the_place(write, tmp_path):
    before = digests(write())
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert digests(tmp_path / "copy" / "campaign.yaml") == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output: runs", "", "output is None"),
        ("output: runs", "outputs: runs", "unknown entry outputs"),
        ("output: runs", "output: [1]", r"output is \[1\]"),
        ("seeds: [0, 7]", "seeds: 3", "seeds is 3"),
        ("seeds: [0, 7]", "seeds: [1, 1]", r"seeds is \[1, 1\]"),
        ("seeds: [0, 7]", "seeds: [-1]", r"seeds is \[-1\]"),
        ("seeds: [0, 7]", "threads: 0\nseeds: [1]", "threads is 0"),
        ("plain: {", "../plain: {", "'../plain'"),
        ("{config: plain.yaml}", "plain.yaml", "models.plain is 'plain.yaml'"),
        ("{config: plain.yaml}", "{config: [1]}", r"models.plain.config is \[1\]"),
        ("{model.config}", "{model.file}", r"\{model.file\}.*\{model.config\}"),
        ("{model.config}", "{export}", r"steps.train has the placeholder \{export\}"),
        ("scoremd export", "rm -rf", "begins with scoremd"),
        ("scoremd export", "scoremd campaign", "other than scoremd campaign"),
        ("scoremd export", "scoremd 'export", "No closing quotation"),
        ("  export:", "  model:", "cannot be called model"),
        ("  export:", "  train.json:", r"cannot be called train\.json"),
        ("{folder}/model.pt", "model.pt", r"steps.export does not say \{folder\}"),
        ("seeds: [0, 7]", "seeds: [0", "no YAML file"),
    ],
)
def test_mistakes_are_named(write, old, new, message):
    path = write(old, new)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_campaign(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- 1", b"\xff\xfe\x00", b"a: !!python/name:os.system"])
def test_other_files(tmp_path, content):
    path = tmp_path / "campaign.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=str(path)):
        load_campaign(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        load_campaign(tmp_path / "absent.yaml")
