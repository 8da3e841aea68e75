"""Which store a setting names."""

from pathlib import Path

from ntm_serve.errors import SettingsFault
from ntm_serve.store import Store
from ntm_serve.stores.sqlite import SqliteStore

REDIS = ("redis", "rediss", "unix")


def is_shared(where: str) -> bool:
    """Whether several servers may use the store at once."""
    return where.partition(":")[0] in REDIS


def without_password(where: str) -> str:
    """The store's name as it may be shown."""
    kind, _, place = where.partition(":")
    if kind not in REDIS:
        return where
    return f"{kind}://{place.removeprefix('//').rpartition('@')[2].partition('?')[0]}"


def open_store(where: str, *, prefix: str) -> Store:
    """sqlite:PATH, or the URL of a redis, whose keys begin with `prefix`. Raises SettingsFault, StoreUnavailable,
    StoreDamaged.
    """
    kind, _, place = where.partition(":")
    if kind == "sqlite" and place:
        return SqliteStore(Path(place))
    if not is_shared(where):
        raise SettingsFault(f"store: expected sqlite:PATH, redis://, rediss:// or unix://, got {where!r}")
    try:
        from ntm_serve.stores.redis import RedisStore  # The one place where the extra is imported.
    except ModuleNotFoundError as missing:
        raise SettingsFault(f"store: redis needs its client: pip install 'ntm-serve[redis]' ({missing})") from missing
    return RedisStore(where, prefix=prefix)
