"""Which migrations there are, asked without loading what runs them."""

import subprocess
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory

from tenants.upgrade import MIGRATIONS, revisions


def test_the_numbered_files_are_the_chain_that_alembic_follows() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    newest_first = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions()]
    assert revisions() == newest_first[::-1]


def test_a_command_that_upgrades_nothing_does_not_wait_for_what_it_does_not_use() -> None:
    told = "import sys, billing.cli, tenants.upgrade; print([one for one in ('alembic', 'rich') if one in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=MIGRATIONS.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
