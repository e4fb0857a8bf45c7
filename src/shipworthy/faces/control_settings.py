"""Where the control plane finds its project, where it listens, and whom it believes."""

from typing import Literal

import msgspec

from shipworthy.security.binding import Binding, make_tls


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the control plane finds its project, and where it listens."""

    project: str
    host: str = "127.0.0.1"
    port: int = 8090  # 0: any free one
    clock: Literal["wall", "manual"] = "wall"  # manual: time goes on only as it is told (`POST /api/clock`)
    one_time: str | None = None  # signs a browser in, once
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_terminated_upstream: bool = False
    allowed_hosts: tuple[str, ...] = ()
    oidc: str = ""  # file that says which OpenID provider is believed; empty: none

    @property
    def binding(self) -> Binding:
        """Where it listens, and what protects it there.

        Raises:
            UsageError: a certificate without its key, or the like.
        """
        tls = make_tls(self.tls_cert, self.tls_key, self.tls_client_ca)
        return Binding(self.host, tls, self.tls_terminated_upstream, self.allowed_hosts)
