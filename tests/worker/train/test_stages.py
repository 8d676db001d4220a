import pytest
import torch

from shared.errors import Conflict
from worker.train import stages as stages_of_training
from worker.train.stages import Stages, computed_by, exclusively


def numbers():
    return {"numbers": torch.arange(3.0)}


def never():
    raise AssertionError("made again")


def test_a_finished_stage_is_read_by_the_next_start(tmp_path):
    made = Stages(tmp_path / "s", {"seed": 1}).once("a", numbers)
    read = Stages(tmp_path / "s", {"seed": 1}).once("a", never)
    assert torch.equal(made["numbers"], read["numbers"])


def test_what_follows_from_something_else_is_made_afresh(tmp_path):
    Stages(tmp_path / "s", {"seed": 1}).once("a", numbers)
    other = Stages(tmp_path / "s", {"seed": 2})
    assert torch.equal(
        other.once("a", lambda: {"numbers": torch.ones(1)})["numbers"], torch.ones(1)
    )


def test_what_another_engine_or_other_code_would_compute_is_made_afresh(tmp_path, monkeypatch):
    (tmp_path / "code" / "train").mkdir(parents=True)
    module = tmp_path / "code" / "train" / "renderer.py"
    module.write_text("EDGE = 1\n")
    monkeypatch.setattr(stages_of_training.worker, "__file__", str(tmp_path / "code/__init__.py"))
    before = computed_by("openvino-fp32")
    Stages(tmp_path / "s", before).once("a", numbers)
    assert Stages(tmp_path / "s", computed_by("openvino-fp32")).once("a", never)

    assert computed_by("cuda-fp32") != before
    module.write_text("EDGE = 2\n")
    changed = Stages(tmp_path / "s", computed_by("openvino-fp32"))
    with pytest.raises(AssertionError, match="made again"):
        changed.once("a", never)


def test_a_stage_that_breaks_off_leaves_nothing_that_looks_finished(tmp_path):
    stages = Stages(tmp_path / "s", {})

    def broken():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.once("a", broken)
    assert torch.equal(stages.once("a", numbers)["numbers"], torch.arange(3.0))


def test_a_damaged_stage_is_made_again(tmp_path):
    Stages(tmp_path / "s", {}).once("a", numbers)
    (tmp_path / "s" / "a.safetensors").write_bytes(b"half")
    assert torch.equal(Stages(tmp_path / "s", {}).once("a", numbers)["numbers"], torch.arange(3.0))
    assert Stages(tmp_path / "s", {}).once("a", never)


def test_a_second_training_of_the_same_folder_is_refused_while_the_first_runs(tmp_path):
    with exclusively(tmp_path / "s"):
        with pytest.raises(Conflict, match="another training"), exclusively(tmp_path / "s"):
            pass
        with exclusively(tmp_path / "other"):
            pass
    with exclusively(tmp_path / "s"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_after_clearing(tmp_path):
    stages = Stages(tmp_path / "s", {})
    stages.once("a", numbers)
    stages.clear()
    assert not (tmp_path / "s").exists()
