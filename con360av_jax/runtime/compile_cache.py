"""The persistent cache of compiled programs, for the command line only: a library does not choose where to write."""

import os
from pathlib import Path

SWITCH = "CON360AV_CACHE"


def cache_folder() -> Path | None:
    """Returns the user's folder for compiled programs, or None if CON360AV_CACHE is "off"."""
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false"):
        return None
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "con360av-jax" / "xla"


def enable_compile_cache() -> Path | None:
    """Makes JAX cache compiled programs in the user's cache folder; returns the folder, or None if not used.

    Cached programs are run as code, so a folder that belongs to or is writable by others is not used.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError:
        # A home that cannot be written to (containers, batch jobs) costs compile time only.
        return None
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        return None

    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return folder
