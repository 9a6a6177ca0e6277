"""Part of `make check`: no secret is in the repository, and both locks agree with pyproject.toml."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SECRETS = {
    "a live Stripe key": rb"\b[rs]k_live_[0-9A-Za-z]{16,}",
    "a Stripe test key": rb"\b[rs]k_test_[0-9A-Za-z]{24,}",
    "a webhook signing secret": rb"\bwhsec_[0-9A-Za-z+/]{24,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "a GitHub token": rb"\bgh[pousr]_[0-9A-Za-z]{36}",
}
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)


def secrets() -> Iterator[str]:
    """A sentence for each place that looks like a real secret; the secret itself is not repeated."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        file = PROJECT / name
        if file.is_file():
            for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
                for kind, pattern in SECRETS.items():
                    if re.search(pattern, line):
                        yield f"{name}:{number} looks like {kind}."


def locks() -> Iterator[str]:
    """A sentence for each requirement whose pins disagree, and for an address where only names and hashes belong."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    texts = {name: (PROJECT / name).read_text("utf-8") for name in ("requirements.txt", "tests/requirements.txt")}
    runtime, everything = (_pins(text) for text in texts.values())
    wanted = _pins("\n".join(project["dependencies"]))
    tests = _pins("\n".join(project["optional-dependencies"]["test"]))
    for name, text in texts.items():
        if "://" in text or "--index-url" in text:
            yield f"{name} names an address; a lock holds names, versions and hashes."
    for whole, where, part in (
        (runtime, "requirements.txt", wanted),
        (everything, "tests/requirements.txt", tests),
        (everything, "tests/requirements.txt", runtime),
    ):
        for package in sorted(package for package in part if whole.get(package) != part[package]):
            yield f"{where} has {package} {whole.get(package, 'not at all')} where {part[package]} is asked for."


def _pins(text: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in PIN.findall(text)}


def main() -> int:
    """0 when nothing was found; 1, with a sentence for each finding printed, when something was."""
    findings = [*secrets(), *locks()]
    for finding in findings:
        print(finding, file=sys.stderr)
    if not findings:
        print("No secret in the repository; the locks agree.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
