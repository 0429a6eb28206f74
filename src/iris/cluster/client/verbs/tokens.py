"""Contains the calls about tokens and about signing in to the page. Most of these calls need the role `admin`."""

from __future__ import annotations

from iris.cluster.client.operations import tokens as operations
from iris.cluster.client.verbs.connection import ClusterVerbs
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
        return self.connection.perform(
            operations.create_token(name, role, ttl_seconds=ttl_seconds, request_id=request_id)
        )

    def list_tokens(self) -> list[cluster_pb2.Controller.Token]:
        """Return the tokens without their secrets, the oldest first.

        Raises:
            PermissionDeniedError: The role of this client is not `admin`.
        """
        return self.connection.perform(operations.list_tokens())

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token. Streams that were opened with the token end.

        Raises:
            NotFoundError: There is no such token.
            PermissionDeniedError: The role of this client is not `admin`.
        """
        self.connection.perform(operations.revoke_token(token_id))

    def create_sign_in_code(self, *, same_user: bool = False) -> cluster_pb2.Controller.CreateSignInCodeResponse:
        """Create a code with which a browser signs in to the cluster's page, once and within five minutes. The browser
        gets the name and the role of this client.

        Args:
            same_user: If the controller is on this machine, accept the code only from programs of this user or of root.
                All users of a machine can see a link on the command line of a browser.

        Raises:
            PermissionDeniedError: The role of this client is not `admin`, `user` or `reader`.
            UnimplementedError: The controller is too old to have a page.
        """
        return self.connection.perform(operations.create_sign_in_code(same_user=same_user))

    def token(self) -> str | None:
        """Return the token that this client uses now, for another program that calls the same cluster."""
        return self.connection.credentials.token()
