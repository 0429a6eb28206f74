"""Operations about tokens. `TokenVerbs` documents the arguments, results and errors."""

from __future__ import annotations

import secrets
from urllib.parse import quote, urlencode

from iris.arguments import check_flag, check_text, check_whole_number
from iris.cluster.client.operations.steps import Call, Operation
from iris.cluster.names import check_token_name
from iris.rpc import cluster_pb2


def create_token(
    name: str, role: str, *, ttl_seconds: int = 0, request_id: str = ""
) -> Operation[cluster_pb2.Controller.CreateTokenResponse]:
    """Create a token, and return the token with its secret."""
    check_token_name(name)
    request = cluster_pb2.Controller.CreateTokenRequest(
        name=name,
        role=check_text("role", role, empty=False),
        ttl_seconds=check_whole_number("ttl_seconds", ttl_seconds),
        request_id=check_text("request_id", request_id) or secrets.token_hex(16),
    )
    answer: cluster_pb2.Controller.CreateTokenResponse = yield Call("create_token", request)
    return answer


def list_tokens() -> Operation[list[cluster_pb2.Controller.Token]]:
    """Return the tokens without their secrets, the oldest first."""
    answer: cluster_pb2.Controller.ListTokensResponse
    answer = yield Call("list_tokens", cluster_pb2.Controller.ListTokensRequest())
    return list(answer.tokens)


def revoke_token(token_id: str) -> Operation[None]:
    """Revoke a token."""
    request = cluster_pb2.Controller.RevokeTokenRequest(token_id=check_text("token_id", token_id, empty=False))
    yield Call("revoke_token", request)


def create_sign_in_code(*, same_user: bool = False) -> Operation[cluster_pb2.Controller.CreateSignInCodeResponse]:
    """Create a code with which a browser signs in to the cluster's page."""
    answer: cluster_pb2.Controller.CreateSignInCodeResponse
    request = cluster_pb2.Controller.CreateSignInCodeRequest(same_user=check_flag("same_user", same_user))
    answer = yield Call("create_sign_in_code", request)
    return answer


def web_link(address: str, code: str, job_id: str = "", task_index: int | None = None) -> str:
    """Return the link that opens the cluster's page in a browser and signs the browser in. The code is in the fragment
    of the link. Browsers do not send the fragment to any server.

    Args:
        address: The base URL of the controller.
        code: The sign-in code, which `create_sign_in_code` has returned.
        job_id: The job to show; empty for the list of jobs.
        task_index: The task whose log to show; None for the whole job.
    """
    view = f"jobs/{quote(job_id, safe='')}" if job_id else "jobs"
    if task_index is not None:
        view += f"/logs?task={task_index}"
    return f"{address}/#/signin?{urlencode({'code': code, 'next': view})}"
