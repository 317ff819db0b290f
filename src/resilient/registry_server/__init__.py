"""A small registry that speaks Eureka's protocol, for development, tests and small fleets; in memory, one node.

`resilient registry` runs it; `RegistryServer` runs it inside a test. It needs the extra `server`
(`pip install 'resilient-patterns[server]'`), asked for when a server starts, not when this package is imported.

Where it differs from Netflix's server, on purpose: changes are visible at once (no response cache); a lease ends after
one duration, not two; whatever has ended is removed, without a limit of 15 % per look, and self-preservation is off
unless asked for; time for which the registry itself stood still does not count; an instance that names no id gets its
host name written out as one; an override lasts as long as the lease; a client's mistakes are answered with 400 where
Netflix's server answers 500; nested or empty-keyed metadata is refused, not corrupted; `:` in metadata keys is escaped
in XML; what is too much is refused with 413 or 507. It does not speak peer replication and Amazon's groups.
"""

from resilient.registry_server.server import RegistryServer
from resilient.registry_server.store import RegistryStore

__all__ = ["RegistryServer", "RegistryStore"]
