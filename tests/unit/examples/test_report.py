"""The steps that say what was found, and the dealing of shards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.unit.examples.audited import AuditedEnvironment, Document, Ran, run_script


def licences(audited: AuditedEnvironment) -> Document:
    return audited.run("licences.py", given={"inventory.json": audited.inventory()}).document("licences.json")


def report(audited: AuditedEnvironment, **shards: Document) -> Ran:
    records = audited.records()
    given = {
        "inventory.json": audited.inventory(),
        "licences.json": licences(audited),
        "strays.json": audited.run("strays.py", given={"records.json": records}).document("strays.json"),
        "shard-0.json": audited.compare(),
    }
    return audited.run("report.py", given={**given, **{f"{name}.json": shards[name] for name in shards}})


@pytest.mark.parametrize(
    ("headers", "licence", "spdx"),
    [
        (["License-Expression: MIT OR Apache-2.0", "License: other"], "MIT OR Apache-2.0", True),
        (["License: mit license"], "MIT", True),
        (["License: Dual", "Classifier: License :: OSI Approved :: MIT License"], "MIT", True),
        (["Classifier: License :: OSI Approved :: BSD License"], "BSD License", False),
        (
            ["Classifier: License :: OSI Approved", "Classifier: License :: A", "Classifier: License :: B"],
            "A; B",
            False,
        ),
        (["License: Permission is granted", "        to all and sundry"], "Permission is granted", False),
        (["License: UNKNOWN"], "unstated", False),
        ([], "unstated", False),
    ],
)
def test_a_licence_is_read_from_where_it_is_stated_most_exactly(
    audited: AuditedEnvironment, headers: list[str], licence: str, spdx: bool
) -> None:
    audited.install("ant", {}, headers=headers)
    (found,) = licences(audited)["packages"]
    assert (found["licence"], found["spdx"]) == (licence, spdx)


def test_strays_are_what_nobody_recorded_but_not_bytecode(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant/core.py": b""})
    (audited.site / "ant" / "__pycache__").mkdir()
    (audited.site / "ant" / "__pycache__" / "core.cpython-311.pyc").touch()
    (audited.site / "evil.pth").touch()
    (audited.site / "ant" / "extra.py").touch()
    (audited.site / "link").symlink_to("/")
    ran = audited.run("strays.py", given={"records.json": audited.records()})
    assert ran.document("strays.json") == {"paths": ["ant/extra.py", "evil.pth", "link"], "compiled": 1}
    assert ran.outputs == {"count": 3, "compiled": 1, "startUpHooks": ["evil.pth"]}


def test_a_stray_with_a_name_that_is_no_text_is_spelled_out(audited: AuditedEnvironment) -> None:
    (audited.site / "odd\udcff.py").touch()
    strays = audited.run("strays.py", given={"records.json": audited.records()}).document("strays.json")
    assert strays["paths"] == ["odd\\xff.py"]


def test_shards_hold_every_package_once_and_are_balanced(audited: AuditedEnvironment) -> None:
    for n, size in enumerate([900_000, 500_000, 400_000, 300_000, 200_000, 100_000]):
        audited.install(f"ant{n}", {f"ant{n}.py": b"x" * size})
    ran = audited.run("plan.py", "3", given={"records.json": audited.records()})
    shards = [ran.document(f"shard-{n}.json")["packages"] for n in range(3)]
    names = [[package["name"] for package in shard] for shard in shards]
    assert sorted(name for shard in names for name in shard) == [f"ant{n}" for n in range(6)]
    assert max(ran.outputs["bytes"]) < 1_000_000


def test_more_shards_than_packages_leaves_some_empty(audited: AuditedEnvironment) -> None:
    audited.install("ant", {})
    ran = audited.run("plan.py", "4", given={"records.json": audited.records()})
    assert sorted(ran.outputs["packages"]) == [0, 0, 0, 1]
    empty = ran.document("shard-3.json")
    assert audited.run("compare.py", given={"shard.json": empty}).outputs["matching"] == 0


def test_the_bill_of_materials_links_what_is_installed(audited: AuditedEnvironment) -> None:
    requires = ["Requires-Dist: Bee.Two>=1", "Requires-Dist: absent", 'Requires-Dist: cat; extra == "all"']
    audited.install("ant", {}, headers=requires)
    audited.install("bee-two", {}, version="1.0+local", headers=["License-Expression: MIT"])
    audited.install("cat", {}, headers=["License: Own words"])
    given = {"inventory.json": audited.inventory(), "licences.json": licences(audited)}
    ran = audited.run("sbom.py", given=given)
    bill = ran.document("sbom.cdx.json")
    ant, bee, cat = bill["components"]
    assert bee["purl"] == "pkg:pypi/bee-two@1.0%2Blocal"
    assert "licenses" not in ant
    assert bee["licenses"] == [{"expression": "MIT"}]
    assert cat["licenses"] == [{"license": {"name": "Own words"}}]
    links = {link["ref"]: link["dependsOn"] for link in bill["dependencies"]}
    assert links[ant["bom-ref"]] == [bee["bom-ref"]]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(ran.files["sbom.cdx.json"]) is None
    assert ran.files == audited.run("sbom.py", given=given).files


def test_the_bill_of_materials_of_this_very_environment_is_valid(tmp_path: Path) -> None:
    inventory = run_script(sys.executable, tmp_path, "inventory.py").document("inventory.json")
    given: dict[str, object] = {"inventory.json": inventory}
    given["licences.json"] = run_script(sys.executable, tmp_path, "licences.py", given=given).document(
        "licences.json"
    )
    ran = run_script(sys.executable, tmp_path, "sbom.py", given=given)
    bill = ran.document("sbom.cdx.json")
    assert "pytest" in {component["name"] for component in bill["components"]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(ran.files["sbom.cdx.json"]) is None


def test_the_report_of_a_sound_environment_says_so(audited: AuditedEnvironment) -> None:
    audited.install("ant", {"ant.py": b"x"}, headers=["License-Expression: MIT"])
    ran = report(audited)
    assert ran.outputs == {
        "verdict": "every file that was recorded with a hash is unchanged",
        "findings": 0,
        "unchecked": [],
    }
    text = ran.files["report.md"]
    assert text.startswith(f"# Audit of {audited.prefix}\n")
    assert "| ant | 1.0 | MIT | 3 |" in text
    assert "| MIT | 1 | ant |" in text


def test_the_report_names_changed_files_and_what_was_not_covered(audited: AuditedEnvironment) -> None:
    direct = json.dumps({"url": "file:///src/ant", "dir_info": {"editable": True}}).encode()
    audited.install("ant", {"ant.py": b"x"}, extra={"direct_url.json": direct})
    (audited.install("bee", {}) / "RECORD").unlink()
    (audited.site / "ant.py").write_bytes(b"y")
    ran = report(audited)
    assert ran.outputs["findings"] == 1
    text = ran.files["report.md"]
    assert "**1 recorded file is not as recorded.**" in text
    assert "| ant 1.0 | ant.py | was changed: sha256 is " in text
    assert "| ant 1.0 | editable: its sources at file:///src/ant are recorded nowhere |" in text
    assert "| bee 1.0 | has no RECORD |" in text


def test_a_shard_that_was_only_planned_is_reported_as_not_checked(audited: AuditedEnvironment) -> None:
    audited.install("ant", {})
    ran = report(audited, **{"shard-0": audited.records()})
    assert ran.outputs["unchecked"] == ["ant 1.0"]
    assert "| ant 1.0 | its shard was not compared |" in ran.files["report.md"]


def test_what_is_audited_cannot_write_the_report(audited: AuditedEnvironment) -> None:
    audited.install("ant", {}, headers=["License: x | y <script> [a](b) `c` \\"])
    assert "| x \\| y &lt;script> \\[a](b) \\`c\\` \\\\ |" in report(audited).files["report.md"]


def test_a_long_table_is_cut_and_says_so(audited: AuditedEnvironment) -> None:
    for n in range(203):
        (audited.site / f"stray{n:03}.py").touch()
    text = report(audited).files["report.md"]
    assert "stray199.py" in text
    assert "stray200.py" not in text
    assert "And 3 more." in text


def test_the_failure_report_has_a_line_for_each_argument(audited: AuditedEnvironment) -> None:
    ran = audited.run("failure_report.py", "shard 0: ant.py\nwas changed", "report: succeeded")
    assert (
        ran.files["failure.md"]
        == "# The audit failed\n\n- shard 0: ant.py was changed\n- report: succeeded\n"
    )
    assert ran.outputs == {"lines": 2}
