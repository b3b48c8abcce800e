"""Write the weights of the pages that compute in the browser, from the phi kept in results/play.

    w_rc ~ s_r q_rc,    s_r = max_c |w_rc| / 127,    q_rc an integer from -127 to 127

for the matrices of the large networks; all else has 16 bits. Where a phi comes from:

    PYTHONPATH=. python tools/play_weights.py --from-runs    the checkpoints of finished runs
    python tools/play_weights.py --from FOLDER    maml.safetensors and prototypes.safetensors there

Without an option what lies in results/play is written again.
"""

import argparse
import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from metanotes.nets import conv4, mlp

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "play"
WRITTEN = ROOT / "book" / "_static" / "play" / "phi"

# Name -> the network that it is the phi of, and the bits of its matrices.
NETS = {
    "omniglot_maml": (lambda: conv4(ways=5), 8),
    "omniglot_prototypes": (lambda: conv4(ways=None), 8),
    "sine_maml": (lambda: mlp(1, 40, 40, 1), 16),
    "sine_joint": (lambda: mlp(1, 40, 40, 1), 16),
}
# Name -> a run, what it trains and with which seed: `python -m runs RUN --seeds SEED` makes it.
FROM_RUNS = {
    "omniglot_maml": ("few_shot_omniglot", "MAML 5-way 1-shot", 0),
    "omniglot_prototypes": ("few_shot_omniglot", "prototypical network", 0),
    "sine_maml": ("sine", "MAML", 0),
    "sine_joint": ("sine", "Joint pre-training", 0),
}
KINDS = {8: "int8", 16: "float16", 32: "float32"}


def network(name: str) -> nn.Sequential:
    """The network with its phi."""
    model = NETS[name][0]()
    model.load_state_dict(load_file(KEPT / f"{name}.safetensors"))
    return model


def without_idle_biases(phi: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the biases of convolutions: the mean of the batch takes them away again."""
    idle = {name.replace("weight", "bias") for name, w in phi.items() if w.ndim == 4}
    return {name: w for name, w in phi.items() if name not in idle}


def packed(phi: dict[str, Tensor], bits: int) -> dict[str, object]:
    """What packed.js unpacks: the tensors' names and shapes, and their numbers in base64."""
    tensors, data = [], b""
    for name, w in without_idle_biases(phi).items():
        rows = w.detach().float().numpy().reshape(len(w), -1)
        kind = KINDS[bits if rows.shape[1] > 1 else max(bits, 16)]
        if kind == "int8":
            scales = (np.abs(rows).max(1, keepdims=True) / 127).astype("<f4")
            data += scales.tobytes()
            rows = np.rint(rows / np.where(scales > 0, scales, 1))
        data += rows.astype(np.dtype(kind).newbyteorder("<")).tobytes()
        tensors.append({"name": name, "kind": kind, "rows": len(w), "columns": rows.shape[1]})
    return {"tensors": tensors, "data": base64.b64encode(data).decode()}


def script(name: str) -> str:
    """The script that a page loads; it names the file that it was made from by its digest."""
    file = KEPT / f"{name}.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    contents = {"sha256": digest, **packed(load_file(file), NETS[name][1])}
    return (
        f"// The phi of results/play/{file.name}, by tools/play_weights.py.\n"
        f"((globalThis.Play ??= {{}}).packed ??= {{}}).{name} = {json.dumps(contents)};\n"
    )


def keep(name: str, phi: dict[str, Tensor], origin: str) -> None:
    """Put a phi into results/play, after a look at whether it is one of that network."""
    NETS[name][0]().load_state_dict(phi)
    KEPT.mkdir(parents=True, exist_ok=True)
    contiguous = {n: w.float().contiguous() for n, w in phi.items()}
    (KEPT / f"{name}.safetensors").write_bytes(save(contiguous, {"origin": origin}))


def from_run(name: str) -> None:
    """Keep the phi of a finished training: that of the best validation, if there were any."""
    from runs.jobs import checkpoints

    run, what, seed = FROM_RUNS[name]
    files = sorted(checkpoints(run, what).glob(f"{seed}-*.pt"), key=lambda p: p.stat().st_mtime)
    if not files:
        print(f"{name}: no checkpoint of it; python -m runs {run} --seeds {seed} makes one")
        return
    states = torch.load(files[-1], weights_only=True, map_location="cpu")
    state = states["outcome"]["best"] or states["learner"]
    phi = {n.split(".", 1)[1]: w for n, w in state.items()}  # without "model." or "body."
    keep(name, phi, f"python -m runs {run} --seeds {seed}: {what}")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--from-runs", action="store_true")
    options.add_argument("--from", dest="folder", type=Path)
    chosen = options.parse_args()
    for name in NETS:
        part = name.removeprefix("omniglot_")
        if chosen.from_runs:
            from_run(name)
        elif chosen.folder and (file := chosen.folder / f"{part}.safetensors").exists():
            with safe_open(file, "pt") as given:
                origin = (given.metadata() or {}).get("origin", "not said")
            keep(name, load_file(file), origin)
        if (KEPT / f"{name}.safetensors").exists():
            WRITTEN.mkdir(parents=True, exist_ok=True)
            path = WRITTEN / f"{name}.js"
            path.write_text(script(name), encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
