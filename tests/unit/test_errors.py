import inspect

import pytest

from airlora import errors
from airlora.errors import AirloraError, ChannelError


def test_every_error_class_is_an_airlora_error_and_public() -> None:
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), AirloraError) for name in classes)


def test_message_is_one_line() -> None:
    assert str(AirloraError("two\nlines\n  of text")) == "two lines of text"


def test_of_names_setting_value_and_allowed_values() -> None:
    error = ChannelError.of("snr_db", 1e9, "-50 to 100")
    assert isinstance(error, ChannelError)
    assert str(error) == "snr_db = 1000000000.0: allowed is -50 to 100"


@pytest.mark.parametrize("length", [119, 120, 5000])
def test_long_values_are_shortened(length: int) -> None:
    assert len(str(AirloraError.of("x", "a" * length, "less"))) < 160


def test_exit_code_is_2_except_for_network_and_trust_errors() -> None:
    other = {"NetworkError": 3, "TrustError": 4}
    assert {name: getattr(errors, name).exit_code for name in errors.__all__} == {
        name: other.get(name, 2) for name in errors.__all__
    }
