"""Which server and token are used, and that a token goes nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from coord import BadCall
from coord.config import URL_DEFAULT, find_server
from coord.session import address


def written(folder: Path, text: str, mode: int = 0o600) -> dict[str, str]:
    """An environment whose config file holds `text`."""
    file = folder / "coord" / "config.toml"
    file.parent.mkdir()
    file.write_text(text)
    file.chmod(mode)
    return {"XDG_CONFIG_HOME": str(folder)}


def test_with_nothing_told_it_is_this_machine(tmp_path: Path) -> None:
    assert find_server(environ={"XDG_CONFIG_HOME": str(tmp_path)}) == (URL_DEFAULT, None, (), None)


def test_what_is_told_goes_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'url = "http://file:1"\ntoken = "from-file"\n')
    assert find_server(environ=file)[:2] == ("http://file:1", "from-file")
    environ = {**file, "COORD_URL": "http://env:1", "COORD_TOKEN": "from-env"}
    assert find_server(environ=environ)[:2] == ("http://env:1", "from-env")
    assert find_server("http://told:1", "told", environ)[:2] == ("http://told:1", "told")


def test_the_files_token_is_not_sent_to_another_server(tmp_path: Path) -> None:
    file = written(tmp_path, 'url = "http://file:1"\ntoken = "secret-text"\n')
    server = find_server("http://other:1", environ=file)
    assert server.token is None
    assert "COORD_TOKEN" in server.warnings[0]
    assert "secret-text" not in server.warnings[0]
    assert find_server("http://file:1/", environ=file).token == "secret-text"


def test_an_authority_is_told_or_the_environments_or_the_files(tmp_path: Path) -> None:
    file = written(tmp_path, 'url = "https://file"\nca = "file.pem"\n')
    assert find_server(environ=file).ca == "file.pem"
    assert find_server("https://file/", "token", file).ca == "file.pem"
    assert find_server(environ={**file, "COORD_CA": "env.pem"}).ca == "env.pem"
    assert find_server(environ={**file, "COORD_CA": "env.pem"}, ca="told.pem").ca == "told.pem"


def test_the_files_authority_is_for_its_server_alone(tmp_path: Path) -> None:
    file = written(tmp_path, 'url = "https://file"\nca = "file.pem"\n')
    assert find_server("https://other", environ=file).ca is None


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    environ = written(tmp_path, 'token = "secret-text"\n', 0o644)
    (warning,) = find_server(environ=environ).warnings
    assert "chmod 600" in warning
    assert "secret-text" not in warning


def test_a_file_without_a_token_may_be_read_by_others(tmp_path: Path) -> None:
    assert find_server(environ=written(tmp_path, 'url = "http://a:1"\n', 0o644)).warnings == ()


@pytest.mark.parametrize(("text", "named"), [
    ("url = 8000\n", "url must be a text"), ('adress = "x"\n', "'adress'"),
    ("token = unquoted-secret\n", "not TOML"), ('url = ""\n', "url must be a text")])
def test_a_wrong_file_is_one_line_without_its_secrets(tmp_path: Path, text: str,
                                                      named: str) -> None:
    with pytest.raises(BadCall, match=named) as caught:
        find_server(environ=written(tmp_path, text))
    assert "unquoted-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_with_a_line_end_is_refused_unshown() -> None:
    with pytest.raises(BadCall, match="token") as caught:
        find_server("http://a:1", "coord_1_s\r\nX: y")
    assert "coord_1_s" not in str(caught.value)


def test_a_servers_repr_holds_no_token() -> None:
    assert "secret" not in repr(find_server("http://a:1", "secret"))


@pytest.mark.parametrize(("url", "expected"), [
    ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"), ("https://HOST", "https://host"),
    ("http://[::1]:8000", "http://[::1]:8000"), ("https://a.b/mail/", "https://a.b/mail")])
def test_an_address(url: str, expected: str) -> None:
    assert address(url).url == expected


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "http://", "http://a:99999",
                                 "http://a?x=1", "http://[::1", "http://user:secret-text@a"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(BadCall) as caught:
        address(url)
    assert "secret-text" not in str(caught.value)


def test_a_token_on_the_way_in_the_clear_is_warned_of() -> None:
    assert find_server("http://10.0.0.1:8000", "t", {}).warnings
    for url in ("https://10.0.0.1", "http://127.0.0.1:8000", "http://localhost:8000",
                "http://[::1]:8000"):
        assert find_server(url, "t", {}).warnings == ()
    without = find_server("http://10.0.0.1:8000", None, {"XDG_CONFIG_HOME": "/nonexistent"})
    assert without.warnings == ()
