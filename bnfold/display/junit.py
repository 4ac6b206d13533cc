"""JUnit XML, which every pipeline can show: one test case for each thing that was checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import BnfoldError, CheckFailed, printable

MESSAGE_LENGTH = 200  # characters of a message, which a pipeline shows in a line; the element has all words
WORDS_LENGTH = 20_000  # characters of a result, which may be a reason for each of many nodes
PASSED, FAILED, UNDECIDED, SKIPPED = "passed", "failure", "error", "skipped"  # the elements of the format
COUNTED = {"failures": FAILED, "errors": UNDECIDED, "skipped": SKIPPED}


@dataclass(frozen=True)
class JUnitCase:
    """One thing that was checked; `words` are its result."""

    name: str
    outcome: str
    words: str = ""


def broken_off(name: str, problem: BnfoldError) -> JUnitCase:
    """The case of a check that ended with an error."""
    return JUnitCase(
        name, FAILED if isinstance(problem, CheckFailed) else UNDECIDED, f"{problem}; hint: {problem.hint}"
    )


def to_xml(suite: str, checks: Iterable[JUnitCase], seconds: float) -> str:
    """A JUnit report of one suite, whose names and words are made printable, so that it is XML whatever they are."""
    from xml.etree import ElementTree

    cases = list(checks)
    root = ElementTree.Element("testsuites")
    counts = {name: str(sum(case.outcome == kind for case in cases)) for name, kind in COUNTED.items()}
    group = ElementTree.SubElement(
        root, "testsuite", {"name": suite, "tests": str(len(cases)), "time": f"{seconds:.3f}", **counts}
    )
    for case in cases:
        entry = ElementTree.SubElement(group, "testcase", classname=suite, name=printable(case.name))
        words = printable(case.words, WORDS_LENGTH)
        if case.outcome != PASSED:
            ElementTree.SubElement(entry, case.outcome, message=printable(case.words, MESSAGE_LENGTH)).text = words
        elif words:
            ElementTree.SubElement(entry, "system-out").text = words
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
