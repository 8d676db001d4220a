"""The figures of a manifest in plain words, in the order in which they are shown."""

METRICS: dict[str, tuple[str, str, str]] = {
    "classifier_auroc": (
        "Classifier: AUROC",
        "how well it ranks defective above good; 1 is perfect",
        "figure",
    ),
    "classifier_average_precision": (
        "Classifier: average precision",
        "area under precision and recall",
        "figure",
    ),
    "classifier_recall": ("Classifier: recall", "share of defective parts that it finds", "share"),
    "classifier_false_alarm_rate": (
        "Classifier: false alarm rate",
        "share of good parts that it calls defective",
        "share",
    ),
    "classifier_f1": ("Classifier: F1", "harmonic mean of precision and recall", "figure"),
    "classifier_ece": (
        "Classifier: calibration error",
        "how far its probabilities are from what happens",
        "share",
    ),
    "escapes": ("Escapes", "defective photos that both models let pass", "count"),
    "review_load_on_good": ("Review load", "share of good parts that people must look at", "share"),
    "undecidable": ("Undecidable", "photos that nothing could be said of", "count"),
    "out_of_domain_share": (
        "Out of domain",
        "share of good photos taken for something else",
        "share",
    ),
    "autoencoder_auroc": ("Autoencoder: AUROC", "of its calibrated anomaly score", "figure"),
    "autoencoder_average_precision": (
        "Autoencoder: average precision",
        "area under precision and recall",
        "figure",
    ),
    "autoencoder_recall": (
        "Autoencoder: recall",
        "share of defective parts that it finds",
        "share",
    ),
    "autoencoder_false_alarm_rate": (
        "Autoencoder: false alarm rate",
        "share of good parts that it finds strange",
        "share",
    ),
    "autoencoder_f1": ("Autoencoder: F1", "harmonic mean of precision and recall", "figure"),
    "autoencoder_mse_auroc": (
        "Plain mean squared error: AUROC",
        "for comparison; nothing is decided on it",
        "figure",
    ),
    "anomaly_map_pixel_auroc": (
        "Anomaly map: pixel AUROC",
        "how well it ranks pixels of defects above others",
        "figure",
    ),
    "anomaly_map_aupro": ("Anomaly map: AUPRO", "how much of each defect it covers", "figure"),
    "synthetic_auroc": (
        "Synthetic defects: AUROC",
        "of the classifier, on good photos with painted defects",
        "figure",
    ),
    "calibration_photos": (
        "Calibration photos",
        "good photos that the thresholds come from",
        "count",
    ),
}
"""Name in the manifest: (what it is called, what it means, what kind of number it is)."""
KEY = ("classifier_auroc", "classifier_recall", "classifier_false_alarm_rate")
"""What a list of versions shows."""


def told(metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    """(called, means, value) of each, known ones first."""
    known = [name for name in METRICS if name in metrics]
    other = sorted(set(metrics) - set(METRICS))
    return [(METRICS[name][0], METRICS[name][1], write(name, metrics[name])) for name in known] + [
        (name.replace("_", " "), "", f"{metrics[name]:.4g}") for name in other
    ]


def write(name: str, value: float | None) -> str:
    """The number as people read it; in words what was not measured."""
    if value is None:
        return "not measured"
    kind = METRICS[name][2]
    if kind == "share":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if kind == "count" else f"{value:.3f}"
