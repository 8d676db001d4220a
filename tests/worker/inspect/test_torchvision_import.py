import subprocess
import sys


def test_densenet_can_be_imported_beside_any_build_of_torch():
    """In a process of its own: here torchvision may have been imported already."""
    code = "from worker.inspect.torchvision_import import densenet121; densenet121(weights=None)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_torch_and_its_compiled_part_are_imported_through_the_one_door():
    """`import torchvision` anywhere else works only where the door was opened before."""
    from pathlib import Path

    root = Path(__file__).parents[3]
    importers = {
        path.relative_to(root).as_posix()
        for folder in ("api", "deploy", "shared", "worker")
        for path in (root / folder).rglob("*.py")
        if any(
            line.startswith(("import torchvision", "from torchvision"))
            for line in path.read_text().splitlines()
        )
    }
    assert importers == {"worker/inspect/torchvision_import.py"}
