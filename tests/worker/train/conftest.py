"""Trainings in seconds: every step is taken, and nobody asks what the models are worth."""

import pytest

from worker.train import autoencoder, features, head, quantisation
from worker.train import train as training


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(head, "STEPS", 20)
    monkeypatch.setattr(autoencoder, "STEPS", 2)
    monkeypatch.setattr(features, "COPIES", 2)
    monkeypatch.setattr(features, "MOST_SYNTHETIC", 1)
    monkeypatch.setattr(training, "FOLDS", 2)
    monkeypatch.setattr(quantisation, "PHOTOS", 2)
