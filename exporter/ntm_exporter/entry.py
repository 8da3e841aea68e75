"""The entry point of `ntm-export`: looks for the extra `export` here, and nowhere else."""

import sys


def main() -> None:
    """Run the command line, or say how to get what it needs."""
    try:
        from ntm_exporter.cli import main as run  # The one place where the extra is imported.
    except ModuleNotFoundError as missing:
        if missing.name in ("ntm_exporter", "ntm_models", "ntm_serve"):
            raise
        print(f"ntm-export: this command needs the extra: pip install 'ntm-serve[export]' ({missing})", file=sys.stderr)
        raise SystemExit(1) from None
    run()
