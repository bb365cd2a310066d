"""``elastictool export``: write a trained model in other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from elastictool.cli.console import log, print_json
from elastictool.cli.loading import locate_run
from elastictool.cli.options import CheckpointOption, JsonOption, RunChoice, grouped
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output

Target = Literal["onnx", "hf", "safetensors"]


@grouped
def export(
    run: RunChoice = RunChoice(),
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, or a folder for hf (default: model.onnx etc.)."),
    ] = None,
    to: Annotated[
        Target | None,
        typer.Option(help="Format: onnx, hf (a folder) or safetensors (default: as --out ends)."),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=0, help="Fixed input length in frames for onnx (0: any length).")
    ] = 0,
    which: CheckpointOption = "best",
    json_output: JsonOption = False,
) -> None:
    """Export a trained model to ONNX, Hugging Face or safetensors.

    The ONNX graph takes a normalised log-mel spectrogram and is compared with the model before it
    is written; labels, thresholds, filterbank settings, mean and std are in its metadata. The
    Hugging Face folder (ASTForAudioClassification) needs a standard AST with two prefix tokens. The
    safetensors file holds weights, configuration and labels, and every command takes it in place
    of a run.

    Example: elastictool export runs/my-run --out model.onnx
    """
    to, out = _target(to, out)
    if frames and to != "onnx":
        raise UsageError(f"--frames is for onnx, not for {to}", "leave --frames out")
    check_output(out, is_folder=to == "hf")
    from elastictool.checkpoint.weights import load_run

    loaded = load_run(locate_run(run.text), which, "split", "cpu")
    document: dict[str, object] = {"run": str(loaded.path), "out": str(out)}
    if to == "onnx":
        from elastictool.inference.onnx import export_onnx

        document["largest_difference"] = export_onnx(loaded, out, frames)
        log(f"logits differ by at most {document['largest_difference']:.1e} from the model's")
    elif to == "hf":
        from elastictool.pretrained.hf_export import export_hf

        export_hf(out, loaded.model, loaded.config, loaded.label_names, loaded.multi_label)
    else:
        from elastictool.checkpoint.weights import save_weights

        save_weights(out, loaded.model, loaded.metadata)
    log(f"wrote {out}")
    if json_output:
        print_json(document)


_SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "safetensors": ".safetensors", "hf": ""}


def _target(to: Target | None, out: Path | None) -> tuple[Target, Path]:
    """Returns format and path, each from the other where it is not given.

    Raises:
        UsageError: The path's ending stands for another format, or for none.
    """
    if out is None:
        to = to or "onnx"
        return to, Path("hf_model" if to == "hf" else f"model{_SUFFIXES[to]}")
    suffix = out.suffix.lower()
    meant = next((target for target, ending in _SUFFIXES.items() if ending == suffix), None)
    if to == "hf" and meant is None:  # a folder may have a dot in its name
        return to, out
    if meant is None or (to is not None and to != meant):
        problem = f"is no name for --to {to}" if to else "has no known ending"
        raise UsageError(
            f"--out {out} {problem}",
            "end it in .onnx or .safetensors; a folder without an ending is for --to hf",
        )
    return meant, out
