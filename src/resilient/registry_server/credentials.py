"""The user and the password that a registry asks for."""

from __future__ import annotations

from resilient.errors import ConfigError


def checked_auth(auth: object) -> tuple[str, str]:
    """User and password, of which neither is empty.

    Raises:
        ConfigError: when they are not, or the user has a colon, which the header can not say.
    """
    pair = auth if isinstance(auth, tuple) and len(auth) == 2 else ("", "")
    user, password = pair
    if not (isinstance(user, str) and isinstance(password, str) and user and password):
        raise ConfigError("RegistryServer: auth must be a user and a password, neither of them empty", path="auth")
    if ":" in user:
        raise ConfigError("RegistryServer: auth: a user of HTTP basic authentication has no colon", path="auth")
    return user, password
