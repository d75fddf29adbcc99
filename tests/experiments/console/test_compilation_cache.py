"""Compiled code that is kept from one start to the next."""

import warnings

import jax

from console import compilation_cache
from console.compilation_cache import use_compilation_cache


def test_compiled_code_is_kept_with_the_user_unless_jax_was_told(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    folder, least = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {option: jax.config.values[option] for option in (folder, least)}
    kept_in, small_programs_too = str(tmp_path / "xla"), 0
    try:
        jax.config.update(least, 2.5)
        for told, expected in [
            ("elsewhere", ("elsewhere", 2.5)),
            (None, (kept_in, small_programs_too)),
        ]:
            jax.config.update(folder, told)
            use_compilation_cache()
            assert (jax.config.values[folder], jax.config.values[least]) == expected
    finally:
        for option, value in before.items():
            jax.config.update(option, value)


def test_damaged_compiled_code_is_dropped_and_other_warnings_are_shown(
    tmp_path, monkeypatch
):
    shown = []
    monkeypatch.setattr(warnings, "showwarning", lambda *args: shown.append(args[0]))
    names = ["jit_step-12-cache", "jit_step_two-34-cache"]
    for name in names:
        (tmp_path / name).touch()
    compilation_cache._drop_damaged_entries(tmp_path)
    about = "Error reading persistent compilation cache entry for 'jit_step': bad data"
    for message in (about, "something else"):
        warnings.showwarning(message, UserWarning, "compiler.py", 1)
    assert [path.name for path in tmp_path.iterdir()] == names[1:]
    assert shown == ["something else"]
