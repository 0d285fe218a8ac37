"""What is found in an environment, sound and broken."""

from __future__ import annotations

import json
import sys

import pytest

from tests.unit.examples.audited import AuditedEnvironment


def test_an_empty_environment_has_no_packages(audited: AuditedEnvironment) -> None:
    outputs = audited.run("inventory.py").outputs
    assert outputs == {
        "prefix": str(audited.prefix),
        "python": sys.version.split()[0],
        "packages": 0,
        "recordedFiles": 0,
        "bytes": 0,
    }


def test_packages_are_listed_by_name_with_their_files(audited: AuditedEnvironment) -> None:
    audited.install("zebra", {"zebra.py": b"1234"})
    audited.install("Ant", {"ant/__init__.py": b"", "ant/data, or so.txt": b"12"}, version="2.1")
    packages = audited.inventory()["packages"]
    assert [(package["name"], package["version"]) for package in packages] == [
        ("Ant", "2.1"),
        ("zebra", "1.0"),
    ]
    assert [package["fileCount"] for package in packages] == [4, 3]
    ant = audited.records()["packages"][0]
    assert [file["path"] for file in ant["files"]][:2] == ["ant/__init__.py", "ant/data, or so.txt"]
    assert ant["files"][1]["size"] == 2


def test_metadata_is_read(audited: AuditedEnvironment) -> None:
    headers = ["License-Expression: MIT", "Classifier: A :: B", "Requires-Dist: x", "Requires-Dist: y>1"]
    audited.install("ant", {}, headers=headers)
    (package,) = audited.inventory()["packages"]
    assert package["licenceExpression"] == "MIT"
    assert package["classifiers"] == ["A :: B"]
    assert package["requires"] == ["x", "y>1"]


@pytest.mark.parametrize(
    ("direct", "editable"),
    [
        (b'{"url": "file:///src/ant", "dir_info": {"editable": true}}', "file:///src/ant"),
        (b'{"url": "file:///src/ant", "dir_info": {}}', ""),
        (b"[not json", "an unknown place (direct_url.json cannot be read)"),
    ],
)
def test_an_editable_install_is_told_with_its_place(
    audited: AuditedEnvironment, direct: bytes, editable: str
) -> None:
    audited.install("ant", {"__editable__.ant-1.0.pth": b"/src/ant\n"}, extra={"direct_url.json": direct})
    (package,) = audited.inventory()["packages"]
    assert package["editable"] == editable


@pytest.mark.parametrize(
    "record",
    [
        b"ant.py,sha256=x\n",
        b"ant.py,sha256=x,many\n",
        b",,\n",
        b"\xff\xfe,,\n",
        b'"a\nb.py",,\n',
        b'"ant.py\0",,\n',
    ],
)
def test_a_broken_record_is_told_and_stops_nothing(audited: AuditedEnvironment, record: bytes) -> None:
    info = audited.install("ant", {"ant.py": b""})
    (info / "RECORD").write_bytes(record)
    audited.install("bee", {"bee.py": b""})
    ant, bee = audited.records()["packages"]
    assert ant["problem"].startswith("RECORD cannot be read: ")
    assert ant["files"] == []
    assert bee["problem"] == ""


def test_a_package_without_record_is_listed_as_not_recorded(audited: AuditedEnvironment) -> None:
    (audited.install("ant", {"ant.py": b""}) / "RECORD").unlink()
    (audited.site / "old-0.9.egg-info").write_text("Name: old\nVersion: 0.9\n", encoding="utf-8")
    packages = audited.inventory()["packages"]
    assert [(package["name"], package["recorded"]) for package in packages] == [
        ("ant", False),
        ("old", False),
    ]


def test_a_package_without_metadata_is_named_after_its_folder(audited: AuditedEnvironment) -> None:
    (audited.site / "ant-3.2.dist-info").mkdir()
    (package,) = audited.inventory()["packages"]
    assert (package["name"], package["version"]) == ("ant", "3.2")


def test_the_leavings_of_an_interrupted_uninstall_are_no_package(audited: AuditedEnvironment) -> None:
    (audited.site / "~nt-1.0.dist-info").mkdir()
    assert audited.inventory()["packages"] == []


def test_start_up_code_of_the_environment_does_not_run(audited: AuditedEnvironment) -> None:
    trace = audited.prefix / "trace"
    hook = f"import pathlib; pathlib.Path({json.dumps(str(trace))}).touch()\n"
    audited.install("ant", {"ant.pth": hook.encode(), "sitecustomize.py": hook.encode()})
    assert audited.run("inventory.py").code == 0
    assert not trace.exists()


def test_an_unchanged_environment_gives_the_same_bytes(audited: AuditedEnvironment) -> None:
    for name in ("ant", "bee", "cat"):
        audited.install(name, {f"{name}.py": b"x"})
    assert audited.run("inventory.py").files == audited.run("inventory.py").files
