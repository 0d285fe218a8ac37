"""Each way in which a file can differ from what its package recorded, and who says so."""

from __future__ import annotations

import os

import pytest

from tests.unit.examples.audited import AuditedEnvironment, recorded


def messages(audited: AuditedEnvironment) -> dict[str, str]:
    return {finding["path"]: finding["message"] for finding in audited.compare()["findings"]}


def test_untouched_packages_match(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant/__init__.py": b"", "ant/core.py": b"x = 1\n"})
    checked = audited.compare()
    assert checked == {"packages": ["ant 1.0"], "matching": 3, "unhashed": 1, "findings": []}


def test_a_changed_file_is_found_with_both_hashes(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x = 1\n", "bee.py": b""})
    (audited.site / "ant.py").write_bytes(b"x = 2\n")
    (finding,) = audited.compare()["findings"]
    assert (finding["package"], finding["version"], finding["path"]) == ("ant", "1.0", "ant.py")
    was, now = (recorded(content).partition("=")[2] for content in (b"x = 1\n", b"x = 2\n"))
    assert finding["message"] == f"was changed: sha256 is {now}, RECORD says {was}"


def test_a_missing_file_is_found(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x"})
    (audited.site / "ant.py").unlink()
    assert messages(audited) == {"ant.py": "is missing"}


def test_entries_without_hash_are_counted_and_not_judged(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x"}, rows=[["__pycache__/ant.cpython-311.pyc", "", ""]])
    checked = audited.compare()
    assert (checked["matching"], checked["unhashed"], checked["findings"]) == (2, 2, [])


def test_a_script_outside_the_packages_is_part_of_the_environment(audited: AuditedEnvironment) -> None:
    (audited.prefix / "bin" / "ant").write_bytes(b"#!run")
    audited.install("ant", {}, rows=[["../../../bin/ant", recorded(b"#!run"), "5"]])
    assert messages(audited) == {}
    (audited.prefix / "bin" / "ant").write_bytes(b"#!rob")
    assert list(messages(audited)) == ["../../../bin/ant"]


@pytest.mark.parametrize("path", ["../../../../secret", "ant/../../../../../secret", "{outside}/secret"])
def test_a_path_that_leads_out_of_the_environment_is_not_read(audited: AuditedEnvironment, path: str) -> None:
    outside = audited.prefix.parent
    (outside / "secret").write_bytes(b"x")
    path = path.format(outside=outside)
    audited.install("ant", {}, rows=[[path, recorded(b"x"), "1"]])
    assert messages(audited) == {path: "leads out of the environment; it was not read"}


def test_a_neighbour_whose_name_begins_alike_is_outside(audited: AuditedEnvironment) -> None:
    neighbour = audited.prefix.with_name(audited.prefix.name + "-2")
    neighbour.write_bytes(b"x")
    audited.install("ant", {}, rows=[[str(neighbour), recorded(b"x"), "1"]])
    assert messages(audited) == {str(neighbour): "leads out of the environment; it was not read"}


@pytest.mark.parametrize("algorithm", ["md5", "sha1"])
def test_a_weak_hash_is_a_finding_even_where_it_matches(audited: AuditedEnvironment, algorithm: str) -> None:
    (audited.site / "bee.py").write_bytes(b"x")
    audited.install("ant", {}, rows=[["bee.py", recorded(b"x", algorithm), "1"]])
    assert messages(audited) == {"bee.py": f"RECORD has a hash that cannot be trusted ({algorithm})"}


def test_a_stronger_hash_is_understood(audited: AuditedEnvironment) -> None:
    (audited.site / "bee.py").write_bytes(b"x")
    audited.install("ant", {}, rows=[["bee.py", recorded(b"x", "sha512"), "1"]])
    assert messages(audited) == {}


def test_a_pipe_in_place_of_a_file_is_found_and_not_waited_for(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x"})
    (audited.site / "ant.py").unlink()
    os.mkfifo(audited.site / "ant.py")
    assert messages(audited) == {"ant.py": "is not a regular file"}


def test_a_broken_record_is_a_finding_and_a_missing_one_is_not(audited: AuditedEnvironment) -> None:
    (audited.install("ant", {}) / "RECORD").write_text("nonsense\n", encoding="utf-8")
    (audited.install("bee", {}) / "RECORD").unlink()
    assert messages(audited) == {"RECORD": "RECORD cannot be read: line 1 is not path, hash and size"}


def test_the_summary_names_the_first_files_and_counts_the_others(audited: AuditedEnvironment) -> None:
    audited.install("ant", {f"ant{n}.py": b"x" for n in range(7)})
    for n in range(7):
        (audited.site / f"ant{n}.py").unlink()
    outputs = audited.run("compare.py", given={"shard.json": audited.records()}).outputs
    assert outputs["findings"] == 7
    assert outputs["summary"].startswith("ant0.py of ant is missing; ant1.py of ant is missing; ")
    assert outputs["summary"].endswith("; and 2 more")


def test_verify_fails_and_names_the_changed_file(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant/core.py": b"x"})
    (audited.site / "ant/core.py").write_bytes(b"y")
    ran = audited.run("verify.py", given={"checked.json": audited.compare()})
    assert ran.code == 1
    assert ran.files == {}
    first, last = ran.stderr.splitlines()
    assert first == "1 of the recorded files is not as recorded:"
    assert last.startswith("ant/core.py of ant 1.0 was changed: sha256 is ")


def test_verify_keeps_a_long_list_short(audited: AuditedEnvironment) -> None:
    audited.install("ant", {f"ant{n}.py": b"x" for n in range(9)})
    for n in range(9):
        (audited.site / f"ant{n}.py").unlink()
    lines = audited.run("verify.py", given={"checked.json": audited.compare()}).stderr.splitlines()
    assert len(lines) == 5
    assert lines[0] == "9 of the recorded files are not as recorded:"
    assert lines[-1] == "and 6 more, all in the report"


def test_verify_succeeds_where_nothing_was_found(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x"})
    assert audited.run("verify.py", given={"checked.json": audited.compare()}).outputs == {"verified": 2}
