"""``aioice trace``: a trace explained, run again, or as a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .output import FAILURE, SUCCESS, USAGE, coloured, complain, print_json, print_table, shown

if TYPE_CHECKING:
    import argparse

    from .story import Story


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the command line."""
    parser = commands.add_parser(
        "trace",
        help="explain a recorded session",
        description="Explains a session from its trace: findings, timeline, pairs.",
        epilog="Exit codes: 0 done, 1 the agent did something else than what was recorded, 2 not a trace.",
    )
    parser.add_argument("file", help="the trace")
    parser.add_argument("--replay", action="store_true", help="only run it again and compare")
    parser.add_argument("--html", metavar="FILE", help="write the report as one page; refuses to overwrite")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain, replay or write the page; returns the exit code."""
    from ..trace import read
    from .story import Story

    try:
        trace = read(options.file)
    except (OSError, ValueError) as exc:
        complain(f"{options.file}: {getattr(exc, 'strerror', None) or exc}")
        return USAGE
    story = Story(trace)
    if options.html is not None:
        from .report import page

        try:
            # A link that somebody has left there is not followed.
            descriptor = os.open(options.html, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as exc:
            complain(f"{options.html}: {exc.strerror}")
            return USAGE
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(page(story))
    if options.json:
        print_json(_as_json(story, lines=not options.replay))
    elif options.replay:
        told = story.difference or f"the same: {story.inputs} inputs, {story.outputs} outputs"
        print(coloured(shown(told, 2000), "bad" if story.difference else "good"))
    elif options.html is None:
        _explain(story)
    return FAILURE if story.difference else SUCCESS


def _as_json(story: Story, *, lines: bool) -> dict[str, object]:
    result: dict[str, object] = {
        "state": story.state,
        "complete": story.trace.complete,
        "inputs": story.inputs,
        "outputs": story.outputs,
        "difference": story.difference or None,
        "findings": [finding.as_dict() for finding in story.findings],
    }
    if lines:
        result["timeline"] = [{"time": line.time, "kind": line.kind, "text": line.text} for line in story.lines]
        result["drops"] = story.drops
    return result


def _explain(story: Story) -> None:
    print(coloured("Findings", "strong"))
    for finding in story.findings:
        print("  " + coloured(shown(f"{finding.cause} ({finding.code})", 500), "bad"))
        for line in finding.evidence:
            print(f"      {shown(line, 500)}")
        print(f"      to do: {shown(finding.advice, 500)}")
    if not story.findings:
        print("  none" if story.trace.complete else "  none so far: the end of the session is not in the trace")
    print(coloured("\nTimeline", "strong"))
    for told in story.lines:
        print(f"  {told.time:10.1f} ms  {told.kind:<9}  {shown(told.text, 300)}")
    from .story import PAIR_HEADERS

    if story.pair_rows:
        print(coloured("\nPairs", "strong"))
        print_table(PAIR_HEADERS, story.pair_rows)
    if story.drops:
        print(coloured("\nDropped", "strong"))
        print_table(("datagrams", "why"), [(number, why) for why, number in story.drops.items()])
    if story.difference:
        print(coloured(f"\nThe replay ended early: {shown(story.difference, 1000)}", "bad"))
