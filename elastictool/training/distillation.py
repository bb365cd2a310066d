"""Knowledge distillation: a trained run teaches another on the same clips.

FlexiAST is taught by the standard AST that it starts from. Both see the same log-mel frames,
cropped and masked alike, but other patches; so the loader packs each batch a second time for the
teacher, and the settings of the frames must be the same.

Source: FlexiAST, Section 3.4 (KL divergence). The published code for it is not public.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.checkpoint.find import find_run
from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.config import DistillConfig, RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.loader import differences
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import CheckpointError


class Teacher:
    """A frozen model and the loss that it adds.

    Args:
        run: The teacher's run.
        config: Temperature and weight.
        loss: ``ce`` compares distributions over classes, ``bce`` each class by itself.
    """

    def __init__(self, run: LoadedRun, config: DistillConfig, loss: str) -> None:
        self.config, self.loss = config, loss
        self.model: SpectrogramTransformer = run.model.eval().requires_grad_(False)
        self.spec = run.pack_spec

    @torch.no_grad()
    def logits(self, batch: PackedBatch) -> Tensor:
        """Returns (S, C) logits for a student's batch from its ``teacher_batch``."""
        if batch.teacher_batch is None:
            raise ValueError("the batch was loaded without the teacher's cut")
        logits: Tensor = self.model(batch.teacher_batch)
        return logits

    def losses(self, student: Tensor, teacher: Tensor, supervised: Tensor) -> Tensor:
        """Returns the (S,) whole loss of each clip; see ``DistillConfig`` for the formula.

        Args:
            student: (S, C) logits.
            teacher: (S, C) logits.
            supervised: (S,) loss against the labels.
        """
        temperature, weight = self.config.temperature, self.config.weight
        divergence = _DIVERGENCES[self.loss](teacher / temperature, student / temperature)
        return (1 - weight) * supervised + weight * temperature**2 * divergence


def class_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the (S,) KL(teacher || student) of the softmax distributions of (S, C) logits."""
    wanted, found = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(1)


def label_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns the (S,) mean over classes of KL(teacher || student) of sigmoids of (S, C) logits."""
    present = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    absent = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (present + absent).mean(1)


_SHARED = (
    "data.mean",
    "data.std",
    "fbank.",
    "length.fixed_frames",
    "length.padding",
    "train.loss",
)
"""Settings, or sections of them, that teacher and student must have in common."""
_DIVERGENCES = {"ce": class_divergence, "bce": label_divergence}


def load_teacher(config: RunConfig, store: PreparedStore, device: str) -> Teacher | None:
    """Loads the teacher that a resolved configuration names; None where it names none.

    Raises:
        UsageError: There is no such run.
        CheckpointError: The teacher's classes, frames or statistics are not the student's.
    """
    wanted = config.train.distill
    if not wanted.teacher:
        return None
    run = load_run(find_run(wanted.teacher), device=device)
    if found := _differences(run, config, store):
        raise CheckpointError(
            f"the teacher {run.path} cannot teach this run: {'; '.join(found)}",
            "train both on the same data with the same fbank, length and train.loss settings",
        )
    return Teacher(run, wanted, config.train.loss)


def _differences(run: LoadedRun, config: RunConfig, store: PreparedStore) -> list[str]:
    """Lists what makes inputs or classes of teacher and student differ."""
    found = []
    if list(run.label_names) != list(store.info.label_names):
        found.append("its classes are not those of the data")
    for key, value in differences(to_dict(run.config), to_dict(config)).items():
        here, there = value.asked, value.found
        both_float = isinstance(here, float) and isinstance(there, float)
        if key.startswith(_SHARED) and not (both_float and math.isclose(here, there, rel_tol=1e-6)):
            found.append(f"its {key} is {there}, this run's {here}")
    return found
