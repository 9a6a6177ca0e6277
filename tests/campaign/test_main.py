"""A campaign says what it left out, and a run that was asked for and could not be is no success."""

from contextlib import nullcontext

import pytest

from tests.campaign import __main__ as campaign
from tests.campaign.world import Broken


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs: one that needs nothing, one whose broker is not there, one that breaks."""

    def breaks(size: int, seed: int, server: object) -> dict[str, object]:
        raise Broken("one grant twice")

    def passes(size: int, seed: int, server: object) -> dict[str, object]:
        return {"kills": size}

    runs = {"alone": passes, "away": passes, "broken": breaks}
    monkeypatch.setattr(campaign, "RUNS", runs)
    monkeypatch.setattr(campaign, "NEEDS", {"alone": (), "away": ("no-such-broker",), "broken": ()})
    monkeypatch.setattr(campaign.postgres, "start", lambda *_, **__: nullcontext())
    monkeypatch.setenv("KILLS", "7")


@pytest.mark.parametrize(
    ("wanted", "code", "lines"),
    [
        ("alone", 0, ["alone: 7 kills", "campaign: this was not the whole of it, away, broken did not run"]),
        ("alone away", 3, ["away: left out, this machine has no no-such-broker", "away, broken did not run"]),
        ("broken", 1, ["broken: BROKEN with SEED=1 KILLS=7: one grant twice"]),
        ("alone elsewhere", 2, []),
    ],
)
def test_what_is_left_out_is_said_and_what_was_asked_for_and_left_out_fails(
    wanted: str, code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNS", wanted)
    assert campaign.main() == code
    told = capsys.readouterr().out
    assert [line for line in lines if line not in told] == []


def test_a_campaign_without_a_broker_says_so_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    monkeypatch.delitem(campaign.RUNS, "broken")
    assert campaign.main() == 0
    assert "campaign: this was not the whole of it, away did not run" in capsys.readouterr().out
    monkeypatch.setitem(campaign.NEEDS, "away", ())
    assert campaign.main() == 0
    assert "not the whole" not in capsys.readouterr().out
