"""Explain what boto3 raises: an error of ours, with what to do, or None to try again."""

from __future__ import annotations

import re
from typing import Any

from rlvr_trainer.errors import ConfigError, PlatformError, RLVRError

THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "SlowDown",
    "LimitExceededException",
}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
INVALID = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "AuthFailure",
    "InvalidToken",
    "IncompleteSignature",
    "MissingAuthenticationToken",
}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
NOT_FOUND = {"ResourceNotFound", "ResourceNotFoundException"}
MISSING_JOB = re.compile(r"requested resource not found|could not find", re.I)
ACTIONS = {"s3:ListObjectsV2": "s3:ListBucket"}
"""Request → the right that it needs, where the names differ."""
ACTION = re.compile(r"not authorized to perform: ([\w-]+:\w+)")


class JobMissing(ConfigError):
    """SageMaker has no job, or CloudWatch no log, of this name."""


class NameTaken(ConfigError):
    """A job of this name exists."""


class WrongState(ConfigError):
    """The job is in a state in which the request has no effect."""


def code_of(error: Any) -> str:
    """Return the code of botocore's ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_passing(error: Exception) -> bool:
    """Return True if the same request may succeed in a moment."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return code_of(error) in THROTTLED or status >= 500
    return isinstance(error, ConnectionError | HTTPClientError)


def is_expired(error: Exception) -> bool:
    """Return True if the credentials have expired, which a new session may have renewed."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and code_of(error) in EXPIRED


def explain(action: str, subject: str, error: Exception) -> RLVRError:
    """Return the error to raise for an action (`sagemaker:CreateTrainingJob`) on a subject."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _explain_answer(action, subject, error)
    what = f"{subject}: {action}"
    match type(error).__name__:
        case (
            "NoCredentialsError"
            | "PartialCredentialsError"
            | "ProfileNotFound"
            | "CredentialRetrievalError"
            | "NoAuthTokenError"
        ):
            return ConfigError(
                f"{what}: credentials are missing ({error}); set AWS_PROFILE, AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, or a role"
            )
        case (
            "TokenRetrievalError"
            | "UnauthorizedSSOTokenError"
            | "SSOTokenLoadError"
            | "RefreshWithMFAUnsupportedError"
        ):
            return PlatformError(
                f"{what}: the credentials have expired ({error}); renew them (aws sso login), and "
                "run the same command again"
            )
        case "NoRegionError":
            return ConfigError(
                f"{what}: no region is set; set `region` in SageMaker's settings, or "
                "AWS_DEFAULT_REGION"
            )
        case "ParamValidationError" | "InvalidEndpointURLError" | "UnknownEndpointError":
            return ConfigError(f"{what}: {_one_line(error)}; correct it")
        case "EndpointConnectionError":
            return PlatformError(
                f"{what}: {error}; check the region's name and the network, then run the same "
                "command again"
            )
        case _:
            return PlatformError(
                f"{what}: AWS cannot be reached ({_one_line(error)}); run the same command again"
            )


def _explain_answer(action: str, subject: str, error: Any) -> RLVRError:
    code, message = code_of(error), _one_line(error.response.get("Error", {}).get("Message", ""))
    what = f"{subject}: {action}"
    if code in EXPIRED:
        return PlatformError(
            f"{what}: the credentials have expired ({code}); renew them, and run the same command "
            "again: it finds its job"
        )
    if code in INVALID:
        return ConfigError(f"{what}: the credentials are not valid ({code}); renew them")
    if "iam:PassRole" in message:
        return ConfigError(
            f"{what}: this identity may not pass role_arn to SageMaker ({message}); grant it "
            "iam:PassRole on that role with iam:PassedToService sagemaker.amazonaws.com "
            "(manifests/eks/iam/sagemaker/launcher.json)"
        )
    if code in DENIED:
        denied = ACTION.search(message)
        right = denied[1] if denied else ACTIONS.get(action, action)
        return ConfigError(
            f"{what}: access is denied ({message}); grant this identity {right} "
            "(manifests/eks/iam/sagemaker/launcher.json)"
        )
    if code in NOT_FOUND or (code == "ValidationException" and MISSING_JOB.search(message)):
        return JobMissing(f"{subject} does not exist; `rlvr status` lists the jobs")
    if code == "NoSuchBucket":
        return ConfigError(f"{subject} does not exist; create it in the region of the jobs")
    if code == "ResourceInUse":
        return NameTaken(f"{subject}: the name is taken ({message}); stop the job of that name")
    if code in ("ResourceLimitExceeded", "ResourceLimitExceededException"):
        return ConfigError(
            f"{what}: the account's quota does not suffice ({message}); ask for more in Service "
            "Quotas, or choose another instance_type or instance_count"
        )
    if code in ("ValidationException", "ValidationError"):
        return _explain_refusal(what, message)
    if is_passing(error):
        return PlatformError(f"{what}: {code}: {message}; run the same command again")
    return PlatformError(f"{what}: {code or 'no code'}: {message}; try again later")


def _explain_refusal(what: str, message: str) -> RLVRError:
    said = message.lower()
    if "status" in said and ("stop" in said or "terminal" in said or "rejected" in said):
        return WrongState(f"{what}: {message}")
    if "warm pool" in said or "keepalive" in said:
        return WrongState(f"{what}: {message}")
    hints = {
        "assume": "let role_arn trust sagemaker.amazonaws.com (its trust policy)",
        "could not access model data": "grant role_arn the bucket",
        "region": "use a bucket and an image of the jobs' region",
        "repository": "push the trainer's image to ECR in the jobs' region, and name it in `image`",
        "image": "push the trainer's image to ECR in the jobs' region, and name it in `image`",
        "instance type": "choose another instance_type, or another region",
        "s3": "check the bucket and the rights of role_arn",
    }
    hint = next((hint for word, hint in hints.items() if word in said), "correct the settings")
    return ConfigError(f"{what}: SageMaker refused it ({message}); {hint}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
