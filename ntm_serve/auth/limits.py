"""The file of tenants: what each may use, where it is not what every tenant may. TOML.

    [tenants.acme]
    sessions_max = 1000
    steps_per_s_max = 5000

What is not said of a tenant here is as for every tenant; 0 is no limit.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from ntm_serve.caller import TENANT_NAME
from ntm_serve.errors import SettingsFault
from ntm_serve.renewal import bytes_of
from ntm_serve.tenants import TenantLimits

NAMES = tuple(one.name for one in fields(TenantLimits))
# Seconds and rates; the rest are counted.
_FRACTIONS = frozenset({"steps_per_s_max", "stream_age_max_s"})


def read_tenants(path: Path, every: TenantLimits) -> Mapping[str, TenantLimits]:
    """The limits of the tenants that the file names. Raises SettingsFault."""
    try:
        content = tomllib.loads(bytes_of(path, "tenants_file").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise SettingsFault(f"tenants_file: expected TOML in {path}, got: {fault}") from fault
    tenants = content.get("tenants", {})
    if set(content) - {"tenants"} or not isinstance(tenants, dict):
        raise SettingsFault(f"tenants_file: expected [tenants.NAME] and nothing else in {path}, got {sorted(content)}")
    return {name: _limits(name, said, every) for name, said in tenants.items()}


def _limits(tenant: str, said: object, every: TenantLimits) -> TenantLimits:
    what = f"tenants_file: tenants.{tenant}"
    if not TENANT_NAME.fullmatch(tenant):
        raise SettingsFault(f"{what}: expected a name of 1 to 64 of A-Z a-z 0-9 . _ -")
    if not isinstance(said, dict) or set(said) - set(NAMES):
        raise SettingsFault(f"{what}: expected some of {', '.join(NAMES)}, got {said!r}")
    for name, value in said.items():
        kinds = (int, float) if name in _FRACTIONS else (int,)
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise SettingsFault(f"{what}: {name}: expected a number of at least 0, got {value!r}")
    return replace(every, **{name: value or None for name, value in said.items()})
