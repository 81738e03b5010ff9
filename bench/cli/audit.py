"""`bench audit`: asking people, blind, and combining their votes with the scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bench.cli import output
from bench.cli.frame import RUNS, STORE, AsJson, StoreFolder
from bench.cli.show import ROOTS
from bench.lib.errors import BenchError

if TYPE_CHECKING:
    from rich.table import Table

    from bench.audit.findings import Findings
    from bench.lib.progress import Progress
    from bench.statistics.prediction_powered import HumanRate

audit_app = typer.Typer(no_args_is_help=True, help="Ask people, blind, which images they prefer.")

AUDITS = RUNS / "audits"
_FEW = 30
"""Prompts of a pair below which its rate says little."""
Run = Annotated[
    str, typer.Argument(metavar="RUN|BOARD", help="A run's or board's folder, or its name.")
]


@audit_app.command("export")
def export(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the page (default: bench-runs/audits/<run>); new or empty."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods, `base` among them or not; all by default."),
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Questions for each person.")] = 100,
    seed: Annotated[int, typer.Option(help="Of prompts, sides and order.")] = 0,
    by: Annotated[
        Literal["disagreement", "chance"],
        typer.Option(help="Show more prompts where scorers disagree, or all alike."),
    ] = "disagreement",
    image_seeds: Annotated[
        str | None, typer.Option(help="Comma-separated image seeds; all by default.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What is asked.")] = None,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="One file with the pictures in it.")
    ] = False,
    protocol: Annotated[
        str, typer.Option(help="Start of a protocol's digest, where RUN has several.")
    ] = "",
    store: StoreFolder = STORE,
) -> None:
    """Write a page that asks which of two images is better, without saying whose they are.

    It needs no network and no server. What says which method drew which image, the key, lies
    beside the page's folder: send the folder, keep the key.
    """
    from bench.audit import compared, exporting
    from bench.leaderboard import run_folder
    from bench.leaderboard.results import safe_name
    from bench.lib.progress import Progress
    from bench.registry.spec_language import split_list

    if question is not None and not question.strip():
        raise BenchError("--question: is blank; say what people are to judge, or leave it out")
    folder = _folder(run)
    out = out or AUDITS / (safe_name(folder.resolve().name) or "audit")
    exporting.check_free(out)
    run_folder.outside(out, store)
    found = compared.load(folder, split_list(methods or ""), protocol)
    audit = exporting.prepare(
        found,
        exporting.images_in(store, found),
        count=sample,
        seed=seed,
        image_seeds=_whole_numbers(image_seeds, "--image-seeds"),
        by_disagreement=by == "disagreement",
        question=(question or exporting.QUESTION).strip(),
        single_file=single_file,
    )
    key = exporting.write(audit, out)
    progress = Progress(output.console())
    for pair in audit.key.pairs:
        first, second = (found.methods[i].shown for i in (pair.first, pair.second))
        drawn = ", ".join(f"{s.sampled} of {s.prompts:,} {s.name}" for s in pair.strata)
        progress.say(f"{first} against {second}: {sum(s.sampled for s in pair.strata)} ({drawn})")
    fewest = min(sum(s.sampled for s in pair.strata) for pair in audit.key.pairs)
    if fewest < _FEW:
        progress.say(
            f"A pair with {fewest} questions says little; ask more (--sample {_FEW} for each pair "
            f"makes {_FEW * len(audit.key.pairs)}), or compare fewer --methods."
        )
    progress.say(f"Page: {out / 'index.html'} ({len(audit.key.items)} questions). Send {out}.")
    progress.say(f"Key: {key}. Keep it: votes mean nothing without it, and blind nobody with it.")


@audit_app.command("import")
def import_votes(
    context: typer.Context,
    run: Run,
    votes: Annotated[list[Path], typer.Argument(help="The files that people saved.")],
    key: Annotated[Path, typer.Option(help="Of the audit, <page's folder>-key.json.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Findings as JSON (default: audits/<audit>.json in the run's folder)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how far people agree, and which methods they prefer, by votes and scores together."""
    from bench.audit import compared
    from bench.audit.findings import find, findings_text
    from bench.audit.records import load_key
    from bench.audit.votes import load_votes
    from bench.lib import own_files
    from bench.lib.progress import Progress
    from bench.lib.stdout_guard import reserve_stdout

    stdout = reserve_stdout(context, as_json)
    if out is not None:
        own_files.apart(out, [path for path in (key, *votes) if path.exists()])
    loaded = load_key(key)
    answers = load_votes(votes, loaded)
    folder = _folder(run)
    findings = find(loaded, compared.of_key(folder, loaded), answers)
    place = _write(folder, out, findings)
    if stdout:
        stdout.emit(findings_text(findings).rstrip())
        return
    progress = Progress(output.console())
    _show(progress, findings)
    if place:
        progress.say(f"Findings: {place}")


def _folder(run: str) -> Path:
    """The folder that a path, or a name below the usual places, means."""
    from bench.leaderboard.opening import find_folder, open_folder

    return find_folder(run, ROOTS) or open_folder(run, ROOTS).folder


def _whole_numbers(text: str | None, flag: str) -> list[int]:
    from bench.registry.spec_language import split_list

    try:
        return [int(word) for word in split_list(text or "")]
    except ValueError as error:
        raise BenchError(f"{flag} {text}: expected whole numbers, such as 0,1") from error


def _write(run: Path, out: Path | None, findings: Findings) -> Path | None:
    """Where the findings lie; nowhere if the folder is no run's and nobody says where."""
    from bench.audit.findings import findings_text
    from bench.leaderboard.results import write_text
    from bench.leaderboard.run_folder import MARK, RunFolder

    text = findings_text(findings)
    if out is not None:
        try:
            return write_text(out, text)
        except OSError as error:
            raise BenchError(f"--out {out}: cannot be written ({error.strerror})") from error
    if not (run / MARK).is_file():
        return None
    name = f"audits/{findings.audit}.json"
    with RunFolder(run).held() as folder:
        folder.replace({name: text.encode()})
    return run / name


def _show(progress: Progress, findings: Findings) -> None:
    """The findings for people."""
    from rich.markup import escape

    people = "person" if len(findings.raters) == 1 else "people"
    progress.say(
        f"Audit {findings.audit}: {findings.votes:,} votes of {len(findings.raters)} {people} on "
        f"{findings.voted_items:,} of {findings.items:,} questions"
    )
    table = _table("rater", "votes", "left", "ties", "median seconds")
    for rater in findings.raters:
        decided = rater.votes - rater.ties
        left = f"{rater.left / decided:.0%}" if decided else "-"
        cells = (f"{rater.votes:,}", left, f"{rater.ties / rater.votes:.0%}")
        table.add_row(escape(rater.rater), *cells, f"{rater.median_seconds:.1f}")
    progress.console.print(table)
    if findings.alpha is None or findings.alpha_nominal is None:
        progress.say("People among themselves: no question has two differing votes to learn from.")
    else:
        progress.say(
            f"People among themselves: Krippendorff's alpha {findings.alpha:.2f} "
            f"(nominal {findings.alpha_nominal:.2f}; 1 is perfect, 0 is chance)"
        )
    if len(findings.raters) == 1:
        progress.say("One person voted: what follows is that person's preference, not people's.")
    seeds = ", ".join(str(seed) for seed in findings.train_seeds)
    progress.say(
        f"Of the weights at hand (train seeds {seeds}), over prompts and noise; how much another "
        f"training would differ is not in these intervals."
    )
    table = _table("scorer", "agrees with people", "95%", "votes", "prompts")
    for scorer in findings.scorers:
        name = escape(scorer.scorer) + ("*" if scorer.in_loop else "")
        if (found := scorer.agreement) is None:
            table.add_row(name, "-", "", "0", "0")
            continue
        ends = f"{found.low:.0%} to {found.high:.0%}"
        table.add_row(name, f"{found.share:.0%}", ends, f"{found.decided:,}", f"{found.prompts:,}")
    progress.console.print(table)
    table = _table(
        "preferred by people", "votes", "alone", "with scorers", "lambda", "scorers", "p"
    )
    for pair in findings.pairs:
        table.add_row(
            f"{escape(pair.first)} over {escape(pair.second)}",
            f"{pair.votes:,}",
            _rate(pair.human),
            _rate(pair.powered),
            f"{pair.powered.power:.2f}" if pair.powered else "-",
            f"{100 * pair.scorers_rate:.1f}",
            "-" if pair.adjusted_p is None else f"{pair.adjusted_p:.3f}",
        )
    progress.console.print(table)
    if findings.ranks:
        sets = ", ".join(f"{name} {_span(ranks)}" for name, ranks in findings.ranks)
        progress.say(f"Ranks by people, with scorers, all true at once with 95%: {sets}")
        progress.say("p is of the rates with scorers, adjusted for all pairs (Bonferroni).")
    else:
        progress.say("Ranks: none, since not every pair of methods has votes on two prompts.")
    if any(scorer.in_loop for scorer in findings.scorers):
        progress.say("* a compared method was trained on its rewards")


def _rate(found: HumanRate | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found.win_rate:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _span(ranks: tuple[int, int]) -> str:
    best, worst = ranks
    return f"{best}" if best == worst else f"{best} to {worst}"


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table
