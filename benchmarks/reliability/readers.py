"""Everything that reads what users give: sample inputs, ways to damage them, commands that read.

A reader's ``check`` runs a command on damaged inputs and returns what became of each.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.reliability import mutate
from benchmarks.reliability.child import Ended, fresh, run, run_line
from benchmarks.reliability.mutate import ANY, AUDIO, DOCUMENT, TEXT, Damaged, Edit
from elastictool.audio.trials import encode_with_av
from elastictool.utils.errors import ElasticToolError

LIMIT_S, LIMIT_MB = 20.0, 500.0
"""Wall time and growth of memory that no input may exceed."""
LOSS = 0.9
"""Share of the audio that has to arrive where nothing is said: packets and frames may get lost."""
READ, REFUSED, TRACEBACK, HANG, MEMORY, LOST = (
    "read", "refused", "traceback", "hang", "memory", "lost",
)  # fmt: skip
OUTCOMES = (READ, REFUSED, TRACEBACK, HANG, MEMORY, LOST)
EXIT_CODES = (0, 1, 2, 3, 4)
RATE_HZ, SECONDS = 48_000, 2.0


_NOT_THERE = (
    ValueError, IndexError, OverflowError, TypeError, ArithmeticError, EOFError, OSError,
    RecursionError, tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
"""What edits raise where an earlier damage hid what they change."""


@dataclass(frozen=True)
class Found:
    """What became of an input.

    Attributes:
        outcome: One of ``OUTCOMES``.
        output: What was printed.
    """

    outcome: str
    output: str = ""


@dataclass(frozen=True)
class Material:
    """What commands need besides the input: made once, then only read.

    Attributes:
        folder: ``wav/0.wav`` to ``wav/5.wav``, the dataset ``toy``, the run ``run``.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Material:
        """Write recordings, prepare them, train on them and evaluate."""
        fresh(folder)
        (folder / "wav").mkdir()
        rng = np.random.default_rng(0)
        for number in range(12):
            wave = 0.2 * np.sin(np.arange(6_400) * (0.1 + 0.3 * (number % 2)))
            noise = 0.01 * rng.standard_normal(len(wave))
            soundfile.write(folder / "wav" / f"{number}.wav", wave + noise, 16_000)
        (folder / "toy.csv").write_text(table(",", 12).replace("|pet", ""))
        for line in (
            "prep --dataset csv --root toy.csv --out . --name toy --workers 1",
            "train --dataset toy --run-dir run --set model.width=32 --set model.heads=2 --set "
            "model.depth=1 --set length.max_frames=128 --set train.epochs=2 --set "
            "train.schedule.kind=constant",
            "eval run --dataset toy",
        ):
            ended = run_line(line.split(), folder, limit_s=120)
            if ended.code:
                raise RuntimeError(f"{line}: {ended.shown}")
        return cls(folder)

    def copy_recordings(self, folder: Path, count: int = 6) -> None:
        """Put recordings ``wav/0.wav`` and so on into ``folder``."""
        (folder / "wav").mkdir()
        for number in range(count):
            os.link(self.folder / "wav" / f"{number}.wav", folder / "wav" / f"{number}.wav")


Check = Callable[[Sequence[Damaged], Material, Path], list[Found]]
"""Reads damaged inputs in an empty folder; returns what became of each."""


@dataclass(frozen=True)
class Reader:
    """A kind of input.

    Attributes:
        name: For the report.
        samples: Makes whole inputs.
        edits: Ways to damage them.
        check: Reads damaged ones.
        at_once: Number of inputs that a command reads.
    """

    name: str
    samples: Callable[[Material], list[bytes]]
    edits: tuple[Edit, ...]
    check: Check
    at_once: int = 1

    def damaged(self, samples: Sequence[bytes], rng: mutate.Rng) -> Damaged:
        """Return a sample with one to three damages."""
        found = Damaged(samples[mutate.draw(rng, len(samples))], "")
        audio = 1.0
        for _ in range(1 if rng.random() < 0.7 else mutate.draw(rng, 4, 2)):
            edit = self.edits[mutate.draw(rng, len(self.edits))]
            try:
                changed = edit(found.data, rng)
            except _NOT_THERE:
                changed = mutate.flip(found.data, rng)
            audio = audio * changed.audio if changed.audio and not np.isnan(audio) else np.nan
            how = f"{found.how}; {changed.how}".strip("; ")
            found = replace(changed, how=how)
        return replace(found, audio=None if np.isnan(audio) else audio)


def judged(ended: Ended) -> Found:
    """Return what became of the input of a command, as far as its end tells."""
    if ended.hung or ended.orphans:
        return Found(HANG, ended.shown)
    if ended.grown_mb > LIMIT_MB:
        return Found(MEMORY, f"{ended.grown_mb:.0f} MB more\n{ended.shown}")
    if "Traceback (most recent" in ended.shown or ended.code not in EXIT_CODES:
        return Found(TRACEBACK, f"exit code {ended.code}\n{ended.shown}")
    if ended.code and not ended.err.strip():
        return Found(TRACEBACK, f"exit code {ended.code} without a message")
    return Found(REFUSED if ended.code not in (0, 3) else READ, ended.shown)


# Audio -----------------------------------------------------------------------------------------


def _tone(hertz: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    time_s = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(int(hertz)).standard_normal(len(time_s))
    return (0.3 * np.sin(2 * np.pi * hertz * time_s) + 0.01 * noise).astype(np.float32)


def _sndfile(container: str, subtype: str, material: Material) -> list[bytes]:
    found = []
    for hertz in (300.0, 900.0):
        buffer = io.BytesIO()
        soundfile.write(buffer, _tone(hertz), RATE_HZ, format=container, subtype=subtype)
        found.append(buffer.getvalue())
    return found


def _av(container: str, codec: str, material: Material) -> list[bytes]:
    return [encode_with_av(_tone(hertz), container, codec) for hertz in (300.0, 900.0)]


def check_audio(
    damaged: Sequence[Damaged], material: Material, folder: Path, suffix: str
) -> list[Found]:
    """Prepare the files at once; those that something strange happened to, one by one."""
    ended, prepared, rejected = _prepare(damaged, material, folder, suffix)
    whole = judged(ended)
    if whole.outcome in (TRACEBACK, HANG, MEMORY) or not (prepared or rejected):
        if len(damaged) == 1:
            return [whole]
        return [check_audio([d], material, fresh(folder), suffix)[0] for d in damaged]
    found = []
    for number, one in enumerate(damaged):
        name = f"{number}.{suffix}"
        share = prepared.get(name, 0.0) / SECONDS
        said = re.search(rf"(?<![\w.]){re.escape(name)}", ended.shown)
        if name in rejected:
            found.append(Found(REFUSED, rejected[name]))
        elif name not in prepared:
            found.append(Found(LOST, f"neither prepared nor rejected\n{ended.shown}"))
        elif one.audio and share < LOSS * one.audio and not said:
            # Among many files messages name some only.
            alone = len(damaged) > 1 and check_audio([one], material, fresh(folder), suffix)[0]
            text = f"{SECONDS * share:.2f} of {SECONDS * one.audio:.2f} s\n{ended.shown}"
            found.append(alone or Found(LOST, text))
        else:
            found.append(Found(READ, f"{SECONDS * share:.2f} s"))
    return found


def _prepare(
    damaged: Sequence[Damaged], material: Material, folder: Path, suffix: str
) -> tuple[Ended, dict[str, float], dict[str, str]]:
    """Return how ``prep`` ended, the seconds of what it prepared, and why it rejected others."""
    material.copy_recordings(folder, 4)
    rows = [f"wav/{number}.wav,{'ab'[number % 2]},train" for number in range(4)]
    for number, one in enumerate(damaged):
        (folder / f"{number}.{suffix}").write_bytes(one.data)
        rows.append(f"{number}.{suffix},{'ab'[number % 2]},train")
    (folder / "clips.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    line = "prep --dataset csv --root clips.csv --out . --name out --workers 1 --max-rejected 1"
    ended = run_line(line.split(), folder, limit_s=LIMIT_S + len(damaged))
    if ended.code:
        return ended, {}, {}
    from elastictool.corpora.tables import Columns, Table
    from elastictool.data.store import PreparedStore

    store = PreparedStore.open(folder / "out")
    seconds = store.num_samples / store.info.sample_rate_hz
    prepared = dict(zip(store.ids.tolist(), seconds.tolist(), strict=True))
    listed = folder / "out" / "rejected.csv"
    columns = Columns(("id", "reason"), ("path", "split"))
    refused = list(Table(listed, columns)) if listed.exists() else []
    rejected = {row.cells["id"]: str(row.cells) for row in refused}
    return ended, prepared, rejected


# Tables and lists ------------------------------------------------------------------------------


def table(divider: str, rows: int = 6) -> str:
    """Return a table of recordings."""
    cells = [("path", "label", "split", "start", "stop", "group")]
    for number in range(rows):
        split = ("train", "train", "val", "test")[number // 2 % 4]
        label = ("dog", "cat|pet")[number % 2]
        cells.append((f"wav/{number}.wav", label, split, "0", "0.35", f"g{number // 2}"))
    return "".join(divider.join(row) + "\n" for row in cells)


def _tables(divider: str, material: Material) -> list[bytes]:
    whole = table(divider)
    short = "".join(divider.join(line.split(divider)[:2]) + "\n" for line in whole.splitlines())
    return [whole.encode(), short.encode()]


def _json_lists(material: Material) -> list[bytes]:
    data = [
        {"wav": f"wav/{number}.wav", "labels": ("dog", "cat,pet")[number % 2]}
        for number in range(6)
    ]
    return [json.dumps({"data": data}).encode(), json.dumps({"data": data}, indent=1).encode()]


def _rows_of_table(data: bytes) -> int | None:
    """Return how many rows a table has; None where that cannot be said."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    rows = [row for row in re.split(r"\r\n|\n|\r", text) if row.strip(" \t,;\"'")]
    return len(rows) - 1


def _rows_of_json(data: bytes) -> int | None:
    try:
        found = json.loads(data)["data"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return len(found) if isinstance(found, list) else None


def check_list(
    damaged: Sequence[Damaged],
    material: Material,
    folder: Path,
    corpus: str,
    suffix: str,
    rows_of: Callable[[bytes], int | None],
) -> list[Found]:
    """Prepare what a table or list names; every row has to be prepared, missing or rejected."""
    (one,) = damaged
    material.copy_recordings(folder)
    (folder / f"list.{suffix}").write_bytes(one.data)
    line = f"prep --dataset {corpus} --root list.{suffix} --out . --name out --workers 1 --json"
    ended = run_line([*line.split(), "--max-rejected", "1"], folder, limit_s=LIMIT_S)
    found, expected = judged(ended), rows_of(one.data)
    if found.outcome == READ and expected is not None:
        splits = json.loads(ended.out)["splits"].values()
        known = sum(split["prepared"] + split["missing"] + split["rejected"] for split in splits)
        if known < expected:
            return [Found(LOST, f"{known} of {expected} rows\n{ended.shown}")]
    return [found]


def _names(material: Material) -> list[bytes]:
    return ["".join(f"wav/{number}.wav\n" for number in range(6)).encode()]


def check_names(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Predict a list of names on stdin; every line has to be in the output."""
    (one,) = damaged
    material.copy_recordings(folder)
    line = f"predict - --run {material.folder / 'run'} --format json"
    ended = run_line(line.split(), folder, stdin=one.data, limit_s=LIMIT_S)
    found = judged(ended)
    lines = one.data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    names = {line.strip() for line in lines if line.strip()}
    if found.outcome == READ and b"\0" not in one.data:  # which divides names, too
        answered = len(json.loads(ended.out)["predictions"])
        if answered < len(names):
            return [Found(LOST, f"{answered} of {len(names)} names\n{ended.shown}")]
    return [found]


# Settings and state ----------------------------------------------------------------------------

RECIPE = """# elastictool train --recipe mine
extends: small_data
name: mine
model: {preset: elasticast, size: tiny, depth: 2, patch_size: [16, 16]}
length: {max_frames: 256}
augment:
  length_diversity: {share: 0.5}
train:
  epochs: 3
  lr: 1e-3
  schedule: {kind: cosine}
flexi: {sizes: [8, 16]}
"""
SETTINGS = (
    "train.lr=1e-4", "model.patch_size=[16,32]", "flexi.sizes=[8,16]", "train.epochs=5",
    "length.max_frames=512", "model.size=tiny", "train.schedule.kind=constant", "name=x",
    "data.validation_fraction=0.1", "fbank.shift_ms=10", "packing.batch_clips=8",
    "model.preset=ast", "augment.length_diversity.share=0.5", "train.clip_norm=1", "seed=1",
)  # fmt: skip


def _train_dry(folder: Path, material: Material, *more: str) -> list[Found]:
    dataset = str(material.folder / "toy")
    line = ["train", "--dataset", dataset, "--run-dir", "new", "--dry-run", *more]
    return [judged(run_line(line, folder, limit_s=LIMIT_S))]


def check_recipe(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Check a training with a recipe file."""
    (folder / "mine.yaml").write_bytes(damaged[0].data)
    return _train_dry(folder, material, "--recipe", "mine.yaml")


def check_setting(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Check a training with a setting; a system passes no zero bytes, and 128 kB at most."""
    text = damaged[0].data.replace(b"\0", b"")[:100_000]
    return _train_dry(folder, material, "--set", os.fsdecode(text))


def check_dataset(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Verify prepared data, show them, or train on them."""
    shutil.copytree(material.folder / "toy", folder / "toy", copy_function=os.link)
    (folder / "toy" / "dataset.json").unlink()
    (folder / "toy" / "dataset.json").write_bytes(damaged[0].data)
    run_folder = material.folder / "run"
    lines = (
        "data verify toy",
        "data show toy",
        f"predict wav/0.wav --run {run_folder}",
        "train --dataset toy --run-dir new --dry-run",
        "data list",
    )
    material.copy_recordings(folder, 1)
    which = sum(damaged[0].data[:200]) % len(lines)
    return [judged(run_line(lines[which].split(), folder, limit_s=LIMIT_S))]


RUN_FILES = (
    "config.yaml", "environment.json", "metrics.jsonl", "checkpoints/last.training.pt",
    "results/eval_test.json", "results/per_class_test.csv",
)  # fmt: skip
_MARK = b"\n#file "


def _run_files(material: Material) -> list[bytes]:
    """Return the files, each marked with its name."""
    return [
        (material.folder / "run" / name).read_bytes() + _MARK + name.encode() for name in RUN_FILES
    ]


def in_run_file(data: bytes, rng: mutate.Rng) -> Damaged:
    """Damage a marked file."""
    content, mark, name = data.rpartition(_MARK)
    edits = DOCUMENT if name.endswith(b"json") else ANY if name.endswith(b"pt") else TEXT
    found = edits[mutate.draw(rng, len(edits))](content, rng)
    return replace(found, data=found.data + mark + name, how=f"{name.decode()}: {found.how}")


def check_run_file(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Show, resume, evaluate or report a run with a damaged file."""
    content, _, name = damaged[0].data.rpartition(_MARK)
    shutil.copytree(material.folder / "run", folder / "run")
    path = folder / "run" / os.fsdecode(name)
    if name.decode("ascii", "replace") in RUN_FILES:
        path.write_bytes(content)
    data = f"--dataset {material.folder / 'toy'}"
    resume = f"train --resume --run-dir run --set train.epochs=3 {data}"
    lines = (
        "runs show run",
        "runs list --root .",
        resume,
        resume,
        f"eval run {data}",
        "runs show run --json",
    )
    ended = run_line(lines[sum(content[:99]) % len(lines)].split(), folder, limit_s=LIMIT_S)
    return [judged(ended)]


def check_safetensors(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Predict with damaged weights."""
    (folder / "w.safetensors").write_bytes(damaged[0].data)
    material.copy_recordings(folder, 1)
    line = "predict wav/0.wav --run w.safetensors"
    return [judged(run_line(line.split(), folder, limit_s=LIMIT_S))]


def _pickles(material: Material) -> list[bytes]:
    """Return an AST's state dict of depth 1 as torch writes it today and wrote it once."""
    width, generator = 64, torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "v.cls_token": (1, 1, width), "v.dist_token": (1, 1, width),
        "v.pos_embed": (1, 2 + 12 * 101, width), "v.patch_embed.proj.weight": (width, 1, 16, 16),
        "v.patch_embed.proj.bias": (width,), "v.norm.weight": (width,), "v.norm.bias": (width,),
        "mlp_head.0.weight": (width,), "mlp_head.0.bias": (width,),
        "mlp_head.1.weight": (5, width), "mlp_head.1.bias": (5,),
        "v.blocks.0.norm1.weight": (width,), "v.blocks.0.norm1.bias": (width,),
        "v.blocks.0.norm2.weight": (width,), "v.blocks.0.norm2.bias": (width,),
        "v.blocks.0.attn.qkv.weight": (3 * width, width), "v.blocks.0.attn.qkv.bias": (3 * width,),
        "v.blocks.0.attn.proj.weight": (width, width), "v.blocks.0.attn.proj.bias": (width,),
        "v.blocks.0.mlp.fc1.weight": (4 * width, width), "v.blocks.0.mlp.fc1.bias": (4 * width,),
        "v.blocks.0.mlp.fc2.weight": (width, 4 * width), "v.blocks.0.mlp.fc2.bias": (width,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    found = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(tensors, buffer, _use_new_zipfile_serialization=zipped)
        found.append(buffer.getvalue())
    return found


def check_pickle(damaged: Sequence[Damaged], material: Material, folder: Path) -> list[Found]:
    """Convert a damaged checkpoint."""
    (folder / "ast.pth").write_bytes(damaged[0].data)
    line = "convert ast.pth --from ast --out new.safetensors"
    return [judged(run_line(line.split(), folder, limit_s=LIMIT_S))]


# Archives --------------------------------------------------------------------------------------

MEMBERS = {f"esc/audio/{number}.wav": bytes([65 + number]) * 3_000 for number in range(5)}


def _zips(material: Material) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
        found.append(buffer.getvalue())
    return found


def _tars(material: Material) -> list[bytes]:
    found = []
    for style in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=style) as archive:
            for name, content in MEMBERS.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        found.append(buffer.getvalue())
    return found


def check_archive(
    damaged: Sequence[Damaged], material: Material, folder: Path, name: str
) -> list[Found]:
    """Unpack an archive; every member has to be unpacked, into its folder."""
    (folder / name).write_bytes(damaged[0].data)
    found = judged(run(lambda: _unpack(folder / name, folder / "out"), folder, limit_s=LIMIT_S))
    outside = [path.name for path in folder.iterdir() if path.name not in (name, "out")]
    if outside:
        return [Found(LOST, f"written outside: {outside}")]
    if found.outcome == READ:
        count = sum(path.is_file() for path in (folder / "out").rglob("*"))
        if count < len(MEMBERS):
            return [Found(LOST, f"{count} of {len(MEMBERS)} members")]
    return [found]


def _unpack(archive: Path, target: Path) -> None:
    from elastictool.cli.console import print_error
    from elastictool.corpora.archives import extract

    try:
        extract(archive, target)
    except ElasticToolError as error:
        print_error(error)
        raise SystemExit(error.exit_code) from None


# All -------------------------------------------------------------------------------------------


def _audio(name: str, samples: Callable[[Material], list[bytes]], *edits: Edit) -> Reader:
    check = partial(check_audio, suffix=name)
    return Reader(name, samples, (*AUDIO, *edits, *edits, *edits), check, at_once=20)


def _list(name: str, samples: Callable[[Material], list[bytes]], corpus: str) -> Reader:
    is_json = corpus == "json"
    rows_of = _rows_of_json if is_json else _rows_of_table
    check = partial(check_list, corpus=corpus, suffix=name.split()[0], rows_of=rows_of)
    return Reader(name, samples, DOCUMENT if is_json else TEXT, check)


_compress = partial(gzip.compress, mtime=0)
_GZIPPED = mutate.inside(mutate.tar_header, gzip.decompress, _compress)
_GZIPPED_ANY = mutate.inside(mutate.flip, gzip.decompress, _compress)


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        _audio("wav", partial(_sndfile, "WAV", "PCM_16"), mutate.wav_field, mutate.wav_chunk),
        _audio("flac", partial(_sndfile, "FLAC", "PCM_16"), mutate.flac_length),
        _audio("mp3", partial(_av, "mp3", "libmp3lame"), mutate.tag_after, mutate.tag_before),
        _audio("ogg", partial(_sndfile, "OGG", "VORBIS"), mutate.ogg_page, mutate.double),
        _audio("opus", partial(_sndfile, "OGG", "OPUS"), mutate.ogg_page, mutate.double),
        _audio("m4a", partial(_av, "mp4", "aac"), mutate.mp4_box),
        _audio("webm", partial(_av, "webm", "libopus"), mutate.webm_element),
        _audio("aiff", partial(_sndfile, "AIFF", "PCM_16"), mutate.aiff_field),
        _list("csv", partial(_tables, ","), "csv"),
        _list("tsv", partial(_tables, "\t"), "csv"),
        _list("json list", _json_lists, "json"),
        Reader("stdin list", _names, TEXT, check_names),
        Reader("yaml recipe", lambda _: [RECIPE.encode()], TEXT, check_recipe),
        Reader("--set", lambda _: [text.encode() for text in SETTINGS], TEXT, check_setting),
        Reader(
            "dataset.json",
            lambda material: [(material.folder / "toy" / "dataset.json").read_bytes()],
            DOCUMENT,
            check_dataset,
        ),
        Reader("run directory", _run_files, (in_run_file,), check_run_file),
        Reader(
            "safetensors",
            lambda m: [(m.folder / "run" / "checkpoints" / "best.safetensors").read_bytes()],
            (*ANY, *(mutate.safetensors_header,) * 10),
            check_safetensors,
        ),
        Reader("pth", _pickles, ANY, check_pickle),
        Reader(
            "zip", _zips, (*ANY, *(mutate.zip_field,) * 8), partial(check_archive, name="a.zip")
        ),
        Reader(
            "tar.gz",
            _tars,
            (*ANY, *(_GZIPPED,) * 6, *(_GZIPPED_ANY,) * 3),
            partial(check_archive, name="a.tar.gz"),
        ),
    )
}  # fmt: skip
"""Every reader by name."""
