"""Program-of-thought answers: the program in a generated text, and the answer in what it prints."""

from __future__ import annotations

import re

from s2l_ray.evaluation.sandbox import run_programs

PROGRAMS = 1  # version of how programs are found and run: part of the fingerprint of their answers

FENCE = re.compile(r"```(?:[Pp]ython)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def program_of(generated: str) -> str:
    """Return the first fenced block of a generated text, or all of it if there is none."""
    found = FENCE.search(generated)
    return (found[1] if found else generated).strip("\n")


def answers_of_programs(generated: list[str]) -> tuple[list[str | None], list[str]]:
    """Run the programs in generated texts, in the sandbox.

    Returns each one's answer, which is the last line that it prints, or None; and why there is
    none, for those without: error, time, memory, output, or nothing (was printed).
    """
    answers: list[str | None] = []
    reasons = []
    for ran in run_programs([program_of(text) for text in generated]):
        lines = [line for line in map(str.strip, ran.output.splitlines()) if line]
        answers.append(lines[-1] if lines and ran.why is None else None)
        if answers[-1] is None:
            reasons.append(ran.why or "nothing")
    return answers, reasons
