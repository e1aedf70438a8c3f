"""The configuration: its defaults, the values that each field allows, and its TOML."""

from __future__ import annotations

from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distnum import Config, InputError
from distnum.storage.files import read_toml, write_toml

NAMES = [item.name for item in fields(Config)]


def test_the_defaults_are_the_job_of_the_article() -> None:
    config = Config()
    assert config.data == "mnist-10k"
    assert config.hidden == (50,)
    assert (config.activation, config.loss) == ("relu", "cross_entropy")
    assert (config.steps, config.batch_size, config.learning_rate) == (1000, 100, 0.1)
    assert (config.scheme, config.h) == ("central", 1e-4)
    assert (config.optimizer, config.schedule, config.weight_decay, config.clip_norm) == ("sgd", "constant", 0, None)
    assert config.dtype == "float64"


def test_a_range_of_workers_has_a_least_and_a_most() -> None:
    assert Config(workers="2:8").workers == "2:8"
    assert Config(workers="3:3").workers == 3
    with pytest.raises(InputError, match="workers is '8:2'"):
        Config(workers="8:2")


def test_every_default_is_allowed_as_it_stands() -> None:
    for item in fields(Config):
        assert item.default is not MISSING
        assert getattr(Config(**{item.name: item.default}), item.name) == item.default


@pytest.mark.parametrize(
    ("name", "text", "native", "value"),
    [
        ("hidden", "256,128", [256, 128], (256, 128)),
        ("hidden", "50", 50, (50,)),
        ("hidden", "50", np.int32(50), (50,)),
        ("hidden", "3,4", np.array([3, 4]), (3, 4)),
        ("hidden", "none", (), ()),
        ("hidden", "", [], ()),
        ("activation", "leaky_relu", "leaky_relu:0.01", "leaky_relu:0.01"),
        ("activation", "quantize", "quantize:4", "quantize:4"),
        ("data", "folder", Path("folder"), "folder"),
        ("h", "auto", "auto", "auto"),
        ("h", "1e-5", 1e-5, 1e-5),
        ("h", "1", 1, 1.0),
        ("steps", "20", 20.0, 20),
        ("steps", "20", np.int64(20), 20),
        ("learning_rate", "0.5", np.float32(0.5), 0.5),
        ("init_std", "0.01", 0.01, 0.01),
        ("momentum", "0", 0, 0.0),
        ("seed", str(2**63 - 1), 2**63 - 1, 2**63 - 1),
        ("clip_norm", "5", 5, 5.0),
        ("workers", "auto", "auto", "auto"),
        ("workers", "0", 0, 0),
        ("threads_per_worker", "3", 3, 3),
        ("address", "auto", "auto", "auto"),
    ],
)
def test_text_and_native_values_convert_alike(name: str, text: str, native: Any, value: Any) -> None:
    for given_value in (text, native):
        found = getattr(Config(**{name: given_value}), name)
        assert found == value
        assert type(found) is type(value)


WHOLE = "a whole number of at least"
BAD_VALUES: dict[str, tuple[list[Any], str]] = {
    "data": (["", None, 5, b"mnist-10k"], "a text that is not empty"),
    "hidden": (
        ["50,x", "50,", "0", "50,-1", (50, 0), 1.5, [1.5], True, None, [[3]]],
        "whole numbers of at least 1 and at most 1,000,000, separated by commas, or 'none'",
    ),
    "activation": (["gelu", "relu:1", "quantize:", "", 7, None], "one of relu, leaky_relu[:SLOPE], tanh"),
    "loss": (["hinge", None, 1, [], "Cross_Entropy"], "one of cross_entropy, mean_squared_error"),
    "init": (["zeros", None], "one of he, xavier"),
    "init_std": ([0, -1, "nan", "x", float("inf"), True], "a finite number above 0"),
    "dtype": (["float16", "int", None, np.float64], "one of float64, float32"),
    "method": (["backpropagation", None], "one of propagate, naive"),
    "scheme": (["upwind", None], "one of forward, backward, central, central4"),
    "h": ([0, -1e-4, "inf", "nan", "small", "", None, True, 1j], "'auto' or a finite number above 0"),
    "steps": ([0, -1, 1.5, "1.5", "many", "", None, True, float("nan"), float("inf"), [5]], f"{WHOLE} 1"),
    "batch_size": ([0, "0", -3, None], f"{WHOLE} 1"),
    "learning_rate": ([0, -0.1, "nan", "fast", None, False, 10**400], "a finite number above 0"),
    "optimizer": (["lion", None], "one of sgd, momentum, nesterov, adam"),
    "momentum": ([-0.1, 1.01, "nan", None], "a finite number of at least 0 and at most 1"),
    "schedule": (["linear", None], "one of constant, cosine, step"),
    "schedule_every": ([0, 2.5, None], f"{WHOLE} 1"),
    "schedule_factor": ([0, -1, "inf", None], "a finite number above 0"),
    "weight_decay": ([-0.1, "nan", None], "a finite number of at least 0"),
    "clip_norm": ([0, -1, "inf", "none"], "a finite number above 0"),
    "seed": ([-1, 2**63, 0.5, "x", None, True], f"{WHOLE} 0 and at most 9,223,372,036,854,775,807"),
    "evaluate_every": ([0, "never", None], f"{WHOLE} 1"),
    "checkpoint_every": ([0, None], f"{WHOLE} 1"),
    "keep_checkpoints": ([0, None], f"{WHOLE} 1"),
    "on_nonfinite": (["ignore", None], "one of stop, skip, rollback"),
    "on_write_error": (["ignore", None], "one of stop, continue"),
    "resources": (["GPU", "GPU=0", "=1", "CPU=1", "a=1,a=2", "", 3], "NAME=NUMBER,..."),
    "step_deadline": ([0, -1, "soon", None], "'auto' or a finite number above 0"),
    "wait_for_workers": ([-1, "nan", None], "a finite number of at least 0"),
    "workers": (
        [-1, 1.5, "many", 100_001, None, True, "3:2", "0:2", ":", "2:", "1:2:3", "1:100001"],
        f"'auto' or {WHOLE} 0 and at most 100,000, or two of them as in 2:8",
    ),
    "threads_per_worker": ([0, "all", 10_001, None], f"'auto' or {WHOLE} 1 and at most 10,000"),
    "address": (["", 6379, "nowhere", "h:0", "h:99999"], "HOST:PORT of a Ray cluster's head, or auto"),
}


def test_the_table_of_bad_values_has_every_field() -> None:
    assert sorted(BAD_VALUES) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [(name, value, allowed) for name, (values, allowed) in BAD_VALUES.items() for value in values],
)
def test_a_bad_value_is_refused_with_field_value_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**{name: value})
    message = str(caught.value)
    shown = repr(value)
    assert message.startswith(f"{name} is {shown[:57] + '...' if len(shown) > 60 else shown}; it must be ")
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("activation", "allowed"),
    [
        ("leaky_relu:2", "between 0 and 1"),
        ("leaky_relu:-0.1", "between 0 and 1"),
        ("leaky_relu:nan", "between 0 and 1"),
        ("leaky_relu:steep", "a number"),
        ("quantize:1", "a whole number from 2 to 65536"),
        ("quantize:2.5", "a whole number from 2 to 65536"),
        ("quantize:65537", "a whole number from 2 to 65536"),
        *(
            pytest.param(
                name,
                "a whole number from 2 to 65536",
            )
            for name in ("quantize:inf", "quantize:nan")
        ),
    ],
)
def test_the_number_of_an_activation_is_checked(activation: str, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(activation=activation)
    assert str(caught.value).startswith(f"activation is {activation!r}; ")
    assert allowed in str(caught.value)


def test_a_layer_that_is_too_large_is_refused_with_the_limit() -> None:
    with pytest.raises(InputError, match="1,000,000"):
        Config(hidden=2_000_000)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"50", {5: 6}])
def test_sizes_that_are_not_a_list_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="hidden is"):
        Config(hidden=value)


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        Config(data=["x" * 10_000])  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().steps = 5  # type: ignore[misc]


# --- changes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "close"),
    [("learning_rte", "learning_rate"), ("batchsize", "batch_size"), ("worker", "workers"), ("optimiser", "optimizer")],
)
def test_an_unknown_field_suggests_the_close_one(wrong: str, close: str) -> None:
    with pytest.raises(InputError) as caught:
        Config().with_changes({wrong: 1}, "run.toml: ")
    assert str(caught.value).startswith(f"run.toml: {wrong!r} ")
    assert f"did you mean {close!r}?" in str(caught.value)


def test_an_unknown_field_that_is_close_to_none_lists_them_all() -> None:
    with pytest.raises(InputError) as caught:
        Config().with_changes({"zzz": 1})
    assert all(name in str(caught.value) for name in NAMES)


def test_changes_keep_the_other_fields_and_name_their_source_when_refused() -> None:
    config = Config(steps=7, hidden=(3,)).with_changes({"steps": "9"})
    assert (config.steps, config.hidden) == (9, (3,))
    with pytest.raises(InputError, match=r"^run\.toml: steps is 0"):
        config.with_changes({"steps": 0}, "run.toml: ")


OTHER: dict[str, Any] = {
    "on_nonfinite": "skip",
    "on_write_error": "continue",
    "resources": "GPU=1",
    "step_deadline": 5.0,
    "data": "other",
    "hidden": (3,),
    "activation": "tanh",
    "loss": "mean_squared_error",
    "init": "xavier",
    "init_std": 0.01,
    "dtype": "float32",
    "method": "naive",
    "scheme": "forward",
    "h": "auto",
    "optimizer": "adam",
    "schedule": "cosine",
    "workers": 3,
    "threads_per_worker": 2,
    "address": "auto",
    "clip_norm": 1.0,
}


@pytest.mark.parametrize("name", NAMES)
def test_only_where_it_runs_and_what_is_kept_do_not_decide_the_bits(name: str) -> None:
    default = getattr(Config(), name)
    changed = Config(**{name: OTHER.get(name, default / 2 if isinstance(default, float) and default else 1)})
    if name == "steps":
        changed = Config(steps=5)
    if name == "seed":
        changed = Config(seed=5)
    assert changed != Config()
    free = {"evaluate_every", "checkpoint_every", "keep_checkpoints", "workers", "threads_per_worker", "address"}
    free |= {"on_nonfinite", "on_write_error", "resources", "step_deadline", "wait_for_workers"}
    assert (changed.identity() == Config().identity()) == (name in free)


def test_h_auto_is_finer_for_more_digits_and_coarser_for_higher_orders() -> None:
    def auto(scheme: str, dtype: str) -> float:
        return Config(h="auto", scheme=scheme, dtype=dtype).step_size

    assert auto("forward", "float64") < auto("central", "float64") < auto("central4", "float64")
    assert auto("central", "float64") < auto("central", "float32")
    assert auto("central", "float64") == pytest.approx((2.0**-52) ** (1 / 3))
    assert Config(h="2e-3").step_size == 2e-3


# --- TOML ---------------------------------------------------------------------------

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
# An address goes with workers only.
places = st.tuples(st.just(0), st.none()) | st.tuples(
    st.just("auto") | st.integers(1, 100_000),
    st.none() | st.sampled_from(["auto", "h:1", "[::1]:6379", "ray://h:10001"]),
)
configs = st.builds(
    lambda place, **others: Config(workers=place[0], address=place[1], **others),
    place=places,
    data=st.text(min_size=1),
    hidden=st.lists(st.integers(1, 10**6), max_size=4).map(tuple),
    activation=st.sampled_from(["relu", "leaky_relu:0.25", "quantize:7"]),
    dtype=st.sampled_from(["float64", "float32"]),
    init_std=st.none() | positive,
    h=st.just("auto") | positive,
    steps=st.integers(1, 10**12),
    learning_rate=positive,
    momentum=st.floats(0, 1),
    clip_norm=st.none() | positive,
    seed=st.integers(0, 2**63 - 1),
)


@given(config=configs)
def test_a_configuration_comes_back_from_toml_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.toml"
    path.write_bytes(write_toml(config.to_dict()).encode())
    values = read_toml(path)
    assert values == config.to_dict()
    assert Config().with_changes(values) == config


def test_the_toml_of_a_bad_type_is_refused_by_field(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for line, field in [
        ("steps = 2020-01-01", "steps"),
        ("[learning_rate]\na = 1", "learning_rate"),
        ("h = nan", "h"),
        ("loss = true", "loss"),
    ]:
        path.write_text(line)
        with pytest.raises(InputError, match=f"^{field} is "):
            Config().with_changes(read_toml(path))


@pytest.mark.parametrize(
    "content",
    [
        b"steps = ",
        b"steps 5",
        b"steps = 5\nsteps = 6",
        b"data = '\xff'",
        b"\0",
        b"a = " + b"[" * 100_000,
        b"PK\x03\x04",
    ],
    ids=["no value", "no equals sign", "twice", "not UTF-8", "a zero byte", "too deep", "a zip"],
)
def test_what_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.toml.*not valid TOML"):
        read_toml(tmp_path / "bad.toml")


def test_a_file_that_is_not_there_or_is_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml.*not found"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path)
