"""The printed account of a performance: short, in sentences and small tables, for somebody who has three minutes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sandbox import truth
from sandbox.cases import CASES, Parts
from sandbox.performance import Act, Seen
from sandbox.proofs import Proofs

ZERO_DECIMAL: Final = ("jpy",)
CHANNELS: Final = {
    "refund": "to the card",
    "credit": "to the balance",
    "reduce": "off what is due",
    "out_of_band": "by a person",
}
REASONS: Final = {
    "disputed": "the payment is disputed; nothing is sent while the bank holds it",
    "metered": "usage is billed afterwards, so no time was paid in advance",
    "held_draft": "renewals that were held, settled when the outage is over",
}


def money(amount: int, currency: str) -> str:
    """As people read it: `USD 1,234.56`, `JPY 1,235`."""
    number = f"{amount:,}" if currency in ZERO_DECIMAL else f"{amount // 100:,}.{amount % 100:02}"
    return f"{currency.upper()} {number}"


def tell(console: Console, seen: Seen, proofs: Proofs) -> None:
    """Print what happened."""
    assert seen.first is not None
    assert seen.second is not None
    _declared(console, seen, seen.first)
    _resolved(console, seen, seen.second)
    _by_hand(console, seen)
    _proved(console, proofs)


def _declared(console: Console, seen: Seen, act: Act) -> None:
    _heading(console, "Monday 26 August 2019, 14:00 UTC")
    objects = seen.imported["objects"]
    _say(
        console,
        f"{objects['customers']:,} businesses of {seen.agencies} agencies are billed on one Stripe account: "
        f"{objects['subscriptions']:,} subscriptions, {objects['invoices']:,} invoices. Since Thursday 20:00 Facebook "
        "is out of reach. Finance previews, declares; somebody else approves.",
    )
    pauses = act.shown["pauses"]
    _say(console, f"[b]Paused:[/b] {pauses['held']:,} subscriptions. {_kept(seen)}")
    _say(console, "[b]Given back[/b] for the 90 hours so far, each the way it had been paid:")
    _channels(console, act)
    _say(console, f"[b]Left out:[/b] {_left_out(seen.preview['left_out'])}")
    _say(
        console,
        f"[b]Four eyes:[/b] when finance tried to approve its own plan, the answer was: [i]{seen.own_approval}[/i]",
    )
    if seen.explained:
        _say(console, "[b]One customer's arithmetic[/b], as support and the customer read it:")
        console.print(Padding(Text("\n".join(seen.explained["text"])), (0, 0, 1, 6)))


def _resolved(console: Console, seen: Seen, act: Act) -> None:
    _heading(console, "Friday 30 August 2019, 08:00 UTC")
    _say(
        console,
        f"Facebook is back. Meanwhile {len(seen.drafts):,} renewals came due; they were held as drafts, none was "
        "charged. Resolving settles the 90 hours since Monday and takes what was lost off the drafts:",
    )
    _channels(console, act)
    _say(console, "[b]Drafts released[/b] and collected:")
    _drafts(console, seen.drafts.values())
    still = sum(1 for pause in (seen.end or act.after).pauses.values() if pause)
    _say(console, f"[b]Still paused:[/b] {still}, by its owner and not by us; its pause is as it was.")
    checked = seen.reconciled.get("checked", {})
    counts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in checked.items())
    _say(console, f"[b]Our books and Stripe's[/b] agree on every object: {counts}.")


def _by_hand(console: Console, seen: Seen) -> None:
    _heading(console, "Worked out by hand beforehand, and given to the cent")
    table = _table("", "", "declared", "resolved")
    for case in CASES:
        first, second = (_parts(parts, case.currency) for parts in (case.first, case.second))
        table.add_row(case.name, case.why, first, second)
    console.print(Padding(table, (0, 0, 1, 4)))


def _proved(console: Console, proofs: Proofs) -> None:
    if not proofs.broken:
        _say(console, f"[b green]All {len(proofs.held)} checks held[/] against the sandbox's own ledger.")
        return
    _say(console, f"[b red]{len(proofs.broken)} of {len(proofs.held) + len(proofs.broken)} checks did not hold:[/]")
    for broken in proofs.broken:
        console.print(Padding(Text(f"- {broken}"), (0, 0, 0, 4)))


def _channels(console: Console, act: Act) -> None:
    sums = truth.per_currency(act.given, act.after.currency)
    count: Counter[str] = Counter(act.after.currency[customer] for customer in act.given)
    table = _table("", *CHANNELS.values(), "businesses", "together", right=True)
    for currency, parts in sums.items():
        amounts = [_amount(parts[channel], currency) for channel in CHANNELS]
        table.add_row(currency.upper(), *amounts, f"{count[currency]:,}", f"[b]{_amount(parts.total(), currency)}[/b]")
    console.print(Padding(table, (0, 0, 1, 4)))


def _drafts(console: Console, drafts: Iterable[Mapping[str, Any]]) -> None:
    sums: dict[str, Counter[str]] = {}
    for one in drafts:
        of = sums.setdefault(one["currency"], Counter())
        of.update(
            drafts=1, billed=one["total"], off=one["pre_payment_credit_notes_amount"], collected=one["amount_paid"]
        )
    table = _table("", "drafts", "renewals", "taken off", "collected", right=True)
    for currency, of in sorted(sums.items()):
        amounts = [_amount(of[name], currency) for name in ("billed", "off", "collected")]
        table.add_row(currency.upper(), f"{of['drafts']:,}", *amounts)
    console.print(Padding(table, (0, 0, 1, 4)))


def _kept(seen: Seen) -> str:
    own = sum(1 for case in CASES if case.pause == "owner")
    free = sum(1 for one in seen.subscriptions.values() if one["pause_collection"] is None)
    return f"{own} that its owner had paused was left as it was; {free:,} that do not depend on Facebook go on."


def _left_out(left_out: list[dict[str, Any]]) -> str:
    parts = []
    for one in left_out:
        sums = " and ".join(money(sum_["amount"], sum_["currency"]) for sum_ in one["amount"] if sum_["amount"])
        why = REASONS.get(one["reason"], str(one["reason"]).replace("_", " "))
        parts.append(f"{one['count']:,}{f' ({sums})' if sums else ''}: {why}")
    return "; ".join(parts) + "." if parts else "nobody."


def _parts(parts: Parts, currency: str) -> str:
    if not parts:
        return "-"
    return ", ".join(f"{_amount(amount, currency)} {CHANNELS[channel]}" for channel, amount in parts.items())


def _amount(amount: int, currency: str) -> str:
    return money(amount, currency).partition(" ")[2] if amount else "-"


def _table(*columns: str, right: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if right and place else "left")
    return table


def _heading(console: Console, words: str) -> None:
    console.print()
    console.print(Text(words, style="bold cyan"))
    console.print()


def _say(console: Console, words: str) -> None:
    console.print(Padding(words, (0, 0, 1, 2)))
