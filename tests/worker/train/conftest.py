"""Trainings in seconds: every step is taken, and nobody asks what the models are worth."""

import hashlib

import pytest

from worker.train import autoencoder, features, head, quantisation
from worker.train import train as training
from worker.train.quantisation import quantise_graph as quantisation_of


@pytest.fixture(scope="session")
def quantise_once():
    """NNCF looks for patterns in the graph for seconds: each backbone's is quantised once."""
    made = {}

    def quantise_graph(graph, photos):
        constants = [op.data for op in graph.get_ordered_ops() if op.get_type_name() == "Constant"]
        backbone = hashlib.sha256(b"".join(data.tobytes() for data in constants)).hexdigest()
        if backbone not in made:
            made[backbone] = quantisation_of(graph, photos)
        return made[backbone].clone()

    return quantise_graph


@pytest.fixture
def short(monkeypatch, quantise_once):
    monkeypatch.setattr(head, "STEPS", 20)
    monkeypatch.setattr(autoencoder, "STEPS", 2)
    monkeypatch.setattr(features, "COPIES", 2)
    monkeypatch.setattr(features, "MOST_SYNTHETIC", 1)
    monkeypatch.setattr(training, "FOLDS", 2)
    monkeypatch.setattr(quantisation, "PHOTOS", 2)
    monkeypatch.setattr(quantisation, "quantise_graph", quantise_once)
