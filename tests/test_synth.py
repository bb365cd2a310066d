"""The classes of the rendered corpus differ in the order of frames and in late frames."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig
from elastictool.corpora.base import CORPORA, CorpusOptions
from elastictool.corpora.synth import COMPOSERS, SIZES, compose, render

NUM_CLIPS = sum(SIZES.values())
SCORES = [compose(0, index) for index in range(NUM_CLIPS)]


def test_a_clip_depends_on_seed_and_number_alone() -> None:
    first = [render(3, index) for index in (5, 6)]
    again = [render(3, index) for index in (6, 5)]
    np.testing.assert_array_equal(first[0], again[1])
    np.testing.assert_array_equal(first[1], again[0])
    assert not np.array_equal(first[0], render(4, 5))


def test_clips_are_finite_audible_and_within_full_scale() -> None:
    for index in range(60):
        clip = render(1, index)
        assert clip.dtype == np.float32
        assert 0.05 < np.abs(clip).max() <= 1.0
        assert len(clip) == round(compose(1, index).duration_s * 16_000)


def test_there_are_at_least_twelve_balanced_classes() -> None:
    listing = CORPORA["synth"].list_clips(None, CorpusOptions())
    assert len(listing.label_names) >= 12
    for split in SIZES:
        labels = [clip.labels[0] for clip in listing.clips if clip.split == split]
        counts = [labels.count(name) for name in listing.label_names]
        assert max(counts) - min(counts) <= 1


def test_labels_of_the_listing_are_those_of_the_scores() -> None:
    listing = CORPORA["synth"].list_clips(None, CorpusOptions())
    for number, clip in enumerate(listing.clips):
        assert clip.labels == (SCORES[number].label,)


def test_lengths_have_a_long_tail() -> None:
    durations_s = np.array([score.duration_s for score in SCORES])
    assert durations_s.min() >= 1.0 and durations_s.max() <= 10.0
    assert np.percentile(durations_s, 99) > 3 * np.median(durations_s)


def test_the_first_third_lacks_evidence_of_most_clips() -> None:
    """Patterns lose an event in every clip; trains of equal events often begin later."""
    trains = ("sweep-up", "sweep-down", "swell", "fade")
    begin_late = []
    for score in SCORES:
        third_s = score.duration_s / 3
        if score.label in trains:
            begin_late.append(score.events[0].start_s > third_s)
        else:
            assert score.events[-1].stop_s > third_s
            assert score.events[-1].start_s > 0.4 * score.duration_s
    assert np.mean(begin_late) > 0.35


def test_events_lie_within_their_clip() -> None:
    for score in SCORES:
        assert all(0 <= event.start_s < event.stop_s for event in score.events)
        assert max(event.stop_s for event in score.events) <= score.duration_s + 1e-9


def test_a_clip_is_rendered_in_milliseconds() -> None:
    started = time.process_time()
    for index in range(100):
        render(2, index)
    assert (time.process_time() - started) / 100 < 0.010


@pytest.mark.slow
def test_a_linear_probe_on_the_mean_spectrum_stays_below_60_percent() -> None:
    """...but far above chance: the family is audible in it. Chance is 7 %."""
    spectra = np.stack([_mean_spectrum(render(0, index)) for index in range(NUM_CLIPS)])
    classes = np.arange(NUM_CLIPS) % len(COMPOSERS)
    train, test = slice(0, SIZES["train"]), slice(NUM_CLIPS - SIZES["test"], None)
    scores = []
    for strength in (0.03, 0.3):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        probe.fit(spectra[train], classes[train])
        scores.append(probe.score(spectra[test], classes[test]))
    assert 0.25 < max(scores) < 0.60


def _mean_spectrum(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = fbank(torch.from_numpy(waveform), FbankConfig()).mean(0).numpy()
    return mean
