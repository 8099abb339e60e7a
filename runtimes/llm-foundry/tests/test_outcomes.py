"""Every exception ends in one exit code, by its type."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from finetune_llmfoundry import outcomes
from finetune_llmfoundry.outcomes import Diverged, StopRequested, describe, exit_code, failure_class


def named(full_name, *bases):
    """A type that looks like one of a library that the tests do not install."""
    module, name = full_name.rsplit(".", 1)
    return type(name, bases or (Exception,), {"__module__": module})


def client_error(code, status):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


def with_response(full_name, status):
    error = named(full_name)("no")
    error.response = type("Response", (), {"status_code": status})()
    return error


@pytest.mark.parametrize(("error", "code"), [
    (ValueError("bad"), 10),
    (outcomes.ConfigRefused("x"), 11),
    (outcomes.CheckpointUnusable("x"), 12),
    (outcomes.FolderOwnedByOther("x"), 13),
    (named("llmfoundry.utils.exceptions.NotEnoughDatasetSamplesError", named("llmfoundry.utils.exceptions.UserError"))("x"), 20),
    (client_error("NoSuchKey", 404), 20),
    (client_error("AccessDenied", 403), 30),
    (client_error("403", 403), 30),
    (client_error("InvalidAccessKeyId", 403), 30),
    (NoCredentialsError(), 30),
    (with_response("huggingface_hub.errors.HfHubHTTPError", 401), 30),
    (named("huggingface_hub.errors.GatedRepoError")("x"), 30),
    (named("torch.OutOfMemoryError", RuntimeError)("CUDA out of memory"), 40),
    (RuntimeError("CUDA error: out of memory"), 40),
    (MemoryError(), 41),
    (RuntimeError("DataLoader worker (pid(s) 7) is killed by signal: Killed. "), 41),
    (Diverged("nan"), 50),
    (StopRequested("x", saved=True), 60),
    (StopRequested("x", saved=False), 61),
    (client_error("SlowDown", 503), 70),
    (client_error("InternalError", 500), 70),
    (EndpointConnectionError(endpoint_url="http://x"), 70),
    (ConnectionResetError("x"), 70),
    (TimeoutError("x"), 70),
    (with_response("requests.exceptions.HTTPError", 503), 70),
    (with_response("requests.exceptions.HTTPError", 429), 70),
    (named("torch.distributed.DistBackendError", RuntimeError)("NCCL"), 70),
    (RuntimeError("Caught NoCredentialsError in DataLoader worker process 0.\n…"), 30),
    (RuntimeError("Caught ClientError in DataLoader worker process 0.\nAn error occurred (AccessDenied) when"), 30),
])
def test_each_kind_of_exception_has_its_exit_code(error, code):
    assert exit_code(error) == code


def test_the_root_of_a_chain_counts_before_what_it_led_to():
    try:
        try:
            raise client_error("AccessDenied", 403)
        except ClientError as error:
            raise FileNotFoundError("Object s3://x not found") from error
    except FileNotFoundError as error:
        assert exit_code(error) == 30
        assert describe(error).startswith("ClientError: An error occurred (AccessDenied)")


def test_what_we_raised_ourselves_counts_before_its_cause():
    try:
        try:
            raise ConnectionError("gone")
        except ConnectionError as error:
            raise StopRequested("stopped", saved=False) from error
    except StopRequested as error:
        assert exit_code(error) == 61


def test_a_suppressed_context_does_not_count():
    try:
        try:
            raise ConnectionError("gone")
        except ConnectionError:
            raise ValueError("bad") from None
    except ValueError as error:
        assert exit_code(error) == 10


@pytest.mark.parametrize(("code", "name"), [
    (0, None), (10, "UserError"), (13, "UserError"), (20, "DataError"), (31, "CredentialError"), (41, "OutOfMemory"),
    (52, "Diverged"), (61, "Preempted"), (79, "Infrastructure"), (80, None), (137, None), (1, None),
])
def test_exit_codes_have_the_classes_of_the_contract(code, name):
    assert failure_class(code) == name
