"""Deliberate breakages, each the loss of one safeguard, and the tests that must notice it.

A breakage replaces text that stands exactly once in its file. Where that text has changed, `test_catalog` fails: say
the breakage anew, never drop it.
"""

from dataclasses import dataclass
from typing import Final

GRANTS: Final = "billing/outages/grants.py"
CLAIMS: Final = "billing/outages/claims.py"
APPROVALS: Final = "billing/outages/approvals.py"
OF_GRANTS: Final = "tests/billing/outages/test_grants.py"
OF_APPROVALS: Final = "tests/billing/outages/test_approvals.py"
FACTORS: Final = "tenants/factors.py"
OF_FACTORS: Final = "tests/tenants/test_factors.py"
OF_INPUT: Final = "tests/test_bad_input.py"
OF_SIGNATURES: Final = "tests/webhooks/test_signatures.py"


SUMMED: Final = """session.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(Step.refund), 0)).where(
            Step.payment_id == payment.id, Step.state.in_(("sent", "unknown", "succeeded"))
        )
    ) + step.refund > left"""
BELIEVED: Final = """            new = inbox.receive(session, event, live=house.settings.live)
            import json

            from billing import translate
            from billing.outages import grants

            claimed = json.loads(raw)["data"]["object"]
            if "status" in claimed and claimed["object"] == "refund":
                grants.settle(session, translate.refund(claimed), event.account, gateway.engine(house))
"""


@dataclass(frozen=True)
class Mutant:
    name: str
    edits: tuple[tuple[str, str, str], ...]
    """(file, text that is there once, what stands in its place)."""
    tests: tuple[str, ...]
    """At least one of these must fail."""


def _one(name: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, ((file, old, new),), tests)


MUTANTS: Final = (
    _one(
        "no idempotency key",
        "billing/gateway.py", "**body, idempotency_key=key, ", "**body, ",
        "tests/billing/test_gateway.py::test_a_write_leaves_with_its_key_the_pinned_version_and_no_account",
    ),
    _one(
        "a random key",
        CLAIMS,
        ':n{step.epoch}"\n    session.add',
        ':n{step.epoch}r{__import__(\'os\').urandom(4).hex()}"\n    session.add',
        f"{OF_GRANTS}::test_timeout_before_the_effect_is_sent_again_under_the_same_key",
    ),
    _one(
        "a key for each attempt",
        CLAIMS, ':n{step.epoch}"\n    session.add', ':n{step.attempt_no}"\n    session.add',
        f"{OF_GRANTS}::test_timeout_before_the_effect_is_sent_again_under_the_same_key",
    ),
    _one(
        "a key rotated without proof",
        CLAIMS, "elif claim.key_is_spent and claim.doubtful:", "elif claim.doubtful:",
        f"{OF_GRANTS}::test_timeout_before_the_effect_is_sent_again_under_the_same_key",
        f"{OF_GRANTS}::test_an_effect_that_the_list_does_not_show_yet_is_not_made_twice",
    ),
    _one(
        "blind resend after a day",
        GRANTS, "    if claim.key_is_dead:\n", "    if False:\n",
        f"{OF_GRANTS}::test_after_twenty_hours_nothing_is_sent_again",
    ),
    _one(
        "sent again without a look",
        GRANTS, "_looked(house, claim) if claim.doubtful else _recalled(claim)", "_recalled(claim)",
        f"{OF_GRANTS}::test_after_twenty_hours_what_the_list_shows_is_still_a_success",
        f"{OF_GRANTS}::test_a_worker_that_died_leaves_a_step_that_is_looked_for_first",
    ),
    _one(
        "the row after the call",
        GRANTS,
        "    if sent is not None:\n        _send(house, sent)\n",
        "    if sent is not None:\n        _send(house, sent)\n\n\n"
        "def _unwritten(session, *said):\n"
        "    sent = _begin(session, *said)\n    session.expunge_all()\n    session.rollback()\n    return sent\n\n\n"
        "_begin, claims.begin = claims.begin, _unwritten\n",
        f"{OF_GRANTS}::test_the_attempt_is_committed_before_the_call",
    ),
    _one(
        "a timeout taken for a failure",
        "billing/outages/verdicts.py",
        'return Move("unknown", answer.message, due_in=ask_again_after(silences), evidence=evidence)',
        'return Move("failed", answer.message, evidence=evidence)',
        f"{OF_GRANTS}::test_timeout_after_the_effect_is_unknown_and_then_found",
    ),
    _one(
        "a note that may be in Stripe called off with its refunds",
        "billing/outages/steps.py", "Step.id != step.id, Step.first_sent_at.is_(None),", "Step.id != step.id,",
        f"{OF_GRANTS}::test_a_note_that_may_be_there_is_not_called_off_with_its_refunds",
    ),
    Mutant(
        "a sum instead of the counter",
        (
            (
                "billing/outages/steps.py",
                "    if step.payment_id is not None and (reserved or refunded):\n", "    if False:\n",
            ),
            (
                "billing/outages/hindrances.py", "payment.reserved + payment.refunded + own > left",
                SUMMED,
            ),
        ),
        (f"{OF_GRANTS}::test_one_payment_is_one_note_with_its_refund",),
    ),
    _one(
        "no fencing: a worker that stalled past its lease sends after all",
        CLAIMS, "return step.attempt_no == sent.no and step.leased and not", "return not",
        "tests/billing/outages/test_hindrances.py::test_a_worker_that_stalled_until_its_lease_was_lost_sends_nothing",
    ),
    _one(
        "no fencing: a late failure overrules whoever sends it now",
        GRANTS, "elif step.attempt_no == sent.no and step.state == \"sent\":", "elif may_follow(step, verdict.to):",
        f"{OF_GRANTS}::test_a_failure_does_not_count_once_the_lease_was_lost",
    ),
    _one(
        "a success that counts only for whoever holds the lease",
        GRANTS,
        "    if verdict.stripe_id is not None:\n        _write_fact(session, step, verdict)\n    elif step.attempt_no",
        "    if verdict.stripe_id is not None and step.attempt_no == sent.no and step.state == \"sent\":\n"
        "        _write_fact(session, step, verdict)\n    elif step.attempt_no",
        f"{OF_GRANTS}::test_a_success_is_a_fact_although_the_lease_was_lost",
    ),
    _one(
        "no lease",
        "billing/outages/upcoming.py",
        "return Step.due_at <= now, sa.or_(Step.lease_until.is_(None), Step.lease_until < now)",
        "return (Step.due_at <= now,)",
        "tests/faults/test_leases.py",
    ),
    _one(
        "a lease that can be lost unnoticed",
        CLAIMS,
        "    if step is None or step.lease_until != claim.lease_until or step.state != claim.step.state:\n",
        "    if step is None:\n",
        "tests/faults/test_leases.py",
    ),
    _one(
        "no sweep: only the bell is heard",
        "billing/outages/tasks.py",
        "            while not self.ended.wait(LOOK_EVERY):\n", "            while False:\n",
        "tests/billing/outages/test_tasks.py::test_a_lost_message_costs_a_delay",
    ),
    _one(
        "SET for SET LOCAL",
        "tenants/db.py",
        "set_config('app.agency', '{agency}', true), set_config('app.operator', '{operator}', true)",
        "set_config('app.agency', '{agency}', false), set_config('app.operator', '{operator}', false)",
        "tests/tenants/test_walls.py::test_the_scope_does_not_outlive_its_transaction",
    ),
    _one(
        "no FORCE",
        "migrations/walls.py", '    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")\n', "",
        "tests/tenants/test_walls.py::test_every_table_has_a_forced_wall_with_policies",
    ),
    _one(
        "the application's own filter gone",
        "tenants/db.py", "if scope is None or scope.agency_id is None or state.is_column_load", "if True",
        "tests/tenants/test_walls.py::test_orm_statements_are_filtered_by_the_application_alone",
    ),
    Mutant(
        "a webhook's payload trusted",
        (
            (
                "webhooks/views.py", "        event = _signed(house, _whole_body(), slug)\n",
                "        raw = _whole_body()\n        event = _signed(house, raw, slug)\n",
            ),
            (
                "webhooks/views.py",
                "            new = inbox.receive(session, event, live=house.settings.live)\n",
                BELIEVED,
            ),
        ),
        ("tests/webhooks/test_inbox.py::test_what_an_event_claims_is_not_believed",),
    ),
    _one(
        "a webhook that anybody can sign",
        "billing/signature.py",
        "if not any(hmac.compare_digest(ours, theirs) for ours in wanted for theirs in signatures):",
        "if not wanted:",
        f"{OF_SIGNATURES}::test_no_other_signature_passes",
    ),
    _one(
        "a signature from the future",
        "billing/signature.py", "if abs(now - at) > TOLERANCE:", "if now - at > TOLERANCE:",
        f"{OF_SIGNATURES}::test_old_signatures_and_those_of_the_future_are_refused",
    ),
    _one(
        "an unfrozen body",
        GRANTS, '    body = json.loads(step.body or "")\n',
        '    body = json.loads(step.body or "") | {"memo": f"Attempt {sent.no}"}\n',
        f"{OF_GRANTS}::test_timeout_before_the_effect_is_sent_again_under_the_same_key",
        f"{OF_GRANTS}::test_a_stored_failure_with_its_effect_is_found_and_never_sent_anew",
    ),
    _one(
        "no lock on a day's budget",
        "billing/outages/automatic.py", '        {"used": LimitDay.used + amount},\n',
        '        {"used": (session.scalar(sa.select(LimitDay.used).where(this)) or 0) + amount'
        " if not __import__('time').sleep(0.05) else 0},\n",
        f"{OF_APPROVALS}::test_whoever_races_for_the_budget_of_a_day_never_has_more_than_it",
    ),
    _one(
        "two plans made on one past at once",
        "billing/outages/planning.py",
        "        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_PLANNING, agency.id % 2**31)))\n",
        "        pass\n",
        f"{OF_APPROVALS}::test_declarations_at_once_share_one_budget",
    ),
    _one(
        "self-approval",
        APPROVALS, "    if by.id == incident.declared_by:\n", "    if False:\n",
        f"{OF_INPUT}::test_whoever_declared_or_resolved_stays_who_they_were_in_another_role",
    ),
    _one(
        "approval of whoever started the run",
        APPROVALS, "    if by.id in versions.authors(session, incident_id):\n", "    if False:\n",
        f"{OF_INPUT}::test_whoever_declared_or_resolved_stays_who_they_were_in_another_role",
    ),
    _one(
        "an approval that names no plan",
        APPROVALS, "    if fingerprint != (now_waiting := _together(waiting)):\n",
        "    if not (now_waiting := _together(waiting)):\n",
        f"{OF_APPROVALS}::test_an_old_fingerprint_does_not_approve_what_a_change_planned",
    ),
    _one(
        "a limit that the declarer has set",
        "billing/outages/automatic.py", "limit.set_by in involved or ", "",
        f"{OF_APPROVALS}::test_a_limit_of_the_declarer_is_none",
    ),
    _one(
        "a call inside a transaction",
        "billing/gateway.py", "    if transaction_open():\n", "    if False:\n",
        "tests/billing/test_gateway.py::test_a_call_inside_a_unit_of_work_is_refused",
    ),
    _one(
        "stripe-python asks again by itself",
        "billing/gateway.py", "            max_network_retries=0,\n", "            max_network_retries=2,\n",
        "tests/billing/test_gateway.py::test_a_timeout_is_unknown_and_never_resent",
        "tests/billing/test_gateway.py::test_should_retry_true_makes_no_second_post",
    ),
    _one(
        "an answer for another amount believed",
        "billing/outages/verdicts.py", "    if amount != step.amount or found.currency != step.currency:\n",
        "    if False:\n",
        f"{OF_GRANTS}::test_what_is_found_of_another_amount_is_not_believed",
    ),
    _one(
        "somebody else's pause lifted",
        "billing/outages/pauses.py", "    return subscription.pause_incident in claim.ours\n", "    return True\n",
        "tests/billing/outages/test_pauses.py::test_what_somebody_paused_meanwhile_is_theirs",
    ),
    _one(
        "released while another incident holds",
        "billing/outages/pauses.py", "    if claim.others_hold and claim.heir is None:", "    if False:",
        "tests/billing/outages/test_pauses.py::test_release_waits_for_the_last_incident_that_holds",
    ),
    _one(
        "renewals held on as the incident that has let go had them held",
        "billing/outages/pauses.py", "if claim.others_hold and claim.heir is None:", "if claim.others_hold:",
        "tests/billing/outages/test_pauses.py"
        "::test_a_hold_that_lets_go_hands_over_to_the_one_that_has_stood_the_longest_then",
    ),
    _one(
        "an outage of a disabled platform",
        "billing/catalog.py", "    if found.disabled_at is not None:\n", "    if False:\n",
        "tests/test_declaring.py::test_what_is_neither_previewed_nor_declared",
    ),
    _one(
        "everybody without a second factor",
        "billing/outages/console.py", "        if everybodys and (refusal := _unproven(session, person)):\n",
        "        if (refusal := None) is not None:\n",
        "tests/test_declaring.py::test_nobody_declares_for_every_agency_without_a_code",
    ),
    _one(
        "a code taken twice",
        FACTORS, "    if factor.last_step is not None and fitting[-1] <= factor.last_step:\n", "    if False:\n",
        f"{OF_FACTORS}::test_a_code_is_taken_once_and_none_before_it",
    ),
    _one(
        "guesses at once",
        FACTORS, "SecondFactor.member_id == member.id).with_for_update())", "SecondFactor.member_id == member.id))",
        f"{OF_FACTORS}::test_one_code_sent_at_once_by_many_is_taken_once",
    ),
)  # fmt: skip
