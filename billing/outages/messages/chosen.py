"""What a customer may choose for an incident, and what they chose, in the sentences of their letters. Pure."""

from typing import Final

from billing.outages.choices import Asked

_CHOSE: Final = {
    "money": "to get it back the way you paid",
    "credit": "to have it credited towards your next invoice",
    "waive": "to get nothing back for it",
}


def in_words(kind: str, asked: Asked | None, until: str, portal: str, *, by_credit: bool) -> str:
    """The sentences that a letter of this kind needs, often none.

    `until` is the end of the time for an answer, as the customer reads it; `by_credit`: no answer means credit.
    """
    if asked is None:
        return ""
    if kind == "declared" and not asked.decided:
        return _question(asked, until, portal, by_credit=by_credit)
    if kind == "refunded" and asked.decided:
        if asked.choice is None:
            way = "as you chose for another outage" if asked.of_another else "the usual way"
            return f"You could choose until {until} what you get for it. We had no answer, so it goes {way}."
        return "" if asked.choice == "waive" else f"You chose {_CHOSE[asked.choice]}."
    if kind == "resumed" and asked.choice == "waive":
        return f"You chose {_CHOSE['waive']}."
    return ""


def _question(asked: Asked, until: str, portal: str, *, by_credit: bool) -> str:
    if asked.choice is not None:
        return f"You chose {_CHOSE[asked.choice]}. You may change your mind until {until}: {portal}/choices"
    usual = "it is credited to your balance" if by_credit else "it goes back the way you paid"
    return (
        "What you get is up to you: money back the way you paid, credit towards your next invoice, or nothing."
        f" Choose until {until}: {portal}/choices\nWithout an answer {usual}."
    )
