"""Maps exceptions and ends of processes to exit codes and their failure classes; pure."""

import re

DONE = 0
USER, CONFIG, CHECKPOINT, FOREIGN_FOLDER = 10, 11, 12, 13
DATA = 20
CREDENTIAL = 30
ACCELERATOR_MEMORY, HOST_MEMORY = 40, 41
NOT_FINITE = 50
STOPPED_SAVED, STOPPED = 60, 61
INFRASTRUCTURE = 70

CLASSES = {
    1: "UserError", 2: "DataError", 3: "CredentialError", 4: "OutOfMemory", 5: "Diverged", 6: "Preempted",
    7: "Infrastructure",
}


def failure_class(code):
    """The failure class of an exit code, or None for one that only the pod's status explains."""
    return CLASSES.get(code // 10)


class RunError(Exception):
    """An end of the run whose exit code is known where it is raised."""

    code = USER


class ConfigRefused(RunError):
    code = CONFIG


class CheckpointUnusable(RunError):
    code = CHECKPOINT


class FolderOwnedByOther(RunError):
    code = FOREIGN_FOLDER


class DataUnusable(RunError):
    code = DATA


class CredentialRefused(RunError):
    code = CREDENTIAL


class Diverged(RunError):
    code = NOT_FINITE


class Unavailable(RunError):
    code = INFRASTRUCTURE


class StopRequested(RunError):
    """Raised at the end of a batch once all ranks agreed to stop; `saved` says whether a checkpoint is complete."""

    code = STOPPED_SAVED

    def __init__(self, message, saved):
        super().__init__(message)
        self.saved = saved
        self.code = STOPPED_SAVED if saved else STOPPED


REFUSED_S3 = {
    "401", "403", "AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "Forbidden",
    "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
    "Unauthorized", "UnrecognizedClientException",
}
MISSING_S3 = {"404", "NoSuchKey", "NotFound"}


def by_status(status):
    if status in (401, 403):
        return CREDENTIAL
    if status in (408, 429) or status >= 500:
        return INFRASTRUCTURE
    return None


def by_s3_code(code):
    if code in REFUSED_S3:
        return CREDENTIAL
    if code in MISSING_S3:
        return DATA
    if code == "NoSuchBucket":
        return USER
    if code in ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException"):
        return INFRASTRUCTURE
    return by_status(int(code)) if code.isdigit() else None


def by_client_error(error):
    response = getattr(error, "response", None) or {}
    code = by_s3_code(str(response.get("Error", {}).get("Code", "")))
    return code or by_status(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def by_http_response(error):
    return by_status(getattr(getattr(error, "response", None), "status_code", None) or 0)


def by_service(error):
    """The statuses of Google, Oracle and Azure, by the name that each gives them."""
    status = next((value for name in ("code", "status", "status_code") if isinstance(value := getattr(error, name, None), int)), 0)
    return USER if status == 404 else by_status(status)


def by_mlflow(error):
    try:
        return by_status(int(error.get_http_status_code()))
    except Exception:
        return INFRASTRUCTURE


def by_runtime_error(error):
    text = str(error)
    if "out of memory" in text.lower() and ("cuda" in text.lower() or "hip" in text.lower()):
        return ACCELERATOR_MEMORY
    if "DefaultCPUAllocator" in text or "can't allocate memory" in text:
        return HOST_MEMORY
    if "killed by signal: Killed" in text or "insufficient shared memory" in text:
        return HOST_MEMORY
    # A loader's own exception whose type cannot be built again arrives as text.
    worker = re.search(r"Caught (\w+) in DataLoader worker", text)
    if worker and worker.group(1) == "ClientError":
        code = re.search(r"An error occurred \((\w+)\)|HTTPStatusCode': (\d+)", text)
        return by_s3_code(code.group(1) or code.group(2)) if code else INFRASTRUCTURE
    if worker and worker.group(1) in BY_SHORT_NAME:
        return BY_SHORT_NAME[worker.group(1)]
    return None


# The one table: full name of a type to an exit code, or to a function of the exception. Bases count too.
TABLE = {
    "builtins.MemoryError": HOST_MEMORY,
    "builtins.ConnectionError": INFRASTRUCTURE,
    "builtins.TimeoutError": INFRASTRUCTURE,
    "builtins.RuntimeError": by_runtime_error,
    "socket.gaierror": INFRASTRUCTURE,
    "torch.OutOfMemoryError": ACCELERATOR_MEMORY,
    "torch.cuda.OutOfMemoryError": ACCELERATOR_MEMORY,
    "torch.distributed.DistBackendError": INFRASTRUCTURE,
    "torch.distributed.DistNetworkError": INFRASTRUCTURE,
    "torch.distributed.DistStoreError": INFRASTRUCTURE,
    "botocore.exceptions.ClientError": by_client_error,
    "botocore.exceptions.NoCredentialsError": CREDENTIAL,
    "botocore.exceptions.PartialCredentialsError": CREDENTIAL,
    "botocore.exceptions.CredentialRetrievalError": CREDENTIAL,
    "botocore.exceptions.TokenRetrievalError": CREDENTIAL,
    "botocore.exceptions.ProfileNotFound": CREDENTIAL,
    "botocore.exceptions.ConnectionError": INFRASTRUCTURE,
    "botocore.exceptions.HTTPClientError": INFRASTRUCTURE,
    "botocore.exceptions.IncompleteReadError": INFRASTRUCTURE,
    "boto3.exceptions.RetriesExceededError": INFRASTRUCTURE,
    "urllib3.exceptions.TimeoutError": INFRASTRUCTURE,
    "urllib3.exceptions.ProtocolError": INFRASTRUCTURE,
    "urllib3.exceptions.MaxRetryError": INFRASTRUCTURE,
    "requests.exceptions.ConnectionError": INFRASTRUCTURE,
    "requests.exceptions.Timeout": INFRASTRUCTURE,
    "requests.exceptions.HTTPError": by_http_response,
    "google.api_core.exceptions.GoogleAPICallError": by_service,
    "google.api_core.exceptions.RetryError": INFRASTRUCTURE,
    "google.auth.exceptions.TransportError": INFRASTRUCTURE,
    "google.auth.exceptions.GoogleAuthError": CREDENTIAL,
    "oci.exceptions.ServiceError": by_service,
    "oci.exceptions.ClientError": CREDENTIAL,
    "oci.exceptions.RequestException": INFRASTRUCTURE,
    "databricks.sdk.errors.platform.NotFound": USER,
    "databricks.sdk.errors.platform.PermissionDenied": CREDENTIAL,
    "databricks.sdk.errors.platform.Unauthenticated": CREDENTIAL,
    "databricks.sdk.errors.platform.InternalError": INFRASTRUCTURE,
    "databricks.sdk.errors.platform.TemporarilyUnavailable": INFRASTRUCTURE,
    "databricks.sdk.errors.platform.TooManyRequests": INFRASTRUCTURE,
    "databricks.sdk.errors.platform.DeadlineExceeded": INFRASTRUCTURE,
    "azure.core.exceptions.HttpResponseError": by_service,
    "azure.core.exceptions.ServiceRequestError": INFRASTRUCTURE,
    "azure.core.exceptions.ServiceResponseError": INFRASTRUCTURE,
    "huggingface_hub.errors.GatedRepoError": CREDENTIAL,
    "huggingface_hub.errors.RepositoryNotFoundError": CREDENTIAL,
    "huggingface_hub.errors.LocalTokenNotFoundError": CREDENTIAL,
    "huggingface_hub.errors.RevisionNotFoundError": USER,
    "huggingface_hub.errors.HfHubHTTPError": by_http_response,
    "mlflow.exceptions.MlflowException": by_mlflow,
    "composer.utils.object_store.object_store.ObjectStoreTransientError": INFRASTRUCTURE,
    "omegaconf.errors.OmegaConfBaseException": CONFIG,
    "yaml.error.YAMLError": CONFIG,
    "llmfoundry.utils.exceptions.MissingHuggingFaceURLSplitError": CONFIG,
    "llmfoundry.utils.exceptions.StoragePermissionError": CREDENTIAL,
    "llmfoundry.utils.exceptions.ClusterDoesNotExistError": USER,
    "llmfoundry.utils.exceptions.ClusterInvalidAccessMode": USER,
    "llmfoundry.utils.exceptions.FaultyDataPrepCluster": USER,
    "llmfoundry.utils.exceptions.UCNotEnabledError": USER,
    "llmfoundry.utils.exceptions.DeltaTableNotFoundError": USER,
    "llmfoundry.utils.exceptions.InsufficientPermissionsError": CREDENTIAL,
    "llmfoundry.utils.exceptions.TableDownloadError": INFRASTRUCTURE,
    "grpc.RpcError": INFRASTRUCTURE,
    "pyspark.errors.exceptions.connect.SparkConnectGrpcException": INFRASTRUCTURE,
    "llmfoundry.utils.exceptions.RunTimeoutError": USER,
    "llmfoundry.utils.exceptions.HFCheckpointUploadError": INFRASTRUCTURE,
    "llmfoundry.utils.exceptions.UserError": DATA,
    "llmfoundry.utils.exceptions.NetworkError": INFRASTRUCTURE,
    "llmfoundry.utils.exceptions.InternalError": INFRASTRUCTURE,
}
BY_SHORT_NAME = {
    name.rsplit(".", 1)[1]: code
    for name, code in TABLE.items()
    if isinstance(code, int) and not name.startswith("llmfoundry.")
}


def chain(error):
    """The exception and what led to it, the root first."""
    links = []
    while error is not None and error not in links and len(links) < 32:
        links.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return links[::-1]


def lookup(error):
    for kind in type(error).__mro__:
        code = TABLE.get(f"{kind.__module__}.{kind.__qualname__}")
        if callable(code):
            code = code(error)
        if code is not None:
            return code
    return None


def exit_code(error):
    """The exit code for an exception: what we raised ourselves, else the first link of its chain that the table knows."""
    for link in chain(error):
        if isinstance(link, RunError):
            return link.code
    for link in chain(error):
        code = lookup(link)
        if code is not None:
            return code
    return USER


def describe(error):
    """One text for people: the type and message of the error, and the root of its chain when that is another one."""
    def one(link):
        return f"{type(link).__name__}: {link}".strip().rstrip(":")

    if isinstance(error, RunError):
        return str(error)
    links = chain(error)
    if links[0] is error or str(links[0]) in str(error):
        return one(error)
    return f"{one(links[0])} (then {one(error)})"
