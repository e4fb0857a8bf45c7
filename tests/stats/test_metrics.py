"""Metrics equal those of scikit-learn, whose numbers users compare with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from shipworthy.stats import metrics


def rows_of(seed: int, rows: int, classes: int) -> tuple[metrics.Codes, metrics.Floats, metrics.Codes]:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    probabilities = rng.dirichlet(np.ones(classes), rows).round(2) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return truth, probabilities, probabilities.argmax(axis=1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(30, 200), classes=st.integers(2, 6))
def test_classification_metrics_equal_those_of_scikit_learn(seed: int, rows: int, classes: int) -> None:
    truth, probabilities, labels = rows_of(seed, rows, classes)
    names = list(range(classes))
    assert metrics.log_loss(truth, probabilities) == pytest.approx(reference.log_loss(truth, probabilities))
    assert metrics.accuracy(truth, labels) == pytest.approx(reference.accuracy_score(truth, labels))
    exact = reference.brier_score_loss(truth, probabilities if classes > 2 else probabilities[:, 1], labels=names)
    assert metrics.brier(truth, probabilities) == pytest.approx(exact)
    exact = reference.balanced_accuracy_score(truth, labels)
    assert metrics.balanced_accuracy(truth, labels, classes) == pytest.approx(exact)
    exact = reference.f1_score(truth, labels, average="macro", zero_division=0)
    assert metrics.f1(truth, labels, classes) == pytest.approx(exact)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(30, 200))
def test_binary_metrics_equal_those_of_scikit_learn_with_ties(seed: int, rows: int) -> None:
    truth, probabilities, labels = rows_of(seed, rows, 2)
    scores, positive = probabilities[:, 1], truth == 1
    assert metrics.roc_auc(positive, scores) == pytest.approx(reference.roc_auc_score(truth, scores))
    exact = reference.average_precision_score(truth, scores)
    assert metrics.average_precision(positive, scores) == pytest.approx(exact)
    assert metrics.f1(truth, labels, 2, positive=1) == pytest.approx(reference.f1_score(truth, labels))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(10, 200))
def test_regression_metrics_equal_those_of_scikit_learn(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    truth, numbers = rng.normal(size=rows), rng.normal(size=rows)
    assert metrics.mae(truth, numbers) == pytest.approx(reference.mean_absolute_error(truth, numbers))
    assert metrics.rmse(truth, numbers) == pytest.approx(reference.root_mean_squared_error(truth, numbers))
    assert metrics.r2(truth, numbers) == pytest.approx(reference.r2_score(truth, numbers))


def test_a_certain_and_wrong_row_has_a_finite_log_loss() -> None:
    losses = metrics.log_losses(np.array([0]), np.array([[0.0, 1.0]]))
    assert losses[0] == pytest.approx(-np.log(metrics.CLIP))


def test_metrics_without_both_classes_are_not_numbers() -> None:
    nothing = np.zeros(5, dtype=bool)
    assert np.isnan(metrics.roc_auc(nothing, np.arange(5.0)))
    assert np.isnan(metrics.average_precision(nothing, np.arange(5.0)))
    assert np.isnan(metrics.r2(np.ones(5), np.ones(5)))
