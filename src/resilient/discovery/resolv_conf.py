"""What the machine's `/etc/resolv.conf` says about names: whom to ask, and where relative ones are looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PATH = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The nameservers' addresses, the domains to search, and how many dots make a name be tried as it is first."""

    nameservers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    dots: int = 1

    @classmethod
    def read(cls) -> ResolvConf:
        """The file's, as resolv.conf(5) describes it; its defaults where there is none."""
        try:
            return cls.parse(PATH.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            return cls()

    @classmethod
    def parse(cls, content: str) -> ResolvConf:
        """Read its lines; what is not understood is passed over, as every resolver does."""
        servers: list[str] = []
        search: tuple[str, ...] = ()
        dots = 1
        for line in content.splitlines():
            key, *values = line.split("#")[0].split(";")[0].split() or [""]
            if key == "nameserver" and values:
                servers.append(values[0].partition("%")[0])
            elif key in {"search", "domain"}:
                search = tuple(value.strip(".") for value in values if value.strip("."))
            elif key == "options":
                for value in values:
                    if value.startswith("ndots:") and value[6:].isdigit():
                        dots = int(value[6:])
        return cls(tuple(servers) or ("127.0.0.1",), search, dots)

    def names(self, name: str) -> tuple[str, ...]:
        """The absolute names that `name` may mean, in the order in which they are tried."""
        if name.endswith("."):
            return (name,)
        searched = tuple(f"{name}.{domain}." for domain in self.search)
        return (f"{name}.", *searched) if name.count(".") >= self.dots else (*searched, f"{name}.")
