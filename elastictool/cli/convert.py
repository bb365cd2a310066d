"""``elastictool convert``: convert weights of another project to an elastictool file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from elastictool.cli.console import log, print_json, print_table
from elastictool.cli.options import JsonOption, SetsOption


def convert(
    source: Annotated[
        str, typer.Argument(help="File, folder with config.json, run, or Hugging Face id.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--from",
            help="Format: ast, ssast, hf-ast, elasticast, flexiast, timm, hf-vit or run.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .safetensors.")],
    sets: SetsOption = None,
    labels: Annotated[
        Path | None, typer.Option(help="File of class names, one a line, if SOURCE has none.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Convert weights of another project to an elastictool file.

    The model is that of the file unless --set changes its patches, positions or pooling; init.rgb
    says how colours become one channel. No code of the file is run: a pickle that holds more than
    tensors is refused.

    Example: elastictool convert audioset_0.4593.pth --from ast --out ast.safetensors
    """
    from dataclasses import asdict

    from elastictool.config.coerce import to_dict
    from elastictool.training.convert import convert as convert_weights

    result = convert_weights(form, source, out, sets or [], labels)
    if json_output:
        document = {
            "out": str(result.out),
            "report": asdict(result.report),
            "report_file": str(result.report_file),
            "label_names": list(result.label_names),
            "model": to_dict(result.config.model),
        }
        print_json(document)
        return
    print_table(f"convert {source}", ["what", "which"], result.report.lines())
    log(f"wrote {result.out} and {result.report_file}")
