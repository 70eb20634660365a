"""What the tests of deployments have in common."""

import os
from pathlib import Path

SECRET = "0123456789abcdef" * 4
IMAGE = "dev.local/kdlib:latest"
CRD = Path(os.environ.get("KDLIB_KNATIVE_CRD") or Path(__file__).parents[3] / "shared/knative/service-crd.yaml")
