"""A small Python environment to audit, and the scripts run on it as a step would run them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "examples" / "environment-audit"
SCRIPTS = EXAMPLE / "scripts"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a script left: its exit status, its error stream and its output files."""

    code: int
    stderr: str
    files: Mapping[str, str]

    def document(self, name: str) -> Document:
        assert self.code == 0, self.stderr
        document: Document = json.loads(self.files[name])
        return document

    @property
    def outputs(self) -> Document:
        return self.document("outputs.json")


def run_script(
    python: Path | str, folder: Path, script: str, *args: str, given: Mapping[str, object] | None = None
) -> Ran:
    """Run a script with ``given`` documents in its working folder."""
    work, out = Path(mkdtemp(dir=folder)), Path(mkdtemp(dir=folder))
    for name, document in (given or {}).items():
        (work / name).write_text(json.dumps(document), encoding="utf-8")
    done = subprocess.run(
        [str(python), "-EsSB", str(SCRIPTS / script), *args],
        cwd=work,
        env={"ORCH_OUTPUT_DIR": str(out)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    files = {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()}
    return Ran(code=done.returncode, stderr=done.stderr, files=files)


def recorded(content: bytes, algorithm: str = "sha256") -> str:
    """Write a hash as RECORD does."""
    raw = hashlib.new(algorithm, content).digest()
    return f"{algorithm}={urlsafe_b64encode(raw).rstrip(b'=').decode()}"


class AuditedEnvironment:
    """A virtual environment with nothing but what a test installs: as ``venv`` makes it, less its scripts."""

    def __init__(self, folder: Path) -> None:
        self.prefix = (folder / "audited").resolve()
        self.scratch = folder / "steps"
        self.scratch.mkdir()
        self.python = self.prefix / "bin" / "python"
        self.python.parent.mkdir(parents=True)
        interpreter = Path(sys.executable).resolve()
        self.python.symlink_to(interpreter)
        (self.prefix / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n", encoding="utf-8")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = self.prefix / "lib" / version / "site-packages"
        self.site.mkdir(parents=True)

    def install(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        version: str = "1.0",
        headers: Sequence[str] = (),
        rows: Sequence[Sequence[str]] = (),
        extra: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Install as pip would; ``rows`` are further lines of RECORD, ``extra`` files of the dist-info."""
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        metadata = "\n".join(
            ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *headers, "", ""]
        )
        contents = dict(files) | {f"{info}/METADATA": metadata.encode()}
        contents |= {f"{info}/{path}": content for path, content in (extra or {}).items()}
        lines = io.StringIO()
        record = csv.writer(lines, lineterminator="\n")
        for path, content in contents.items():
            target = self.site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            record.writerow([path, recorded(content), len(content)])
        record.writerows([*rows, [f"{info}/RECORD", "", ""]])
        (self.site / info / "RECORD").write_text(lines.getvalue(), encoding="utf-8")
        return self.site / info

    def run(self, script: str, *args: str, given: Mapping[str, object] | None = None) -> Ran:
        return run_script(self.python, self.scratch, script, *args, given=given)

    def inventory(self) -> Document:
        return self.run("inventory.py").document("inventory.json")

    def records(self) -> Document:
        return self.run("inventory.py").document("records.json")

    def compare(self) -> Document:
        """Compare everything, as one shard."""
        return self.run("compare.py", given={"shard.json": self.records()}).document("checked.json")
