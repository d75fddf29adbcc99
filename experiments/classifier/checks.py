"""Settings that make sense, or a line that says why not.

Free of JAX, as `config` is.
"""

import dataclasses

from classifier.config import Config, NOT_ADAPTIVE, NOT_COMPARED
from classifier.fits import check_fit, fits
from console.command_line import InputError


_MOST_EPOCHS = 1_000_000
"""Of a schedule; a run of more would have to have its steps counted in 64 bits."""

_MAX_DEVICES = 1024
"""Of a process; as many parts of a CPU start in a second."""


def check(config: Config) -> None:
    """Refuses values that make no sense, before anything is read or written.

    Raises:
        InputError: naming the option, what it must be and what it was.
    """
    _check_numbers(config)
    _check_combinations(config)
    check_fit(config)
    _check_devices(config)
    is_adaptive = fits(config.model, "rtol") and not config.fixed_steps
    if config.solver in NOT_ADAPTIVE and is_adaptive:
        raise InputError(
            f"--solver {config.solver} has no error estimate to adapt its steps by: "
            "add --fixed-steps --dt0 0.1, or take dopri5."
        )


def _check_numbers(config: Config) -> None:
    """Each by itself."""
    positive = (
        "epochs batch_size lr channels rtol atol dt0 max_steps eval_batch_size t1 "
        "accumulate"
    )
    for name in [*positive.split(), "train_size", "blocks"]:
        value = getattr(config, name)
        _require(value is None or value > 0, name, "must be above 0", value)
        _require_in_range(name, value)
    for name in (
        "momentum clip_norm speed_decay warmup_epochs decay_epochs shift crop holdout "
        "augment kinetic jacobian steer"
    ).split():
        value = getattr(config, name)
        _require(value is None or value >= 0, name, "must not be negative", value)
        _require_in_range(name, value)
    for name in ("warmup_epochs", "decay_epochs"):
        value = getattr(config, name)
        need = f"must be at most {_MOST_EPOCHS}"
        _require(value is None or value <= _MOST_EPOCHS, name, need, value)
    _require(config.momentum < 1, "momentum", "must be below 1", config.momentum)
    for name in ("shift", "crop"):
        pixels = getattr(config, name)
        _require(pixels < 28, name, "must be below 28 pixels", pixels)
    _require(
        0 <= config.seed < 2**32, "seed", "must be from 0 to 2**32 - 1", config.seed
    )
    # Group normalisation has min(32, channels) groups, which must divide the channels.
    need = "must be at most 32 or a multiple of 32"
    _require(_has_groups(config.channels), "channels", need, config.channels)


def _check_combinations(config: Config) -> None:
    """One beside the other."""
    if config.shift and config.crop:
        raise InputError(
            f"--shift {config.shift} and --crop {config.crop} both move the images; "
            "set one of them to 0."
        )
    width = config.channels + config.augment
    need = "must be at most 32 or a multiple of 32"
    need = f"and --channels {config.channels} together {need}"
    _require(_has_groups(width), "augment", need, config.augment)
    need = f"must be below --t1 ({config.t1})"
    _require(config.steer < config.t1, "steer", need, config.steer)
    if config.decay_epochs:
        longer = config.decay_epochs > config.warmup_epochs
        need = f"must be 0 or above --warmup-epochs ({config.warmup_epochs})"
        _require(longer, "decay_epochs", need, config.decay_epochs)
    if config.fixed_steps and config.dt0 is None:
        raise InputError("--fixed-steps needs the length of the steps: add --dt0 0.1.")
    if config.schedule == "drops" and config.decay_epochs == 0:
        raise InputError(
            "--schedule drops needs the epochs that its parts are parts of: add "
            f"--decay-epochs {config.epochs}, or take --schedule cosine."
        )
    need = f"must be at most --batch-size ({config.batch_size}), an image in each piece"
    fits_in = config.accumulate <= config.batch_size
    _require(fits_in, "accumulate", need, config.accumulate)


def _has_groups(channels: int) -> bool:
    return channels % min(32, channels) == 0


def _require_in_range(name: str, value: float | None) -> None:
    """Refuses what does not fit into the numbers that a device computes with."""
    if isinstance(value, int):
        _require(value < 2**31 - 1, name, "must be below 2**31 - 1", value)
    elif value is not None:
        _require(value < float("inf"), name, "must be finite", value)
        need = "must be at most 3e38, the largest of float32"
        _require(value <= 3e38, name, need, value)
        need = "must be at least 2e-38, the smallest of float32"
        _require(value == 0 or value >= 2e-38, name, need, value)


def _check_devices(config: Config) -> None:
    named = ("coordinator_address", "num_processes", "process_id")
    given = [name for name in named if getattr(config, name) is not None]
    if given and not config.distributed:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{option} is for several processes: add --distributed.")
    for name in ("devices", "num_processes"):
        value = getattr(config, name)
        _require(value is None or value > 0, name, "must be above 0", value)
    need = f"must be at most {_MAX_DEVICES}"
    is_few = config.devices is None or config.devices <= _MAX_DEVICES
    _require(is_few, "devices", need, config.devices)
    if not given:
        return
    missing = [f"--{name.replace('_', '-')}" for name in named if name not in given]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: "
            "give all of --coordinator-address HOST:PORT, --num-processes N and "
            "--process-id I, or none of them where JAX detects the others."
        )
    assert config.coordinator_address is not None
    host, _, port = config.coordinator_address.rpartition(":")
    is_address = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
    need = "must be HOST:PORT, such as 127.0.0.1:1234"
    _require(is_address, "coordinator_address", need, config.coordinator_address)
    assert config.process_id is not None and config.num_processes is not None
    need = f"must be from 0 to --num-processes - 1 ({config.num_processes - 1})"
    is_one = 0 <= config.process_id < config.num_processes
    _require(is_one, "process_id", need, config.process_id)


def _require(condition: bool, name: str, need: str, value: object) -> None:
    if not condition:
        raise InputError(f"--{name.replace('_', '-')} {need}; got {value}.")


def check_resumed(config: Config, stored: Config, done_epochs: int) -> None:
    """Refuses to go on with a run under settings other than its own.

    Raises:
        InputError: naming the settings that differ, with both values.
    """
    names = [f.name for f in dataclasses.fields(Config) if f.name not in NOT_COMPARED]
    differing = [
        f"--{name.replace('_', '-')} {getattr(stored, name)} (now {given})"
        for name in names
        if (given := getattr(config, name)) != getattr(stored, name)
    ]
    if differing:
        raise InputError(
            f"{config.resume} was made with other settings: {', '.join(differing)}. "
            "Resume it without these options, or start a new run."
        )
    assert config.resume is not None
    if config.out is not None and config.out.resolve() != config.resume.resolve():
        raise InputError(
            "--out and --resume name different folders; a resumed run stays in its own."
        )
    if config.epochs < done_epochs:
        raise InputError(
            f"--epochs may be changed for a resumed run, but {config.epochs} is below "
            f"the {done_epochs} that {config.resume} has begun."
        )
