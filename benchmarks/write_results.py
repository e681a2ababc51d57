"""Write docs/results.md from benchmarks/results/*.json, beside the numbers of the paper.

python benchmarks/write_results.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import noise_floor
import numpy as np

from openmm_scoremd._files.atomic import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/results.md"

#: arXiv 2506.17139 (workshop text), Table 6: iid JS, sim JS, iid PMF, sim PMF.
PAPER_MUELLER_BROWN = {
    "ground-truth": ("0.0119 ± 0.0004", "", "0.087 ± 0.002", ""),
    "diffusion": ("0.0122 ± 0.0013", "0.0448 ± 0.0125", "0.111 ± 0.006", "0.504 ± 0.150"),
    "mixture": ("0.0109 ± 0.0007", "0.0254 ± 0.0109", "0.097 ± 0.004", "0.247 ± 0.113"),
    "fokker-planck": ("0.0130 ± 0.0010", "0.0166 ± 0.0009", "0.122 ± 0.006", "0.163 ± 0.008"),
    "both": ("0.0110 ± 0.0007", "0.0108 ± 0.0008", "0.098 ± 0.003", "0.099 ± 0.004"),
    "both-fast": ("", "", "", ""),
    "refined": ("", "", "", ""),
}

INTRODUCTION = """# Results

Written by `python benchmarks/write_results.py` from `benchmarks/results/*.json`; nothing on this
page was typed in but the paper's own numbers (arXiv 2506.17139, workshop text). `±` is the standard
deviation over seeds; without it there is one seed.
"""


MUELLER_BROWN = """## Müller-Brown (paper's Table 6, Figure 2)

`python benchmarks/mueller_brown.py` ({frames:,} iid frames; simulation through OpenMM with
{replicas} replicas x {steps:,} steps of 0.005 ps after {equilibration:,} of equilibration, from iid
frames of the model, a frame every {interval}). Reference: the training frames. JS divergence with
100 bins over the combined range, as in the public code, and over the fixed range
[-1.8, 1.1] x [-0.5, 2.0]. Ground truth: other exact draws, and simulations with the true force.
"""
MUELLER_BROWN_COLUMNS = (
    *("method", "seeds", "epochs", "training, s", "iid JS", "sim JS", "iid JS, fixed"),
    *("sim JS, fixed", "iid PMF", "sim PMF", "far frames, iid"),
    *("paper: iid JS", "sim JS", "iid PMF", "sim PMF"),
)
MUELLER_BROWN_FOOT = """
Training time is wall-clock time of one thread on a machine that did other work, too. The published
epochs are 180 for single networks and 30 / 30 / 120 for mixtures. `refined` is `both-fast` after
`scoremd refine` (3 rounds), whose time alone is given; it changes little here. Far frames lie
beyond |x| = 4; they are left out, because one of them stretches the combined range until nothing
can be told apart.

![Free energies](mueller_brown_free_energy.png)
"""
ALANINE_DIPEPTIDE = """## Alanine dipeptide (paper's Tables 1 and 8)

`python benchmarks/alanine_dipeptide.py NAME=WEIGHTS ...`. Reference: frames held back from
training. Errors are bootstrap errors over frames (iid) or replicas (simulation); beside every
number stands the noise floor, the same metric between two independent sets of reference frames of
the same sizes. JS and PMF with fixed ranges, 64 bins per axis. P(basin): the part of the second
half of the simulation with 0.3 < φ < 2 rad, and how often replicas entered it. The training budgets
are a small part of the published one (10,000 epochs of 40,000 frames): do not compare with the
paper's numbers. `refined` is `both-fast` after `scoremd refine` (`refinement` in the JSON), and the
model that is shipped. One training each. The published forms of `mixture`, `fokker-planck` and
`both` are in `examples/methods/`; none was trained long enough to be shown.
"""
ALANINE_DIPEPTIDE_COLUMNS = (
    *("model", "force at t", "frames seen, million", "hours", "set", "frames", "JS", "floor"),
    *("PMF", "floor", "bond W1, pm", "floor", "P(φ > 0)", "reference"),
    *("P(basin)", "reference", "entries"),
)


NOISE_FLOOR = """## Alanine dipeptide at the noise floor

`python benchmarks/noise_floor.py NAME=MODEL ...`, against a second reference run, which nothing was
trained on; of three seeds the one with the best simulation against it is shipped. In brackets: in
units of the noise floor, which is the same number between the two runs; a perfect model has 1.
Seeds sample alike and simulate differently: what they disagree on is the basin at φ = 60° and the
barrier before it. Its population in a simulation is no equilibrium where it was entered a few times
only: replicas began there as often as independent frames do.
"""
FOKKER_PLANCK = """## Fokker-Planck error of the alanine dipeptide models (paper's Figure 6)

`scoremd fokker-planck diffusion.safetensors both-fast.safetensors refined.safetensors --data
examples/data/alanine_dipeptide.npz --output errors`: the mean of |R - median R| / D over 256 noised
frames, R being the exact residual. The refinement makes it somewhat larger again.

![Error over diffusion time](fokker_planck.png)
"""


def main() -> None:
    """Write the page where the documentation has it."""
    write_page(PAGE)
    print(PAGE)


def write_page(path: Path) -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    if (RESULTS / "mueller_brown_methods.json").exists():
        parts.append(_mueller_brown(_read("mueller_brown_methods")))
    if (RESULTS / "noise_floor.json").exists():
        parts.append(f"{NOISE_FLOOR}\n{noise_floor.markdown(_read('noise_floor'))}\n")
    if (RESULTS / "alanine_dipeptide_methods.json").exists():
        parts.append(_alanine_dipeptide(_read("alanine_dipeptide_methods")))
    if (RESULTS / "fokker_planck_error.json").exists():
        parts.append(_fokker_planck(_read("fokker_planck_error")))
    if (RESULTS / "regulariser_cost.json").exists():
        parts.append(_regulariser_cost(_read("regulariser_cost")))
    if (RESULTS / "denoising_trajectories.json").exists():
        parts.append(
            "## Denoising trajectories\n\nSee `benchmarks/results/denoising_trajectories.json` "
            "(`python benchmarks/denoising_trajectories.py` prints it as tables).\n"
        )
    write_text(path, "\n".join(parts))


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def _head(columns: tuple[str, ...]) -> tuple[str, str]:
    return "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)


def _mueller_brown(results: dict[str, Any]) -> str:
    lines = [MUELLER_BROWN.format(**results["protocol"]), *_head(MUELLER_BROWN_COLUMNS)]
    for method, paper in PAPER_MUELLER_BROWN.items():
        runs = [*results["methods"].get(method, {}).values()]
        if runs:
            epochs = results["epochs"].get(method, "")
            shown = (
                " / ".join(f"{n} {e}" for n, e in epochs.items())
                if isinstance(epochs, dict)
                else str(epochs)
            )
            cells = [method, str(len(runs)), shown, _seconds(runs)]
            for key in ("js_combined_range", "js_fixed_range", "pmf_error"):
                for name in ("iid", "simulation"):
                    cells.append(_spread([run[name][key] for run in runs]))
            cells.append(str(sum(run["iid"]["frames_beyond_4"] for run in runs)))
            lines.append("| " + " | ".join([*cells, *paper]) + " |")
    lines.append(MUELLER_BROWN_FOOT)
    return "\n".join(lines)


def _seconds(runs: list[dict[str, Any]]) -> str:
    values = [run["training_wall_seconds"] for run in runs if "training_wall_seconds" in run]
    return f"{np.mean(values):.0f}" if values else ""


def _spread(values: list[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values):.4f}"


def _fokker_planck(results: dict[str, Any]) -> str:
    times = next(iter(results.values()))["t"]
    shown = [0, len(times) // 4, len(times) // 2, 3 * len(times) // 4, len(times) - 1]
    heads = ("model", *(f"t = {times[i]:.2g}" for i in shown))
    lines = [FOKKER_PLANCK, *_head(heads)]
    for name, error in results.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{error['centred'][i]:.3g}" for i in shown) + " |"
        )
    return "\n".join([*lines, ""])


def _regulariser_cost(results: dict[str, Any]) -> str:
    lines = [
        "## Cost of the regulariser\n",
        (
            "`python benchmarks/regulariser_cost.py`: time per training step with and without it, "
            "one run,\ninterleaved, medians. The paper reports 5.7 to 7.\n"
        ),
        *_head(("network", "without, ms", "with, ms", "ratio")),
    ]
    for row in results["rows"]:
        numbers = f"{row['without_ms']:.2f} | {row['with_ms']:.2f} | {row['ratio']:.2f}"
        lines.append(f"| {row['network']} | {numbers} |")
    return "\n".join([*lines, ""])


def _alanine_dipeptide(results: dict[str, Any]) -> str:
    lines = [ALANINE_DIPEPTIDE, *_head(ALANINE_DIPEPTIDE_COLUMNS)]
    protocol = "{replicas} replicas x {steps:,} steps of 2 fs, a frame every {interval}".format
    lines.insert(1, f"Simulation: {protocol(**results['protocol'])}.\n")
    for name, model in results["models"].items():
        for row in model["comparison"]["sets"]:
            lines.append(_alanine_row(name, model, row))
    return "\n".join([*lines, ""])


def _alanine_row(name: str, model: dict[str, Any], row: dict[str, Any]) -> str:
    training = model["training"]
    cells = [
        name,
        f"{model['force_time']:g}",
        f"{training['frames_seen'] / 1e6:.1f}",
        f"{training['hours']:.2f}",
        row["name"],
        f"{row['n_frames']:,}",
    ]
    for metric in row["metrics"]:
        unit, digits = (1e3, 3) if metric["unit"] == "nm" else (1.0, 4)
        value, error = metric["estimate"]["value"] * unit, metric["estimate"]["error"] * unit
        cells.append(f"{value:.{digits}f} ± {error:.{digits}f}")
        cells.append(f"{metric['floor']['mean'] * unit:.{digits}f}")
    for population in row["populations"]:
        value = population["estimate"]
        cells.append(f"{value['value']:.4f} ± {value['error']:.4f}")
        cells.append(f"{population['reference']['value']:.4f}")
    if row["name"] == "simulation":
        basin = model["basin"]
        cells.append(f"{basin['population']:.4f} ± {basin['error']:.4f}")
        cells += [f"{basin['reference']:.4f}", str(basin["entries"])]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
