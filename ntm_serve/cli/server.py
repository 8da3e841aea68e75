"""Commands that need the parts of a server: serve, check, health, top, import-triton, sessions verify. The flags of
`serve` are the settings of ntm_serve.config; the extra `server` is looked for here and nowhere else.
"""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ntm_serve.cli.sessions import sessions_app
from ntm_serve.cli.tables import print_facts
from ntm_serve.errors import SettingsFault


def register_server_commands(app: typer.Typer) -> None:
    """Add the commands to the application; without the extra `server` they say how to get it."""
    try:
        # The one place where the extra is imported: the client's command line works without it.
        from ntm_serve.cli.health import health
        from ntm_serve.cli.serving import check_directory, serve_until_stopped
        from ntm_serve.cli.top import top
        from ntm_serve.cli.verifying import verify_store
        from ntm_serve.config import ENVIRONMENT_PREFIX, Settings
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "ntm_serve":
            raise
        _register_missing(app, missing)
        return

    def serve(**given: str | None) -> None:
        """Serve the models of a repository until SIGTERM or Ctrl-C, then drain.

        Every flag is also an environment variable; the flag wins.
        """
        serve_until_stopped({name: value for name, value in given.items() if value is not None})

    _give_flags(serve, Settings.model_fields, ENVIRONMENT_PREFIX)
    app.command()(serve)

    def check(
        directory: Annotated[Path, typer.Argument(metavar="DIR", help="a model directory: <model>/<version>")],
        **given: str | None,
    ) -> None:
        """Check a model directory: its files, its golden run, its batch size and independence. Needs no torch."""
        print_facts(check_directory(directory, {name: value for name, value in given.items() if value is not None}))
        print(f"{directory}: ok")

    @sessions_app.command("verify")
    def verify(
        store: Annotated[
            str, typer.Argument(metavar="STORE", help="as in serve --store; a sqlite file that no server has")
        ],
        models: Annotated[
            Path | None, typer.Option(help="model repository; with it states and inputs are held against their models")
        ] = None,
        replay: Annotated[
            bool, typer.Option(help="run every record again, and compare with what was answered")
        ] = False,
        store_prefix: Annotated[str, typer.Option(help="redis: what the names of keys begin with")] = "ntm-serve",
    ) -> None:
        """Check a store, without a server: whether every session in it would come back."""
        verify_store(store, prefix=store_prefix, models=models, replay=replay)

    @app.command("import-triton")
    def from_triton(
        repository: Annotated[Path, typer.Argument(metavar="DIR", help="a Triton model repository")],
        out: Annotated[Path, typer.Option(help="the model repository to write into, as OUT/MODEL/VERSION")],
        model: Annotated[list[str] | None, typer.Option(help="import this one alone; may be repeated")] = None,
        dims: Annotated[
            list[str] | None,
            typer.Option(
                metavar="NAME=N,N", help="sizes of an input that config and graph leave open, without the batch"
            ),
        ] = None,
        constant: Annotated[
            list[str] | None,
            typer.Option(metavar="NAME=X", help="feed a control tensor for END or CORRID always this"),
        ] = None,
        example: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="inputs [T, ...] for the recorded run, as .npz; made up if not given"),
        ] = None,
        licence: Annotated[str, typer.Option(help="the licence of the weights")] = "unknown",
        force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
    ) -> None:
        """Import the ONNX models of a Triton repository, with or without state. Needs no torch."""
        # Here, as every command would take longer to start.
        from ntm_serve.cli.importing import import_triton

        import_triton(
            repository, out=out, models=model or (), dims=dims or (), constants=constant or (), example=example,
            licence=licence, force=force,
        )  # fmt: skip

    engine_settings = {name: Settings.model_fields[name] for name in ("batch_max", "execution_provider")}
    _give_flags(check, engine_settings, ENVIRONMENT_PREFIX)
    app.command()(check)
    app.command()(health)
    app.command()(top)


def _register_missing(app: typer.Typer, missing: ImportError) -> None:
    message = f"this command needs the parts of a server: pip install 'ntm-serve[server]' ({missing})"

    for name in ("serve", "check", "health", "top", "import-triton"):

        @app.command(name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
        def refuse() -> None:
            """Needs the extra `server`."""
            raise SettingsFault(message)


def _give_flags(command: Any, fields: dict[str, Any], prefix: str) -> None:
    """Give the command one option for each setting, after the parameters that it names itself. All are texts
    here: the settings parse them, so that every fault of flags and environment is told at once.
    """
    own = inspect.signature(command).parameters.values()
    parameters = [one for one in own if one.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, setting in fields.items():
        flag, kind = name.replace("_", "-"), setting.annotation
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        among = f": {', '.join(choices)}" if choices else ""
        # The words that Typer has for the other commands' options; the brackets are no markup.
        origin = f"\\[env var: {prefix}{name.upper()}] \\[default: {_default(setting)}]"
        option = typer.Option(
            f"--{flag}",
            help=f"{setting.description}{among}\n\n{origin}",
            metavar="NUMBER" if "per_s" in name else _METAVAR.get(kind, "WORD"),
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {one.name: one.annotation for one in parameters}


_METAVAR: dict[Any, str] = {Path: "DIR", Path | None: "FILE", int: "N", float: "SECONDS", str: "TEXT", bool: "BOOL"}


def _default(setting: Any) -> str:
    default = setting.get_default(call_default_factory=True)
    if default is None:
        return "none"
    return f"{default:.10g}" if isinstance(default, float) else str(default)
