"""The chaos campaign in short: real processes, five kinds of faults, nothing lost or doubled."""

import json
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parents[1] / "campaigns" / "chaos.py"
FAULTS = (
    "kill both workers",
    "kill deliverer",
    "flush redis",
    "restart postgresql at once",
    "storage away",
)


def test_whatever_breaks_every_accepted_photo_is_judged_once():
    done = subprocess.run(
        [
            *(sys.executable, str(CAMPAIGN), "--photos", "120", "--rate", "8"),
            # How fast it recovers is for the campaign to say: a test never fails for slowness.
            *("--faults", str(len(FAULTS)), "--grace", "120", "--only", *FAULTS),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["accepted"] == 120
    assert found["end"] == {"succeeded": 120}
    assert set(found["faults"]) == set(FAULTS)
