"""What `sessions verify` does."""

from contextlib import closing
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ntm_serve.app import load_models
from ntm_serve.audit import Finding, audit
from ntm_serve.cli.tables import console, table
from ntm_serve.errors import SettingsFault
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.stores.opening import open_store, without_password

# Lines of a table; what is beyond is counted.
SHOWN_MAX = 100


def verify_store(where: str, *, prefix: str, models: Path | None, replay: bool) -> None:
    """Print what an audit finds; exit status 1 where a session would not come back as it was. Raises SettingsFault,
    StoreUnavailable.
    """
    if replay and models is None:
        raise SettingsFault("replay: expected --models as well, to run the records with")
    kind, _, path = where.partition(":")
    if kind == "sqlite" and not Path(path).exists():
        raise SettingsFault(f"store: expected a file at {path}, got none")
    served = _models(models)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, transient=True, console=Console(stderr=True))
    with closing(open_store(where, prefix=prefix)) as store, shown as progress:
        task = progress.add_task("", total=store.statistics().sessions)
        findings: list[Finding] = []
        for finding in audit(store, served, replay=replay):
            findings.append(finding)
            progress.advance(task)
    bad = [one for one in findings if not one.is_well]
    run = sum(one.steps_run for one in findings)
    if bad:
        rows = table("session", "next step", "fault")
        for one in bad[:SHOWN_MAX]:
            differs = f"step {one.differs}, run again, gives other bits"
            rows.add_row(one.session_id, str(one.next_step), one.fault.detail if one.fault else differs)
        console().print(rows)
    more = f", {run} steps run again" if replay else ""
    print(f"{without_password(where)}: {len(findings)} sessions, {len(bad)} with a fault{more}")
    if not findings:
        print("nothing was verified: are these the store and the --store-prefix of the server?")
    if bad:
        raise typer.Exit(1)


def _models(repository: Path | None) -> dict[ModelKey, StepModel]:
    if repository is None:
        return {}
    # As large as any: the batch is of no matter here, and measuring it takes its time.
    return {model.card.key: model for model in load_models(repository, batch_max=64).models}
