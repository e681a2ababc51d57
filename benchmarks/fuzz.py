"""Damaged files of every kind, given to the ``scoremd`` command: errors of ours, and nothing else.

    python benchmarks/fuzz.py --cases 2000 --seed 0 --output fuzz.json

Each case is a good file with some bytes or entries changed. The command must end with exit code 0
(the change did no harm) or with exit code 2 and one line that says what is wrong; it must not end
otherwise, take longer than the limit, or leave a file behind. Archives are also changed inside,
with checksums that are right again. Cases run in a process of their own, which is replaced when it
dies: that, too, is a finding. The same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import random
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 60.0
START_SECONDS = 300.0  # imports only
MEMORY_BYTES = 12 << 30
CONFIG = """\
title: tiny
data: {path: beads.npz, held_out_fraction: 0.2, augmentation: rotation, scale: 0.1}
network: {family: mlp, output: conservative, hidden_dims: [8, 8], t_min: 0.0, t_max: 1.0}
schedule: {beta_min: 0.1, beta_max: 20.0}
loss: {t_min: 1.0e-5, t_max: 1.0, time_distribution: uniform, weight_midpoint: 0.3}
optimizer: {learning_rate: 1.0e-3, final_learning_rate: 1.0e-5, ema_decay: 0.9}
hardware: {accelerator: cpu, backend: eager, devices: 1, precision: 32-true}
epochs: 1
batch_size: 16
log_steps: 4
checkpoint_seconds: 0
seed: 0
"""
CAMPAIGN = """\
output: runs
molecules: {dipeptide: {data: beads.npz}}
models: {plain: {config: tiny.yaml}}
seeds: [0, 1]
threads: 1
steps:
  train: scoremd train --config {model.config} --seed {seed} --output {folder}
  export: scoremd export {train}/weights.safetensors {folder}/model.pt
"""
BEADS = "--temperature 300 --preset alanine-dipeptide --output new.npz"
#: Kind, the good file, and the command that reads the damaged one, called CASE.
KINDS = {
    "model": ("tiny.pt", "info CASE"),
    "code-free": ("tiny.safetensors", "info CASE"),
    "weights": ("weights.safetensors", "export CASE new.pt"),
    "dataset": (
        "beads.npz",
        "fokker-planck weights.safetensors --data CASE --output new --frames 2 --times 2",
    ),
    "config": ("tiny.yaml", "train --config CASE --output new"),
    "trajectory": ("atoms.dcd", f"coarse-grain CASE --topology atoms.pdb {BEADS}"),
    "topology": ("atoms.pdb", f"coarse-grain atoms.dcd --topology CASE {BEADS}"),
    "checkpoint": ("run/checkpoint.safetensors", "train --config tiny.yaml --output RUN --resume"),
    "parameters": ("jax.npz", "import CASE --config tiny.yaml --output new.safetensors"),
    "campaign": ("campaign.yaml", "campaign CASE --status"),
}
WORDS = (
    *("null", "-1", "0", "1e999", ".nan", "[]", "{}", "''", "true", "abc", "[1, 2]", "{a: 1}"),
    *("99999999999999999999", "1.5", "&a [*a]", "!!python/name:os.system", "\x00", "é", "~"),
)


# --- Good files ------------------------------------------------------------------------------


def make_good_files(folder: Path) -> None:
    """Write a good file of every kind."""
    import mdtraj
    import numpy as np

    shutil.copy(ROOT / "tests/data/alanine_dipeptide.pdb", folder / "atoms.pdb")
    trajectory = mdtraj.load(
        ROOT / "tests/data/alanine_dipeptide_200.dcd", top=folder / "atoms.pdb"
    )
    trajectory[:32].save_dcd(folder / "atoms.dcd")
    (folder / "tiny.yaml").write_text(CONFIG)
    (folder / "campaign.yaml").write_text(CAMPAIGN)
    rng = np.random.default_rng(0)
    sizes = (15 + 4, 8, 8, 1)
    arrays = {"t_range": np.array([0.0, 1.0])}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        arrays[f"param/Dense_{i}/kernel"] = rng.normal(size=(n_in, n_out)).astype(np.float32)
        arrays[f"param/Dense_{i}/bias"] = rng.normal(size=n_out).astype(np.float32)
    np.savez(folder / "jax.npz", **arrays)
    for line in (
        f"coarse-grain atoms.dcd --topology atoms.pdb {BEADS}".replace("new", "beads"),
        "train --config tiny.yaml --output run",
        "export run/weights.safetensors tiny.pt",
        "export run/weights.safetensors tiny.safetensors",
    ):
        code, text = _scoremd(line.split(), folder)
        if code != 0:
            sys.exit(f"scoremd {line} failed: {text}")
    shutil.copy(folder / "run/weights.safetensors", folder / "weights.safetensors")
    (folder / "run/weights.safetensors").unlink()


# --- Damage ----------------------------------------------------------------------------------


def damaged(content: bytes, name: str, random_: random.Random) -> bytes:
    """Return a changed copy of a file."""
    suffix = Path(name).suffix
    if suffix in (".pt", ".npz") and random_.random() < 0.6:
        return _changed_archive(content, random_)
    if name == "tiny.safetensors" and random_.random() < 0.5:
        return _changed_record(content, random_)
    if suffix == ".safetensors" and random_.random() < 0.5:
        size = int.from_bytes(content[:8], "little")
        header = _changed_text(content[8 : 8 + size], random_)
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    if suffix in (".yaml", ".pdb") and random_.random() < 0.8:
        return _changed_text(content, random_)
    return _changed_bytes(content, random_)


def _changed_archive(content: bytes, random_: random.Random) -> bytes:
    """Change members of a zip file; checksums are right again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = random_.choice(list(members))
    choice = random_.random()
    if choice < 0.1:
        del members[name]
    elif choice < 0.15:
        members[f"../{name}"] = members[name]
    elif choice < 0.2:
        members[random_.choice(list(members))] = members[name]
    elif name.endswith((".json", ".py")):
        members[name] = _changed_text(members[name], random_)
    else:
        members[name] = _changed_bytes(members[name], random_)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return buffer.getvalue()


def _changed_record(content: bytes, random_: random.Random) -> bytes:
    """Change the record of a model file without code; its hash is right again."""
    from openmm_scoremd._files.tensors import tensors_from_bytes, tensors_to_bytes
    from openmm_scoremd.artifact.metadata import MODEL_KEY

    record, tensors = tensors_from_bytes(content, key=MODEL_KEY)
    text = _changed_text(json.dumps(record).encode(), random_)
    try:
        return tensors_to_bytes(tensors, key=MODEL_KEY, header={**json.loads(text)})
    except (ValueError, TypeError):
        return _changed_bytes(content, random_)


def _changed_text(content: bytes, random_: random.Random) -> bytes:
    """Replace, repeat or remove words of a text, or lines."""
    text = content.decode("latin-1")
    if random_.random() < 0.15:
        return _changed_bytes(content, random_)
    pattern = r"[^\n]+\n?" if random_.random() < 0.2 else r"-?[\w.+]+"
    found = list(re.finditer(pattern, text))
    chosen = random_.sample(range(len(found)), min(len(found), random_.randint(1, 2)))
    for match in (found[i] for i in sorted(chosen, reverse=True)):
        new = random_.choice((*WORDS, "", match[0] * 2, random_.choice(found)[0]))
        text = text[: match.start()] + new + text[match.end() :]
    return text.encode("utf-8" if random_.random() < 0.9 else "utf-16", errors="replace")


def _changed_bytes(content: bytes, random_: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 8))):
        at = random_.randrange(len(data) + 1)
        if random_.random() < 0.4:  # formats have their headers at the beginning
            at = min(at, random_.randrange(300))
        length = random_.choice((1, 2, 4, 8, 100))
        match random_.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = random_.randbytes(length)
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = random_.choice((b"\x00", b"\xff", b"\x7f")) * length
            case _:
                if at < len(data):
                    data[at] ^= 1 << random_.randrange(8)
    return bytes(data)


# --- One case --------------------------------------------------------------------------------


def judge(kind: str, content: bytes, folder: Path) -> str:
    """Run one case in this process; return "accepted", "refused" or what is wrong."""
    good, line = KINDS[kind]
    case = folder / f"case{Path(good).suffix}"
    if kind == "checkpoint":
        shutil.rmtree(folder / "copy", ignore_errors=True)
        shutil.copytree(folder / "run", folder / "copy")
        case = folder / "copy" / "checkpoint.safetensors"
    case.write_bytes(content)
    before = _files(folder)
    words = line.replace("CASE", case.name).replace("RUN", "copy").split()
    try:
        code, said = _scoremd(words, folder)
    # Whatever gets out of the command line is a finding, SystemExit included.
    except BaseException as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:300]}"
    left = sorted(_files(folder) - before)
    for name in ("new", "new.pt", "new.npz", "new.pdb", "new.psf", "new.safetensors"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # A training that diverges is a training: it keeps its checkpoint.
    if code == 0 or (code == 2 and "error: NaN or infinite" in said and "new" in left):
        return "accepted"
    if left:
        return f"left {', '.join(left)}: {said[-200:]}"
    errors = [text for text in said.split("\n") if text.startswith("error: ")]
    if code != 2 or len(errors) != 1 or not said.rstrip("\n").endswith(errors[0]):
        return f"exit code {code}, said {said[-400:]!r}"
    return "refused"


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _scoremd(arguments: list[str], folder: Path) -> tuple[int, str]:
    from openmm_scoremd.cli.main import main

    said = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            return main(arguments), said.getvalue()
    finally:
        os.chdir(before)


def work(folder: Path) -> None:
    """Judge the cases that come in on standard input, one ``kind file`` a line."""
    import resource

    # A file that asks for more memory than there is must be an error, not the end of the machine.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Makes a temporary folder for as long as the process lives.
    importlib.import_module("torch.distributed.nn")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C code prints must not look like an answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        kind, path = line.split()
        verdict = judge(kind, Path(path).read_bytes(), folder)
        print(json.dumps(verdict), file=answers, flush=True)


# --- All cases -------------------------------------------------------------------------------


class Worker:
    """The process that runs cases, started again when it has died or hangs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def judge(self, kind: str, case: Path) -> str:
        """Return the verdict about a case; "crash" and "hang" are verdicts."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--work-in", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(self.folder)},  # where leavings are seen
                text=True,
            )
            self._answer(START_SECONDS)
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.write(f"{kind} {case}\n")
            self.process.stdin.flush()
        return self._answer(LIMIT_SECONDS)

    def _answer(self, limit: float) -> str:
        if self.process is None or self.process.stdout is None:
            return "crash: the process did not start"
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.stop()
                return f"hang: longer than {limit:g} s"
        if answer := self.process.stdout.readline():
            return str(json.loads(answer))
        code = self.process.wait()
        self.stop()
        return f"crash: exit code {code}"

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            with contextlib.suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None


def fuzz(cases: int, seed: int, kinds: list[str], keep: Path | None = None) -> dict[str, object]:
    """Run cases and return counts and findings; ``keep`` gets the files of the findings."""
    random_ = random.Random(seed)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    findings = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "files"
        folder.mkdir()
        make_good_files(folder)
        good = {kind: (folder / KINDS[kind][0]).read_bytes() for kind in kinds}
        worker = Worker(folder)
        for number in range(cases):
            kind = kinds[number % len(kinds)]
            case = Path(name) / f"{number}-{kind}{Path(KINDS[kind][0]).suffix}"
            case.write_bytes(damaged(good[kind], KINDS[kind][0], random_))
            verdict = worker.judge(kind, case)
            counts[kind][verdict if verdict in ("accepted", "refused") else "finding"] += 1
            if verdict not in ("accepted", "refused"):
                findings.append({"case": number, "kind": kind, "verdict": verdict})
                print(f"{case.name}: {verdict}", flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(case, keep)
            case.unlink()
        worker.stop()
    return {
        "cases": cases,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "counts": {kind: dict(counter) for kind, counter in counts.items()},
        "findings": findings,
    }


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--output", help="write numbers and findings as JSON")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--work-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_in is not None:
        work(options.work_in)
        return 0
    result = fuzz(options.cases, options.seed, options.kinds, options.keep)
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        Path(options.output).write_text(text + "\n")
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
