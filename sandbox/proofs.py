"""What the demo claims, held against Stripe's own books: each claim is a sentence, true or shown as broken."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.cases import CASES, Parts, World
from sandbox.truth import PLATFORM, Ledger

MOST_SHOWN = 5


@dataclass
class Proofs:
    """Claims as they are checked."""

    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Each with what was found instead."""

    def hold(self, claim: str, truth: bool, otherwise: str = "") -> None:
        """Write down whether a claim is true."""
        if truth:
            self.held.append(claim)
        else:
            self.broken.append(f"{claim}: {otherwise}" if otherwise else claim)

    def same(self, claim: str, found: object, expected: object) -> None:
        """Write down whether two things are equal."""
        self.hold(claim, found == expected, f"found {found}, expected {expected}")

    def alike(self, claim: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """As `same`, and of what differs show only the first few."""
        differing = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
        shown = [f"{key}: {found.get(key)}, not {expected.get(key)}" for key in sorted(differing)[:MOST_SHOWN]]
        self.hold(claim, not differing, f"{len(differing)} differ; {'; '.join(shown)}")


def cases(proofs: Proofs, world: World, run: str, given: Mapping[str, Parts]) -> None:
    """Each customer of the story has in this run (`first`, `second`) what was worked out by hand."""
    for case in CASES:
        expected: Parts = getattr(case, run)
        found = given.get(world.customers[case.name], {})
        proofs.same(f"The {run} run gave {case.name} what was worked out by hand", found, expected)


def crowd(proofs: Proofs, world: World, run: str, given: Mapping[str, Parts], expected: Counter[str]) -> None:
    """Everybody else has what Stripe's invoices say when they are worked out one by one."""
    by_hand = set(world.customers.values())
    sums = {customer: sum(parts.values()) for customer, parts in given.items() if customer not in by_hand}
    wanted = {customer: amount for customer, amount in expected.items() if customer not in by_hand and amount}
    proofs.alike(f"The {run} run gave everybody else what their invoices say", sums, wanted)


def books(proofs: Proofs, when: str, ledger: Ledger) -> None:
    """Nothing was paid twice, and Stripe's own sums add up."""
    proofs.same(f"{when}, no step of ours is in Stripe twice", ledger.twice, [])
    proofs.same(f"{when}, no charge gave back more than it took", ledger.beyond, [])
    proofs.same(f"{when}, the sandbox's books add up", ledger.unbalanced, [])


def totals(proofs: Proofs, run: str, given: Mapping[str, Counter[str]], said: list[dict[str, Any]]) -> None:
    """The product's totals per currency are those of Stripe's books."""
    found = {one["currency"]: one["amount"] for one in said if one["amount"]}
    wanted = {currency: sum(parts.values()) for currency, parts in given.items() if sum(parts.values())}
    proofs.alike(f"The {run} run's totals are those of Stripe's books", found, wanted)


def held(proofs: Proofs, world: World, ledger: Ledger, incident: str, subscriptions: Mapping[str, Any]) -> None:
    """Billing is held for whoever depends on the platform, for nobody else, and an owner's own pause is untouched."""
    owners = {world.customers[case.name] for case in CASES if case.pause == "owner"}
    expected = {id: _pause_of(world, one, owners) for id, one in subscriptions.items()}
    found = {id: pause and pause["behavior"] for id, pause in ledger.pauses.items() if id in subscriptions}
    proofs.alike("Billing is held for exactly those who depend on Facebook", found, expected)
    ours = {id for id, one in subscriptions.items() if one["metadata"].get("incident") == incident}
    wanted = {id for id, behavior in expected.items() if behavior == "keep_as_draft"}
    proofs.same("Each of our pauses says for which incident it stands", ours ^ wanted, set())


def _pause_of(world: World, subscription: Mapping[str, Any], owners: set[str]) -> str | None:
    if subscription["customer"] in owners:
        return "void"
    prices = [item["price"]["id"] for item in subscription["items"]["data"]]
    return "keep_as_draft" if any(PLATFORM in world.weights[price] for price in prices) else None


def released(proofs: Proofs, world: World, ledger: Ledger, drafts: Mapping[str, Any]) -> None:
    """Nothing is paused any more but what its owner paused, and no draft is left behind."""
    owners = {world.subscriptions[world.customers[case.name]]["id"] for case in CASES if case.pause == "owner"}
    paused = {id for id, pause in ledger.pauses.items() if pause}
    proofs.same("Nothing is paused any more, except what its owner paused", paused, owners)
    stranded = [f"{id} is {one['status']}" for id, one in drafts.items() if one["status"] not in ("paid", "open")]
    proofs.same("No draft was left behind", stranded, [])
    wrong = [id for id, one in drafts.items() if one["amount_remaining"]]
    proofs.same("Each draft was collected, less what its customer had lost", wrong, [])


def left_out(proofs: Proofs, said: list[dict[str, Any]]) -> None:
    """Who is owed something and gets nothing is named, with the reason."""
    reasons = {case.left_out for case in CASES if case.left_out}
    named = {one["reason"]: one["count"] for one in said if one["reason"] in reasons}
    proofs.same("Who was left out is named", named, dict(Counter(case.left_out for case in CASES if case.left_out)))


def not_charged(proofs: Proofs, subscriptions: Mapping[str, Any], incident: str, before: Ledger, after: Ledger) -> None:
    """While billing was held, nobody whose billing was held was charged."""
    held = {one["customer"] for one in subscriptions.values() if one["metadata"].get("incident") == incident}
    charged = [after.charges[id]["customer"] for id in after.charges.keys() - before.charges.keys()]
    proofs.same("Nobody was charged while their billing was held", held & set(charged), set())
