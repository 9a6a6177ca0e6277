"""Which anchors belong to which database."""

from pathlib import Path

import pytest

from tenants import anchors
from tenants.settings import read

HERE = {"DATABASE_URL": "postgresql://app@db1/outage", "SECRET_KEY": "k" * 32, "ANCHORS": "/anchors"}


def path(**other: str) -> Path:
    kept = anchors.kept(read(HERE | other, Path("/nowhere")))
    assert kept is not None
    return kept.path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app@db1/outage",
        "postgresql://app@db2/outage",
        "postgresql://app@db1:6432/outage",
        "postgresql://other:secret@10.0.0.7/outage",
        "postgresql://app@/outage?host=/var/run/postgresql&port=5433",
    ],
)
def test_a_database_keeps_its_anchors_under_every_address(url: str) -> None:
    assert path(DATABASE_URL=url) == path()


@pytest.mark.parametrize("other", [{"SECRET_KEY": "l" * 32}, {"DATABASE_URL": "postgresql://app@db1/outage_test"}])
def test_another_installation_or_database_has_its_own(other: dict[str, str]) -> None:
    assert path(**other) != path()


def test_where_no_folder_is_set_there_are_none() -> None:
    assert anchors.kept(read({"DATABASE_URL": HERE["DATABASE_URL"]}, Path("/nowhere"))) is None
