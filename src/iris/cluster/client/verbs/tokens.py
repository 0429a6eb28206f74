"""Contains the calls about tokens. Most of these calls need the role `admin`."""

from __future__ import annotations

import secrets

from iris.arguments import check_text, check_whole_number
from iris.cluster.client.verbs.connection import ClusterVerbs
from iris.cluster.names import check_token_name
from iris.rpc import cluster_pb2


class TokenVerbs(ClusterVerbs):
    """Calls about tokens."""

    def create_token(
        self, name: str, role: str, *, ttl_seconds: int = 0, request_id: str = ""
    ) -> cluster_pb2.Controller.CreateTokenResponse:
        """Create a token, and return the token with its secret. No later call returns the secret.

        Args:
            name: The name of the token's owner.
            role: `"admin"`, `"user"`, `"reader"` or `"worker"`.
            ttl_seconds: How many seconds the token is valid. 0: 30 days.
            request_id: A unique id, so that a repeated call does not create a second token. Default: a random id.

        Raises:
            InvalidArgumentError: (a `ValueError`) An argument is invalid. The message names the argument.
            PermissionDeniedError: The role of this client is not `admin`.
        """
        check_token_name(name)
        request = cluster_pb2.Controller.CreateTokenRequest(
            name=name,
            role=check_text("role", role, empty=False),
            ttl_seconds=check_whole_number("ttl_seconds", ttl_seconds),
            request_id=check_text("request_id", request_id) or secrets.token_hex(16),
        )
        return self._connection.call(self._connection.controller.create_token, request)

    def list_tokens(self) -> list[cluster_pb2.Controller.Token]:
        """Return the tokens without their secrets, the oldest first.

        Raises:
            PermissionDeniedError: The role of this client is not `admin`.
        """
        request = cluster_pb2.Controller.ListTokensRequest()
        return list(self._connection.call(self._connection.controller.list_tokens, request).tokens)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token. Streams that were opened with the token end.

        Raises:
            NotFoundError: There is no such token.
            PermissionDeniedError: The role of this client is not `admin`.
        """
        request = cluster_pb2.Controller.RevokeTokenRequest(token_id=check_text("token_id", token_id, empty=False))
        self._connection.call(self._connection.controller.revoke_token, request)

    def token(self) -> str | None:
        """Return the token that this client uses now, for another program that calls the same cluster."""
        return self._connection.credentials.token()
