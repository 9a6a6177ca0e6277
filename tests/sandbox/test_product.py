"""The demo's product runs with the demo's settings, whatever the folder's `.env` and the shell say."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from sandbox import product
from sandbox.processes import ROOT
from sandbox.product import Product

ELSEWHERE = {
    "SMTP_URL": "smtp://mail.example.com", "STRIPE_RATE": "1/1", "WEBHOOK_NETWORKS": "10.0.0.0/8",
    "STRIPE_SECRET_KEY": "sk_test_somebodys", "PUBLIC_URL": "https://billing.example.com",
    "CELERY_BROKER_URL": "redis://queue.example.com/0",
}  # fmt: skip
"""Settings that the demo has of its own or must not have at all."""
OF_LIBRARIES = {"PGOPTIONS": "-c work_mem=1", "HTTPS_PROXY": "http://proxy.example.com", "FLASK_DEBUG": "1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `flask settings` tells what wsgi.py would start with there."""
    (tmp_path / "wsgi.py").write_text(
        dedent(
            f"""
            import json, os, sys
            sys.path.insert(0, {str(ROOT)!r})
            import click
            from flask import Flask
            from tenants.settings import file_of, read

            app = Flask("told")

            @app.cli.command("settings")
            @click.option("--json", is_flag=True)
            def tell(**_):
                settings = read(os.environ, file_of(os.environ))
                told = {{name: str(getattr(settings, name)) for name in settings.__slots__}}
                print(json.dumps(told | {{"environment": sorted(os.environ)}}))
            """
        )
    )
    monkeypatch.setattr(product, "ROOT", tmp_path)
    return tmp_path


def told() -> dict[str, Any]:
    demo = Product(
        database="postgresql://demo@127.0.0.1/demo", owner="postgresql://owner@127.0.0.1/demo",
        stripe="http://127.0.0.1:12111", key="sk_test_sandbox", port=8_000, secret="s" * 64, anchors="anchors",
    )  # fmt: skip
    return demo.flask("settings")


def test_neither_a_file_nor_the_shell_reaches_the_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = told()
    assert (alone["smtp_url"], alone["stripe_rate"], alone["stripe_secret_key"]) == ("None", "None", "sk_test_sandbox")
    assert alone["celery_broker_url"] == "memory://"
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in ELSEWHERE.items()))
    assert told() == alone
    for name, value in (ELSEWHERE | OF_LIBRARIES).items():
        monkeypatch.setenv(name, value)
    assert told() == alone
