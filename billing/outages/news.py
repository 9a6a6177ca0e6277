"""What is published about an incident where nobody has said it better. Pure.

The status page and the feeds are for the customers of all agencies that an incident covers: what holds only for some of
them is left to the message that each customer gets. `gives_back`: every one of these agencies gives something back.
"""

from datetime import datetime

from billing.windows import in_words


def declared(name: str, started_at: datetime, ended_at: datetime | None, *, goes_on: bool, gives_back: bool) -> str:
    """Billing is paused only for an outage that goes on."""
    if ended_at is None or goes_on:
        return (
            f"{name} has not been available to us since {in_words(started_at)}. Billing is paused for everything that"
            f" depends on it{', and the time that you paid for and lost goes back to you' if gives_back else ''}."
        )
    back = " The time that you paid for and lost goes back to you." if gives_back else ""
    return f"{name} was not available to us from {in_words(started_at)} until {in_words(ended_at)}.{back}"


def resolved(name: str, ended_at: datetime, *, paused: bool, gives_back: bool) -> str:
    """`paused`: billing was, for this incident."""
    back = "What was lost until then is given back now" if gives_back else ""
    if paused:
        back = f"{back}, and billing resumes once that is done" if back else "Billing resumes"
    return f"{name} works for us again since {in_words(ended_at)}.{f' {back}.' if back else ''}"


def changed(name: str, started_at: datetime, ended_at: datetime | None) -> str:
    ended = f"until {in_words(ended_at)}" if ended_at else "and is still not"
    return (
        f"We have looked again: {name} was not available to us from {in_words(started_at)} {ended}. What goes"
        " back to you follows that; nothing that you have had already is taken back."
    )


def reopened(name: str, *, gives_back: bool) -> str:
    return (
        f"{name} is still not available to us: what we wrote about its return was too early. Billing is paused again"
        f"{', and the time that you lose meanwhile goes back to you' if gives_back else ''}."
    )


def retired(name: str, *, gives_back: bool) -> str:
    back = ", and what you have paid for it beyond today goes back to you" if gives_back else ""
    return (
        f"{name} does not come back for us. Whatever lives on it alone ends now, everything else goes on without it"
        f"{back}."
    )


def retracted(*, gave_up: bool) -> str:
    """`gave_up`: subscriptions have ended or moved because its platform was not to come back, or may have."""
    beyond = (
        ", but what we had ended or moved to another plan by then stays so. Whatever you" if gave_up
        else ", and whatever you"
    )  # fmt: skip
    return (
        f"We have withdrawn this: it was not the outage that we took it for. Billing goes on as before{beyond} have"
        " already had back for it stays yours."
    )
