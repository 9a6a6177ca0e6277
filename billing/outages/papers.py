"""The report as files: CSV for a spreadsheet, PDF for a person, and the claim against the upstream with its evidence.

Whatever people typed goes into a PDF as data that the page shows, never as part of the page's program, and into a CSV
so that no spreadsheet takes it for a formula.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import typst

from billing.errors import Conflict
from billing.money import Money, plain
from billing.outages.journal import Posting
from billing.outages.queries import FATES
from billing.outages.report import Document
from billing.windows import in_words, iso, lasting, parse_time

PAGES: Final = Path(__file__).parent / "templates" / "papers"
LARGEST_ATTACHMENT: Final = 8 << 20
"""Bytes of CSV that a PDF carries with it; a longer one is to be asked for by itself."""
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
DOCUMENT_COLUMNS: Final = (
    "agency", "customer", "customer_name", "invoice", "credit_note", "refunds", "balance_entry", "currency", "amount",
    "refund", "credit", "reduce", "out_of_band", "tax", "state", "on", "returned", "by_hand", "paid_on",
)  # fmt: skip
POSTING_COLUMNS: Final = (
    "entry", "on", "agency", "document", "account", "debit", "credit", "currency", "memo",
)  # fmt: skip

NOT_YET: Final = {
    "on its way": "on_its_way", "waiting": "waiting", "for a person": "for_a_person",
    "given elsewhere": "given_elsewhere", "rounded away": "rounded_away", "left out": "left_out",
}  # fmt: skip
"""Columns of what has not gone back by us, and their names in the report."""

_TRIED: Final[tuple[tuple[bool, Literal["a-3a", "1.7"]], ...]] = ((True, "a-3a"), (False, "a-3a"), (False, "1.7"))
"""Our own fonts first, which write the same everywhere: Latin, Greek and Cyrillic. Whatever else people typed needs the
fonts of this machine. PDF/A takes no sign that none of them has: then it is a PDF with a box for each of those."""

Table = Sequence[Sequence[str]]


def documents_csv(documents: Iterable[Document]) -> Iterator[str]:
    """One row per grant, in RFC 4180 lines. Amounts in the currency's smallest unit, times in UTC.

    What came back whole and went on to another grant is a row of its own, in the state `failed`.
    """
    return _rows(DOCUMENT_COLUMNS, documents)


def journal_csv(postings: Iterable[Posting]) -> Iterator[str]:
    """One row per posting, in RFC 4180 lines: the debits of an entry add up to its credits."""
    return _rows(POSTING_COLUMNS, postings)


def report_pdf(report: Mapping[str, Any], evidence: str) -> bytes:
    """The report for a person: PDF/A-3 where there are fonts for all of it, tagged; `evidence` is the CSV that is
    attached to it."""
    return _printed("report.typ", _told(report, f"What the outage cost: {report['title']}"), evidence, report)


def claim_pdf(report: Mapping[str, Any], evidence: str, claimant: str) -> bytes:
    """The letter that claims this from the upstream under its service level agreement, with the evidence attached.

    Raises `Conflict` for an incident that was retracted: there is nothing to claim.
    """
    if report["retracted_at"]:
        raise Conflict("This incident is retracted: it was no outage, so nothing can be claimed for it.")
    told = _told(report, f"Claim for the outage of {report['platform']}")
    return _printed("claim.typ", told | {"claimant": claimant, "platform": report["platform"]}, evidence, report)


def in_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for a terminal."""
    told = _told(report, report["title"])
    lines = [told["title"], f"  {told['when']}", f"  {told['who']}", ""]
    for heading, table in told["tables"]:
        widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
        lines.append(heading)
        lines += [
            "  " + "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in cells)
            for cells in (enumerate(zip(row, widths, strict=True)) for row in table)
        ]
        lines.append("")
    return [*lines, told["promise"]]


def _rows(columns: Sequence[str], things: Iterable[Any]) -> Iterator[str]:
    yield _line(columns)
    for thing in things:
        yield _line([_cell(getattr(thing, column)) for column in columns])


def _line(cells: Iterable[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _printed(page: str, told: Mapping[str, Any], evidence: str, report: Mapping[str, Any]) -> bytes:
    attached = evidence if len(evidence.encode()) <= LARGEST_ATTACHMENT else ""
    data = json.dumps({**told, "csv": attached, "csv_name": f"{report['incident']}.csv"})
    for only_ours, standards in _TRIED:
        try:
            made = typst.compile(
                (PAGES / page).read_bytes(),
                format="pdf",
                sys_inputs={"data": data},
                ignore_system_fonts=only_ours,
                pdf_standards=standards,
                timestamp=int(parse_time(report["as_of"]).timestamp()),
            )
        except typst.TypstError as error:
            if "could not be displayed" not in str(error):
                raise
            continue
        assert isinstance(made, bytes)
        return made
    raise AssertionError("without a standard every text has a page")


def _told(report: Mapping[str, Any], title: str) -> dict[str, Any]:
    affected = report["affected"]
    return {
        "title": title,
        "incident": report["incident"],
        "when": _when(report),
        "who": (
            f"{_count(affected['customers'], 'customer')} of {_count(affected['agencies'], 'agency', 'agencies')}"
            f" affected; billing was paused for {_count(affected['subscriptions_paused'], 'subscription')}."
        ),
        "tables": [(heading, table) for heading, table in _tables(report) if len(table) > 1],
        "promise": "The promise was withdrawn with it." if report["retracted_at"] else _promise(report["promise"]),
        "updates": [[_moment(update["at"]), update["body"]] for update in report["updates"]],
        "runs": [
            [run["agency"], f"{run['no']} ({run['purpose']})", run["state"], run["approved_by"] or "nobody needed to",
             run["fingerprint"][:24]]
            for run in report["runs"]
        ],
        "evidence": [
            [entry["agency"], str(entry["seq"]), _moment(entry["at"]), entry["actor"], entry["action"],
             entry["hash"][:24]]
            for entry in report["evidence"]
        ],
    }  # fmt: skip


def _tables(report: Mapping[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    money = report["money"]
    yield "Given back", _by_currency(
        money,
        {
            "to the card or account": "refunded", "to the balance": "credited", "off what was due": "reduced",
            "by hand": "paid_by_hand", "together": "given", "of what is owed": "owed",
        },
        ("grants",),
    )  # fmt: skip
    yield "Not given back yet", _by_currency(
        [one for one in money if any(one[name] for name in NOT_YET.values())],
        NOT_YET,
    )  # fmt: skip
    reasons = [
        (one["reason"].replace("_", " "), one["currency"].upper(), f"{one['count']:,}") for one in report["left_out"]
    ]
    amounts = [_amount(one["amount"], one["currency"]) for one in report["left_out"]]
    yield (
        "Left out, and why",
        [
            ["reason", "currency", "invoices", "amount"],
            *([*reason, amount] for reason, amount in zip(reasons, amounts, strict=True)),
        ],
    )
    yield (
        "Because of this outage alone",
        _by_currency(_alone(report["because_of_it"]), {"because of it": "granted", "goodwill": "goodwill"}),
    )
    yield "What customers waived", _by_currency(report["waived"], {"waived": "amount"}, ("customers", "invoices"))
    yield (
        "Renewals that were held",
        _by_currency(
            report["held"],
            {
                "asked for": "asked_for",
                "not collected": "not_collected",
                "brought in": "brought_in",
                "still open": "open",
            },
            ("renewals",),
        ),
    )
    yield (
        "What became of the subscriptions",
        [
            ["subscriptions", "count"],
            *([FATES[one["kind"], one["state"]], f"{one['count']:,}"] for one in report["retired"]),
        ],
    )
    yield (
        "Fees that Stripe keeps",
        _by_currency(report["fees"], {"not returned": "not_returned"}, ("payments", "not_known_yet")),
    )
    damages: dict[str, dict[str, Any]] = {}
    for entry in report["damages"]:
        one = damages.setdefault(entry["currency"], {"currency": entry["currency"], "reports": 0, "reported": 0})
        one["reports"] += 1
        one["reported"] += entry["amount"]
    yield (
        "What customers say they lost besides",
        _by_currency([damages[currency] for currency in sorted(damages)], {"reported": "reported"}, ("reports",)),
    )


def _alone(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What is because of this outage alone, and the goodwill: one row per currency."""
    rows: dict[str, dict[str, Any]] = {}
    for name, totals in found.items():
        for one in totals:
            row = rows.setdefault(one["currency"], {"currency": one["currency"], "granted": 0, "goodwill": 0})
            row[name] = one["amount"]
    return [rows[currency] for currency in sorted(rows)]


def _by_currency(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], counts: Sequence[str] = ()
) -> list[list[str]]:
    return [
        ["", *(name.replace("_", " ") for name in counts), *columns],
        *(
            [
                row["currency"].upper(),
                *(f"{row[name]:,}" for name in counts),
                *(_amount(row[name], row["currency"]) for name in columns.values()),
            ]
            for row in rows
        ),
    ]


def _amount(amount: int, currency: str) -> str:
    return plain(Money(amount, currency)).removesuffix(f" {currency.upper()}")


def _when(report: Mapping[str, Any]) -> str:
    share = "" if report["impact"] == 10_000 else f", {report['impact'] / 100:g} % of it"
    ended, retracted = report["ended_at"], report["retracted_at"]
    still = "for good" if report["state"] == "retired" else "to now, still going on"
    until = f"to {in_words(parse_time(ended or retracted))}" if ended or retracted else still
    withdrawn = f" It was withdrawn on {in_words(parse_time(retracted))}." if retracted else ""
    began = in_words(parse_time(report["started_at"]))
    return f"{report['platform']}{share} from {began} {until}: {lasting(report['outage_seconds'])}.{withdrawn}"


def _promise(promise: Mapping[str, Any]) -> str:
    by = in_words(parse_time(promise["by"]))
    if promise["kept"]:
        rest = f", but for {_count(promise['excepted'], 'invoice')} left out" if promise["excepted"] else ""
        return f"All money was to be back by {by}, and was{rest}."
    open_still = []
    if promise["open_grants"]:
        open_still.append(f"{_count(promise['open_grants'], 'grant')} still open")
    if promise["undecided"]:
        open_still.append(f"{_count(promise['undecided'], 'invoice')} not decided")
    if not open_still and promise["last_document"]:
        open_still.append(f"the last of it was on {in_words(parse_time(promise['last_document']))}")
    rest = ", ".join(open_still)
    if promise["kept"] is None:
        return f"All money is to be back by {by}{f': {rest}' if rest else ''}."
    return f"All money was to be back by {by}, and was not{f': {rest}' if rest else ''}."


def _moment(text: str) -> str:
    return text.replace("T", " ").removesuffix("Z")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
