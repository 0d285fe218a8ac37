"""From a run on a whole stack to an export that verifies without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.exported import SCRIPT
from tests.support.rest import shell
from tests.support.site import Site
from tests.support.stack import orch

OUTPUTS = '{"ratio": 1e-7, "large": 1e21, "text": "na\\\\u00efve \\\\u2028"}'


def test_what_a_stack_recorded_verifies_offline_with_both_programs(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        failing = shell("failing", "exit 1", retry={"maxAttempts": 2, "initialDelayMs": 1})
        said = shell("said", f"echo '{OUTPUTS}' >\"$ORCH_OUTPUT_DIR/outputs.json\"")
        after = {"id": "after", "uses": "noop", "when": "steps.said.outputs.ratio < 1.0"}
        never = {"id": "never", "uses": "noop", "when": "inputs.more"}
        rest.publish("good", [said, after, never], "said>after", "said>never")
        rest.publish("bad", [failing, {"id": "lost", "uses": "noop"}], "failing>lost")
        ids = [rest.start("good", inputs={"more": False, "odd": [0.1, "\U0001f600"]}), rest.start("bad")]
        statuses = [rest.ended(run_id)["status"] for run_id in ids]
        assert statuses == ["completed", "failed"]
        first, second = (rest.send("GET", "/runs:export").content for _ in range(2))
    assert first == second
    runs = [json.loads(line) for line in first.splitlines()[:-1]]
    assert [run["runId"] for run in runs] == ids
    assert runs[0]["steps"][0]["outputs"]["text"] == "naïve \u2028"
    file = tmp_path / "export.ndjson"
    for program in (orch("ledger", "verify"), [sys.executable, "-I", "-S", str(SCRIPT)]):
        file.write_bytes(first)
        assert subprocess.run([*program, str(file)], check=False).returncode == 0
        file.write_bytes(first.replace(b'"ratio":1e-07', b'"ratio":1e-08'))
        done = subprocess.run([*program, str(file)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.startswith("line 1: ")) == (1, True)
