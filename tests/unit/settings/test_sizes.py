import pytest

from airlora.errors import SettingsError
from airlora.settings.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        (" 20kB ", 20_000),
        ("20 KB", 20_000),
        ("1.5MiB", 1_572_864),
        (".5 gib", 2**29),
        ("2GB", 2 * 10**9),
        ("12B", 12),
        ("1e3", 1000),
        ("2.5e3kB", 2_500_000),
        ("1.9", 1),
        ("20.1kB", 20_100),
        ("9007199254740993", 9007199254740992),
    ],
)
def test_sizes_are_read_with_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "kB", "-3", "-0.5kB", "1e400", "nan", "inf", "infinity kB", "3 furlongs", "1.2.3", "5kB more", "1e19", "9EB1"],
)
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="size = .*: allowed is a number of bytes, such as 4096, 20kB or 1.5MiB"):
        parse_size(text)
