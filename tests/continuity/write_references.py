"""Write references.json: energies and forces of shipped models, for later versions to reproduce.

    python tests/continuity/write_references.py

To be run when a model is shipped or replaced, and never because a test has failed.
"""

import json
from pathlib import Path

from openmm_scoremd._files.atomic import write_json
from openmm_scoremd.model_file import ScoreModelFile

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "torchscript_models"
REFERENCES = HERE / "references.json"
N_FRAMES = 5


def reference(path):
    """Return energies and forces of a few samples, which are typical of what is simulated."""
    model = ScoreModelFile(path)
    # Rounded before they are used, so that what is stored is what was used.
    frames = model.sample(N_FRAMES, seed=0).round(6)
    return {
        "sha256": model.sha256,
        "tensor_digest": model.metadata.tensor_digest,
        "positions": frames,
        "energies": model.potential_energy(frames),
        "forces": model.forces(frames),
    }


if __name__ == "__main__":
    content = {path.name: reference(path) for path in sorted(MODELS.glob("*.pt"))}
    write_json(REFERENCES, content)
    print(f"{REFERENCES}: {', '.join(json.loads(REFERENCES.read_text()))}")
